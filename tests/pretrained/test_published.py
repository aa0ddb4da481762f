"""Published detectors: files of any name and age load, export gives the same bits, and faults are one sentence."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")
pytest.importorskip("timm", reason="the extra 'timm' is not installed")

from safetensors.torch import load_file, save_file

from detr_mini import load
from detr_mini.categories import Categories
from detr_mini.errors import CheckpointError
from detr_mini.models.detr import DETR
from detr_mini.pretrained import hub
from detr_mini.pretrained.checkpoints import averaged_weights, read_checkpoint
from detr_mini.pretrained.coco_categories import COCO, mapped, named
from detr_mini.pretrained.detr_keys import from_library, from_published, to_published
from detr_mini.pretrained.published_detr import write_published
from detr_mini.vision.backbone import resnet
from published_parts import library_detr, library_peer, publish


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((181, 120))


def assert_detects_the_same(folder: Any, picture: Image.Image, expected: dict[str, Tensor]) -> None:
    detector = load(folder)
    found = detector.detect(picture, threshold=0.0, limit=300)
    n = len(expected["scores"])
    assert 5 < n <= len(found)
    torch.testing.assert_close(found.scores[:n], expected["scores"], rtol=0, atol=1e-3)
    # equal scores may change places: each box is held to those of its label and score
    edge = torch.tensor([picture.width, picture.height] * 2)
    boxes = torch.minimum(expected["boxes"].clamp(min=0), edge)
    for box, score, label in zip(boxes, expected["scores"], expected["labels"].tolist(), strict=True):
        same = (found.labels == label) & ((found.scores - score).abs() < 1e-3)
        assert bool(((found.boxes[same] - box).abs().amax(1) < 0.5).any())


@pytest.mark.parametrize("own_resnet", [False, True])
def test_a_folder_of_transformers_runs_in_our_detr_as_in_its_own_pipeline(
    own_resnet: bool, tmp_path: Path, picture: Image.Image
) -> None:
    expected = publish(library_detr(own_resnet), tmp_path)(picture)
    assert_detects_the_same(tmp_path, picture, expected)
    detector = load(tmp_path)
    assert isinstance(detector.model, DETR)
    assert detector.categories == Categories(tuple(range(6)), ("N/A 0", "cat", "dog", "person", "N/A 4", "bike"))
    # names of today in a file of torch, with a name that no DETR has
    weights = {name: t.clone() for name, t in library_detr(own_resnet).state_dict().items()}
    assert any(".o_proj." in name for name in weights)
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert_detects_the_same(tmp_path, picture, expected)
    torch.save({**weights, "model.extra": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"1 unexpected: model\.extra"):
        load(tmp_path)


def test_names_of_older_files_mean_the_same_tensors(tmp_path: Path) -> None:
    model = library_detr()
    model.save_pretrained(tmp_path)
    old, new = load_file(tmp_path / "model.safetensors"), model.state_dict()
    assert any("conv_encoder" in name for name in old) and not any("conv_encoder" in name for name in new)
    one, other = from_library(old), from_library(new)
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_export_to_the_published_names_and_back_gives_the_same_bits(pre_norm: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = resnet(depth=18, weights="none", strides=[32], frozen_stride=4)
    model = DETR(backbone=backbone, num_classes=91, dim=32, heads=1, feedforward=16, encoder_layers=2,
                 decoder_layers=1, queries=5, pre_norm=pre_norm, padding="published")  # fmt: skip
    own = model.state_dict()
    published = to_published(own)
    assert published["transformer.encoder.layers.0.self_attn.in_proj_weight"].shape == (96, 32)
    assert "backbone.0.body.layer1.0.bn1.running_var" in published
    assert not any(".q_proj." in name for name in published)
    back = from_published(published)
    assert set(back) == set(own) and all(torch.equal(back[name], own[name]) for name in own)
    file = tmp_path / "detr-r18-dc5-0123.pth"
    for new in (True, False):  # both formats of torch.save; the published files are in the older
        torch.save({"model": published}, file.with_name("detr-r18.pth"), _use_new_zipfile_serialization=new)
        checkpoint = read_checkpoint(file.with_name("detr-r18.pth"))
        assert checkpoint["config"]["model"]["pre_norm"] is pre_norm
        read = averaged_weights(checkpoint)
        assert set(read) == set(own) and all(torch.equal(read[name], own[name]) for name in own)
    assert Categories.from_dict(checkpoint["categories"]).names[17] == "cat"
    write_published(checkpoint, read, file)
    again = torch.load(file, weights_only=True)["model"]
    assert list(again) == list(published)
    assert all(torch.equal(again[name], published[name]) for name in published)


def test_a_file_with_dc5_in_its_name_is_dilated(tmp_path: Path) -> None:
    backbone = resnet(depth=50, weights="none", strides=[32])
    model = DETR(backbone=backbone, num_classes=3, dim=32, heads=1, feedforward=16, encoder_layers=1, decoder_layers=1)
    published = to_published(model.state_dict())
    for name, dilated in (("detr-r50-dc5-f0fb7ef5.pth", True), ("detr-r50-e632da11.pth", False)):
        torch.save({"model": published}, tmp_path / name)
        config = read_checkpoint(tmp_path / name)["config"]
        assert config["backbone"]["dilation"] is dilated
        assert config["backbone"]["depth"] == 50


PEERS = [
    ("rt_detr_v2", "RTDetrImageProcessor", {"height": 128, "width": 128}),
    ("d_fine", "RTDetrImageProcessor", {"height": 128, "width": 128}),
    ("yolos", "YolosImageProcessor", {"shortest_edge": 100, "longest_edge": 140}),
    ("rf_detr", "RfDetrImageProcessor", {"height": 112, "width": 112}),
    ("conditional_detr", "ConditionalDetrImageProcessor", {"shortest_edge": 100, "longest_edge": 140}),
    ("deformable_detr", "DeformableDetrImageProcessor", {"shortest_edge": 100, "longest_edge": 140}),
    ("detr", "DetrImageProcessor", {"shortest_edge": 100, "longest_edge": 140}),
]


@pytest.mark.parametrize(("kind", "processor", "size"), PEERS)
def test_other_detectors_detect_as_in_their_librarys_pipeline(
    kind: str, processor: str, size: dict[str, int], tmp_path: Path, picture: Image.Image
) -> None:
    expected = publish(library_peer(kind), tmp_path, processor, **size)(picture)
    assert_detects_the_same(tmp_path, picture, expected)
    if kind == "rt_detr_v2":  # and in a file of torch
        weights = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        torch.save(weights, tmp_path / "pytorch_model.bin")
        assert_detects_the_same(tmp_path, picture, expected)


def test_faults_of_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "some.pth"
    torch.save({"model": {"a.weight": torch.zeros(2)}, "args": Namespace(lr=1)}, file)
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace"):
        load(file)
    file.write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="no checkpoint of detr-mini"):
        load(file)
    torch.save({"model": {"transformer.level_embed": torch.zeros(4, 2)}}, file)
    with pytest.raises(CheckpointError, match="they are Deformable DETR's"):
        load(file)
    weights = to_published(from_library(library_detr().state_dict()))
    lacking = {**weights, "bbox_embed.layers.0.bias": torch.zeros(3)}
    del lacking["transformer.decoder.norm.weight"]
    torch.save({"model": lacking}, file)
    with pytest.raises(CheckpointError, match=r"1 missing: transformer\.decoder\.norm\.weight.*bbox_embed\.layers"):
        load(file)
    save_file({"a": torch.zeros(2), "b": torch.zeros(1)}, tmp_path / "some.safetensors")
    with pytest.raises(CheckpointError, match="it holds a, b"):
        load(tmp_path / "some.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds a 'bert'"):
        load(tmp_path)


def test_a_hub_name_without_network_and_copy_says_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="'hf download facebook/detr-resnet-50 --local-dir"):
        load("facebook/detr-resnet-50")


def test_a_hub_name_is_its_files_and_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Image.Image
) -> None:
    snapshot = tmp_path / "0123abcd"
    expected = publish(library_detr(), snapshot)(picture)
    import huggingface_hub

    asked = []

    def download(name: str, file: str, revision: str | None = None) -> str:
        asked.append((name, file, revision))
        return str(snapshot / file)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert_detects_the_same("owner/detr", picture, expected)
    assert read_checkpoint("owner/detr")["published"]["revision"] == "0123abcd"
    assert asked[:2] == [("owner/detr", "config.json", None), ("owner/detr", "model.safetensors", "0123abcd")]


def test_a_missing_path_is_no_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    assert not hub.is_name("outputs/run")
    assert not hub.is_name("other/best.ckpt")
    assert not hub.is_name("shapes_captions")
    assert hub.is_name("PekingU/rtdetr_v2_r18vd")


def test_categories_are_mapped_by_name_and_where_there_are_none_by_id() -> None:
    coco = named([f"LABEL_{k}" for k in range(91)])
    assert coco.names[1] == "person" and coco.names[90] == "toothbrush" and coco.names[12] == "N/A 12"
    eighty = named(list(COCO.values()))
    assert eighty.ids == tuple(COCO)
    found = mapped(coco, {"Person": 7, "zebrafish": 1, "traffic_light": 3})
    assert found.shared == {"Person", "traffic_light"}
    assert found.joint.names[1] == "Person" and found.joint.names[-1] == "zebrafish"
    assert len(found.joint) == 92
    by_id = mapped(named(["LABEL_0", "LABEL_1", "LABEL_2"]), {"cat": 2, "dog": 5})
    assert by_id.shared == {"cat"} and by_id.joint.names == ("LABEL_0", "LABEL_1", "cat", "dog")
