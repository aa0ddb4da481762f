"""State files of torchvision's detectors: a training begins with their ResNet; elsewhere they are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import detection, resnet18
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from detr_mini import load
from detr_mini.config.compose import compose
from detr_mini.errors import CheckpointError, ConfigError
from detr_mini.pretrained.torchvision_detectors import kind_of
from detr_mini.training.build import build
from detr_mini.training.run import train
from training_parts import overrides

KINDS = {
    "fasterrcnn_resnet50_fpn": "Faster R-CNN", "fasterrcnn_resnet50_fpn_v2": "Faster R-CNN",
    "maskrcnn_resnet50_fpn": "Mask R-CNN", "keypointrcnn_resnet50_fpn": "Keypoint R-CNN",
    "retinanet_resnet50_fpn": "RetinaNet", "retinanet_resnet50_fpn_v2": "RetinaNet", "fcos_resnet50_fpn": "FCOS",
    "ssd300_vgg16": "SSD", "ssdlite320_mobilenet_v3_large": "SSD", "fasterrcnn_mobilenet_v3_large_fpn": "Faster R-CNN",
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_known_by_its_names(name: str) -> None:
    with torch.device("meta"):
        model = getattr(detection, name)(weights=None, weights_backbone=None)
    assert kind_of(model.state_dict()) == KINDS[name]
    assert kind_of(model.backbone.state_dict()) is None


def small_retinanet() -> Any:
    torch.manual_seed(0)
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    network = BackboneWithFPN(resnet18(weights=None), layers, [128, 256, 512], 16)
    model = detection.RetinaNet(network, num_classes=3)
    for name, value in model.state_dict().items():
        if "running" in name or (".bn" in name and name.endswith("bias")):
            value.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(small_retinanet().state_dict(), tmp_path / "retinanet_resnet18.pth")
    return tmp_path / "retinanet_resnet18.pth"


@pytest.fixture(scope="module")
def fasterrcnn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    weights = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    path = tmp_path_factory.mktemp("torchvision") / "fasterrcnn_resnet50_fpn.pth"
    torch.save(weights, path)
    return path, weights


def test_a_training_begins_with_the_resnet_and_gives_its_features(
    fasterrcnn: tuple[Path, dict[str, torch.Tensor]], scenes_root: Path
) -> None:
    path, weights = fasterrcnn
    words = [w for w in overrides(scenes_root, f"init={path}", "trainer.max_steps=1") if not w.startswith("backbone")]
    parts = build(compose("train", words))
    own = parts.task.model.state_dict()
    for name, value in weights.items():
        if name.startswith("backbone.body.") and not name.endswith("num_batches_tracked"):
            assert torch.equal(own[name], value), name
    theirs = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    theirs.load_state_dict(weights)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs.backbone.body(images)
        given = parts.task.model.eval().backbone(images)  # type: ignore[attr-defined]
    for level, features in zip(("1", "2", "3"), given, strict=True):
        torch.testing.assert_close(features.tensor, expected[level], rtol=1e-3, atol=1e-4)
    said = "\n".join(parts.data.report.notices)
    assert f"init={path} is a Faster R-CNN of torchvision: its ResNet-50" in said
    assert "left out: backbone.fpn, roi_heads, rpn" in said


def test_a_run_with_it_is_trained_and_goes_on(file: Path, scenes_root: Path, tmp_path: Path) -> None:
    words = [w for w in overrides(scenes_root, f"init={file}", "trainer.max_steps=1", f"run_folder={tmp_path / 'run'}")
             if not w.startswith("backbone")]  # fmt: skip
    run = train(compose("train", words))
    file.unlink()
    train(compose("train", [f"resume={run}", "trainer.max_steps=2"]))
    assert json.loads((run / "metrics.json").read_text())["images"] > 0


def test_another_backbone_and_a_damaged_file_are_one_sentence(file: Path, scenes_root: Path, tmp_path: Path) -> None:
    words = [w for w in overrides(scenes_root, f"init={file}", "trainer.max_steps=1") if not w.startswith("backbone")]
    with pytest.raises(
        ConfigError, match=r"holds a ResNet-18, and backbone=\.\.\. chooses another network; choose ResNet-18"
    ):
        build(compose("train", [*words, "backbone=convnet"]))
    weights = small_retinanet().state_dict()
    del weights["backbone.body.layer1.0.conv1.weight"]
    torch.save(weights, tmp_path / "lacking.pth")
    words[words.index(f"init={file}")] = f"init={tmp_path / 'lacking.pth'}"
    with pytest.raises(CheckpointError, match=r"1 tensors .* body\.layer1\.0\.conv1\.weight"):
        build(compose("train", words))


def test_in_the_place_of_a_checkpoint_it_is_named_with_what_can_be_done(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"a RetinaNet of torchvision, .* ResNet-18: .*init={file} "):
        load(file)
    with torch.device("meta"):
        names = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict()
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "ssd.pth")
    with pytest.raises(CheckpointError, match="a SSD of torchvision on another network than a ResNet of ours"):
        load(tmp_path / "ssd.pth")
