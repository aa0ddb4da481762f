"""Published weights of another library: heads go over by name, and what does not fit is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")

from detr_mini.errors import CheckpointError, ConfigError
from detr_mini.inference.detector import from_checkpoint
from detr_mini.models.build import build_model
from detr_mini.peers.detector import HFDetector, OwnBackbone
from detr_mini.peers.kinds import build_library, find, make_config
from detr_mini.pretrained.transfer import Start, carry
from detr_mini.structures import Categories
from peer_parts import BACKBONE, MODEL, SMALL, config_of

PUBLISHED = ("cat", "traffic_light", "N/A", "Person")
NAMES = ("person", "bolt", "traffic light")
SQUARE = {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
          "size": {"height": 480, "width": 480}}  # fmt: skip


def publish(folder: Path, kind: str, images: dict[str, Any] | None = None, **settings: Any) -> dict[str, Tensor]:
    """A small detector of four categories as its library's users share it; its weights."""
    torch.manual_seed(1)
    config = make_config(find(kind), {**SMALL[kind], **settings}, 6, len(PUBLISHED))
    config.id2label = dict(enumerate(PUBLISHED))
    library = build_library(config)
    with torch.no_grad():
        for name, parameter in library.named_parameters():
            if "embed" in name or "head" in name or "classifier" in name:  # else the rows are much alike
                parameter.add_(torch.randn_like(parameter))
    library.save_pretrained(folder)  # type: ignore[operator]
    if images is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return {name: value.clone() for name, value in library.state_dict().items()}


def from_folder(folder: Path, **more: Any) -> HFDetector:
    model = build_model({**MODEL, "name": str(folder), **more}, {**BACKBONE, "name": str(folder)}, len(NAMES))
    assert isinstance(model, HFDetector)
    return model


@pytest.mark.parametrize("kind", ["detr", "rt_detr_v2", "d_fine", "lw_detr", "yolos", "deformable_detr"])
def test_rows_of_heads_go_over_by_name_and_all_else_as_it_is(kind: str, tmp_path: Path) -> None:
    published = publish(tmp_path, kind)
    model = from_folder(tmp_path)
    (said,) = model.start(NAMES)
    assert f"weights of {tmp_path} ({kind}, 4 categories)" in said
    assert "for 2 of 3 categories (person, traffic light); new: 1 (bolt)" in said
    rows = 0
    for name, value in model.library.state_dict().items():
        if value.shape == published[name].shape:
            assert torch.equal(value, published[name]), name
            continue
        rows += 1
        assert torch.equal(value[0], published[name][3])
        assert torch.equal(value[2], published[name][1])
        assert torch.equal(value[3:], published[name][4:])  # "no object", and the padding of the denoising table
    assert rows >= 2


def test_layers_that_the_weights_have_apart_stay_apart(tmp_path: Path) -> None:
    folder, settings = tmp_path / "weights", {**SMALL["deformable_detr"], "with_box_refine": True}
    config = make_config(find("deformable_detr"), {**settings, "tie_word_embeddings": False}, 6, len(PUBLISHED))
    library: Any = build_library(config)
    library.model.decoder.bbox_embed.load_state_dict(library.bbox_embed.state_dict())
    library.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    del written["tie_word_embeddings"]  # weights from before the library tied heads say nothing of it
    (folder / "config.json").write_text(json.dumps(written))
    model = from_folder(folder)
    model.start(NAMES)
    ours: Any = model.library
    first, second = ([layers[i].layers[0].weight for layers in (ours.bbox_embed, ours.model.decoder.bbox_embed)]
                     for i in (0, 1))  # fmt: skip
    assert first[0] is first[1]
    assert second[0] is second[1]
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], library.bbox_embed[0].layers[0].weight)
    config = model.settled({"model": {**MODEL, "name": str(folder)}, "backbone": {**BACKBONE, "name": str(folder)}})
    again = build_model(config["model"], config["backbone"], len(NAMES))
    again.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.equal(again.eval()(image).boxes, model.eval()(image).boxes)


