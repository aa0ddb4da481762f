"""Photographs with boxes as batches with captions: new ones each epoch, in files where they are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from detr_mini.captions.datamodule import CaptionData
from detr_mini.captions.training_sources import _pixels
from detr_mini.config.compose import compose
from detr_mini.data.augment import RandomHorizontalFlip, RandomInversion, RandomQuarterTurn, RandomTranspose
from detr_mini.data.samplers import Key
from detr_mini.errors import ConfigError, DataError
from detr_mini.phrases import Caption
from detr_mini.structures import Batch, Target
from detr_mini.text.tokenizers import lowered

PETS = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "ant"}]
BOXES = [
    {"bbox": [4, 20, 20, 16], "category_id": 1}, {"bbox": [70, 10, 24, 20], "category_id": 2},
    {"bbox": [40, 60, 8, 8], "category_id": 3}, {"bbox": [100, 50, 8, 8], "category_id": 3},
    {"bbox": [50, 30, 30, 30], "category_id": 1, "image_id": 2},
    {"bbox": [2, 2, 90, 60], "category_id": 3, "image_id": 2, "iscrowd": 1},
]  # fmt: skip
REFER = {"names": {"ant": ["ant", "emmet"]}, "complete": ["dog", "cat"], "each": 1}


@pytest.fixture
def made(make_coco: Callable[..., Any], tmp_path: Path) -> Callable[..., CaptionData]:
    for split in ("train", "val"):
        make_coco(split, annotations=BOXES, categories=PETS, size=(80, 128))

    def make(**changes: Any) -> CaptionData:
        how = {
            "root": tmp_path, "captions": {"train": "made", "val": "val.json"}, "size": 64, "mean": [0.5] * 3,
            **{name: {"images": name, "annotations": f"annotations/{name}.json"} for name in ("train", "val")},
            "refer": {**REFER, "folder": str(tmp_path / "captions")}, "tokenizer": {"kind": "words", "size": 500},
            "std": [0.25] * 3, "stride": 16, "seed": 0, "batch_size": 2, "captions_per_image": 4,
            "augment": [RandomHorizontalFlip()],
        }  # fmt: skip
        data = CaptionData(**{**how, **changes})
        data.setup("fit")
        return data

    return make


def batches(data: CaptionData, epoch: int) -> list[Batch]:
    loader = data.train_dataloader()
    assert data.train_batches is not None
    data.train_batches.set_epoch(epoch)
    return list(loader)


def test_captions_are_made_after_the_flip_and_new_each_epoch(made: Callable[..., CaptionData]) -> None:
    read, texts, data = 0, set[tuple[str, ...]](), made(captions_per_image=6)
    for epoch in range(8):
        (batch,) = batches(data, epoch)
        assert batch.captions is not None
        texts.add(tuple(caption.text for caption in batch.captions.records))
        for caption, row in zip(batch.captions.records, batch.captions.caption_image.tolist(), strict=True):
            if "left of the" in caption.text and caption.kind == "relation":
                centres = batch.targets[row].boxes[:, 0]
                target, anchor = caption.phrases
                assert (centres[list(target.things)] < centres[anchor.things[0]]).all(), caption
                read += 1
    assert read > 1
    assert len(texts) == 8


def test_of_a_crowd_nothing_is_said_and_places_are_counted_without_it(made: Callable[..., CaptionData]) -> None:
    data = made(captions_per_image=6)
    for epoch in range(4):
        (batch,) = batches(data, epoch)
        assert batch.captions is not None
        for caption, row in zip(batch.captions.records, batch.captions.caption_image.tolist(), strict=True):
            if batch.targets[row].image_id == 2:
                assert "ant" not in caption.text.split() and "ants" not in caption.text.split()
                assert all(thing == 0 for phrase in caption.phrases for thing in phrase.things)


def test_the_file_of_val_is_made_on_the_first_run_and_kept(made: Callable[..., CaptionData], tmp_path: Path) -> None:
    first = made()
    path = tmp_path / "captions" / "val.json"
    content = path.read_bytes()
    again = made(seed=1)
    assert path.read_bytes() == content
    assert any("made" in notice for notice in first.report.notices)
    assert any("are there already" in notice for notice in again.report.notices)
    assert next(len(batch.captions.records) for batch in again.val_dataloader()) > 4


def test_a_file_of_a_read_only_split_is_used_and_never_made(made: Callable[..., CaptionData], tmp_path: Path) -> None:
    refer = {**REFER, "folder": str(tmp_path / "captions"), "read_only": ["val"]}
    why = r"there is no captions file .*; data\.captions\.val=.*/captions/val\.json makes it"
    with pytest.raises(DataError, match=why):
        made(refer=refer)
    assert not (tmp_path / "captions").exists()
    first = made()
    before = (tmp_path / "captions" / "val.json").read_bytes()
    again = made(refer={**refer, "each": 3})
    assert (tmp_path / "captions" / "val.json").read_bytes() == before
    assert sentences(again) == sentences(first)


def sentences(data: CaptionData) -> list[str]:
    return [caption.text for batch in data.val_dataloader() for caption in batch.captions.records]  # type: ignore[union-attr]


def test_captions_that_are_too_long_are_left_out_of_the_file_that_is_made(made: Callable[..., CaptionData]) -> None:
    data = made(tokenizer={"kind": "characters", "size": 400})
    tokenizer, texts = data.tokenizer, sentences(data)
    assert tokenizer is not None
    most = sorted(len(tokenizer.encode(lowered(text)).framed().ids) for text in texts)[len(texts) // 2]
    fitting = [text for text in texts if len(tokenizer.encode(lowered(text)).framed().ids) <= most]
    assert len(fitting) < len(texts)
    data.limit_tokens(most)
    assert sentences(data) == fitting
    what = f"{len(texts) - len(fitting)} of {len(texts)} captions have more than the {most} tokens"
    assert any(what in notice and notice.endswith("are left out") for notice in data.report.notices)


@pytest.mark.parametrize(("names", "kept"), [({"ant": "red ant"}, 2), ({}, 0)])
def test_colours_that_a_noun_names_are_not_changed(
    made: Callable[..., CaptionData], tmp_path: Path, names: dict[str, str], kept: int
) -> None:
    data = made(augment=[RandomInversion(1.0)], refer={**REFER, "names": names, "folder": str(tmp_path / "captions")})
    said = [notice for notice in data.report.notices if "RandomInversion" in notice]
    assert [f"it is left out for {kept} of 2 images" in notice for notice in said] == [True] * bool(kept)


def test_the_tokeniser_knows_every_name(made: Callable[..., CaptionData]) -> None:
    tokenizer = made().tokenizer
    assert tokenizer is not None
    known = tokenizer.encode("emmets dog cat")
    assert len(set(known.ids)) == 3 and all(i > 3 for i in known.ids)


def test_settings_that_do_not_exist_are_refused(made: Callable[..., CaptionData]) -> None:
    with pytest.raises(ConfigError, match=r"data\.refer\.name does not exist; did you mean 'names'"):
        made(refer={"name": {}, "complete": "all"})
    with pytest.raises(ConfigError, match=r"kinds\.same is no kind that boxes decide"):
        made(kinds={"same": 1.0})
    with pytest.raises(ConfigError, match="complete is None"):
        made(refer={})


def test_blood_cells_train_on_captions_of_their_boxes(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    config = compose("train", ["experiment=bccd_captions", f"data.root={shared_data('bccd_voc')}"])
    settings: Any = OmegaConf.to_container(config.data)
    settings = {key: value for key, value in settings.items() if key not in ("_target_", "_convert_", "augment")}
    settings["refer"]["folder"] = str(tmp_path)
    settings |= {"limit_train": 12, "limit_val": 3, "batch_size": 2, "workers": 0, "cache_megabytes": 0}
    data = CaptionData(**settings, mean=[0.5] * 3, std=[0.5] * 3, stride=32, seed=0)
    data.setup("fit")
    assert max(int(n) for n in data.train_set.first.diff()) < config.model.queries
    batch = next(iter(data.train_dataloader()))
    assert batch.captions is not None and len(batch.captions.records) == 16
    assert batch.images.shape[2:] == (256, 320)
    assert {"red", "white", "platelet"} & set(" ".join(c.text.lower() for c in batch.captions.records).split())


@pytest.mark.parametrize("turn", [RandomTranspose(p=1.0), RandomQuarterTurn()])
def test_captions_of_a_turned_photograph_go_by_its_turned_pixels(made: Callable[..., CaptionData], turn: Any) -> None:
    data = made(augment=[turn])
    dataset: Any = data.dataset("train", training=True)
    seen: list[Target] = []

    def kept(index: int, epoch: int, target: Target) -> list[Caption]:
        seen.append(target)
        return []

    dataset.captions = kept
    shapes = set()
    for epoch in range(6):
        dataset[Key(0, epoch)]
        shapes.add(seen[-1].original_size)
        sides = _pixels(seen[-1])[:, 2:]
        for (_, _, width, height), found in zip((box["bbox"] for box in BOXES[:4]), sides.tolist(), strict=True):
            # a photograph that is upright now has boxes that are
            wanted = (width, height) if seen[-1].original_size == (80, 128) else (height, width)
            assert found == pytest.approx(wanted, abs=1e-3)
    assert (128, 80) in shapes and shapes <= {(80, 128), (128, 80)}