def test_images_are_normalised_as_the_weights_say(tmp_path: Path) -> None:
    publish(tmp_path / "said", "rt_detr_v2", SQUARE)
    publish(tmp_path / "silent", "rt_detr_v2")
    said, silent = (OwnBackbone(name=str(tmp_path / name)) for name in ("said", "silent"))
    assert (said.mean, said.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (silent.mean, silent.std) == ((0.0,) * 3, (1.0,) * 3)
    assert "their images were of height 480, width 480" in from_folder(tmp_path / "said").start(NAMES)[0]


def test_a_settled_model_needs_the_folder_no_more(tmp_path: Path) -> None:
    publish(tmp_path / "weights", "rt_detr_v2", SQUARE)
    model = from_folder(tmp_path / "weights")
    model.start(NAMES)
    section = {**MODEL, "name": str(tmp_path / "weights"), "queries": None, "config": None}
    config = model.settled({"model": section, "backbone": {**BACKBONE, "name": str(tmp_path / "weights")}})
    (tmp_path / "weights").rename(tmp_path / "gone")
    again = build_model(config["model"], config["backbone"], len(NAMES))
    again.load_state_dict(model.state_dict())
    assert str(tmp_path) not in json.dumps(config)


def test_other_queries_than_the_weights_have_are_refused_where_they_are_weights(tmp_path: Path) -> None:
    publish(tmp_path / "a", "detr")
    publish(tmp_path / "b", "rt_detr_v2")
    with pytest.raises(CheckpointError, match=r"has shape \[6, 32\], with model.config and model.queries .* \[4, 32\]"):
        from_folder(tmp_path / "a", queries=4).start(NAMES)
    model = from_folder(tmp_path / "b", queries=4)  # selected from the image
    model.start(NAMES)
    assert model.eval()(torch.randn(1, 3, 64, 64)).boxes.shape[1] == 4


def test_a_folder_without_a_detectors_weights_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty holds no config.json that can be read"):
        find(str(tmp_path / "empty"))
    publish(tmp_path / "other", "detr")
    config = tmp_path / "other" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "vit"}))
    with pytest.raises(CheckpointError, match=r"holds a 'vit', which is no detector that transformers can train"):
        find(str(tmp_path / "other"))


def test_files_that_may_hold_code_are_never_read(tmp_path: Path) -> None:
    weights = publish(tmp_path, "detr")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"cannot be read .*model.safetensors is needed, and no other is read"):
        from_folder(tmp_path).start(NAMES)


def test_damaged_and_partial_weights_are_refused(tmp_path: Path) -> None:
    publish(tmp_path, "detr")
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"the weights of .* cannot be read"):
        from_folder(tmp_path).start(NAMES)
    from safetensors.torch import load, save

    tensors = load(whole)
    file.write_bytes(save({k: v for k, v in tensors.items() if "decoder" not in k}, {"format": "pt"}))
    with pytest.raises(CheckpointError, match=r"does not hold a whole detr: \d+ tensors are missing, such as"):
        from_folder(tmp_path).start(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["detr", "rt_detr_v2"])
def test_a_peer_that_was_trained_begins_another_of_other_categories(kind: str) -> None:
    trained, new = (build_model(config_of(kind), {**BACKBONE, "name": kind}, n) for n in (3, 2))
    checkpoint = {
        "state_dict": {f"model.{name}": value for name, value in trained.state_dict().items()},
        "categories": Categories((1, 2, 3), ("bolt", "nut", "washer")).to_dict(),
        "config": {"model": config_of(kind)},
    }
    ours = Start({"model": config_of(kind)}, Categories((1, 2), ("screw", "nut")))
    (said,) = carry(new, checkpoint, "outputs/a", ours)
    assert "1 of 2 categories go on with its rows: 'nut'; new rows: 'screw'" in said
    before, after = trained.state_dict(), new.state_dict()
    assert isinstance(new, HFDetector)
    for name in new.category_rows:
        assert torch.equal(after[name][1], before[name][1])
        assert torch.equal(after[name][2:], before[name][3:])
    assert all(torch.equal(after[name], before[name]) for name in after if name not in new.category_rows)


def test_a_checkpoint_that_asks_for_weights_elsewhere_is_refused() -> None:
    checkpoint = {
        "categories": Categories((1,), ("bolt",)).to_dict(),
        "config": {"model": {**MODEL, "name": "someone/else"}, "backbone": {**BACKBONE, "name": "detr"}},
    }
    with pytest.raises(CheckpointError, match=r"names 'someone/else', which would have to be loaded from elsewhere"):
        from_checkpoint(checkpoint, "a.ckpt")


def test_published_weights_keep_their_backbone(tmp_path: Path) -> None:
    publish(tmp_path, "rt_detr_v2")
    backbone = {"_target_": "detr_mini.vision.efficientnet_lite0", "weights": "none"}
    with pytest.raises(ConfigError, match=r"come with a backbone of their own; say backbone=own"):
        build_model({**MODEL, "name": str(tmp_path)}, backbone, 3)
