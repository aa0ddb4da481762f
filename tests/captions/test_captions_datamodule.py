"""Captions as batches: many of one image, new each epoch, the same for the same seed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_parts import edited, write_yolo
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.captions.datamodule import CaptionData
from detr_mini.captions.made_dataset import WEIGHTS, ensure_captioned
from detr_mini.config.compose import compose
from detr_mini.data.augment import RandomHorizontalFlip, RandomInversion, RandomScaleCrop
from detr_mini.data.mosaic import Mixup, Mosaic, RandomWindow
from detr_mini.errors import ConfigError, DataError
from detr_mini.structures import Batch
from detr_mini.text.tokenizers import lowered
from detr_mini.training.build import build
from shards_parts import write_shards
from training_parts import SMALL

SPLIT = {name: {"images": name, "annotations": f"annotations/{name}.json"} for name in ("train", "val", "test")}
CAPTIONS = {"train": "made", "val": "annotations/val_captions.json", "test": "annotations/test_captions.json"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captions") / "made"
    ensure_captioned(root, train=12, val=3, test=3, size=64, processes=1)
    return root


def data(root: Path, **changes: Any) -> CaptionData:
    how = {
        "root": root, **SPLIT, "captions": CAPTIONS, "tokenizer": {"kind": "words", "size": 500}, "size": 64,
        "mean": [0.5] * 3, "std": [0.25] * 3, "stride": 16, "seed": 0, "batch_size": 4, "captions_per_image": 5,
        "augment": [RandomHorizontalFlip()],
    }  # fmt: skip
    made = CaptionData(**{**how, **changes})
    made.setup("fit")
    return made


def batches(made: CaptionData, epoch: int = 0) -> list[Batch]:
    loader = made.train_dataloader()
    assert made.train_batches is not None
    made.train_batches.set_epoch(epoch)
    return list(loader)


def texts(made: list[Batch]) -> list[str]:
    return [caption.text for batch in made for caption in batch.captions.records]


@pytest.mark.parametrize("workers", [0, 2])
def test_captions_are_a_function_of_seed_and_epoch(root: Path, workers: int) -> None:
    one, again = batches(data(root)), batches(data(root, workers=workers))
    assert texts(one) == texts(again)
    assert texts(one) != texts(batches(data(root), epoch=1))
    assert texts(one) != texts(batches(data(root, seed=1)))
    assert len(texts(one)) == 12 * 5


def test_shards_have_the_captions_of_the_folder(root: Path, tmp_path: Path) -> None:
    write_shards(root, tmp_path / "shards")
    auto = {"format": "litdata", "train": "auto", "val": "auto", "test": None}
    files = {name: file if file == "made" else str(root / file) for name, file in CAPTIONS.items()}
    packed, plain = data(tmp_path / "shards", **auto, captions=files), data(root)
    (one,), (other,) = packed.val_dataloader(), plain.val_dataloader()
    for mine, theirs in ((batches(packed), batches(plain)), ([one], [other])):
        assert texts(mine) == texts(theirs) and texts(mine)
        assert all(torch.equal(a.images, b.images) for a, b in zip(mine, theirs, strict=True))


def test_captions_of_attributes_need_a_format_that_has_them(tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", {"train": {"a": ["0 0.5 0.5 0.5 0.5"]}, "val": {"b": ["0 0.5 0.5 0.5 0.5"]}})
    auto = {"format": "auto", "train": "auto", "val": "auto", "test": None, "captions": {"train": "made"}}
    with pytest.raises(ConfigError, match=r"captions\.train=made needs objects with attributes.* yolo .*data refer"):
        data(tmp_path / "yolo", **auto)


def test_left_stays_left_in_an_image_that_was_flipped(root: Path) -> None:
    read, made = 0, data(root, kinds={"relation": 50.0})
    for epoch in range(12):
        for batch in batches(made, epoch):
            for caption, row in zip(batch.captions.records, batch.captions.caption_image.tolist(), strict=True):
                if " left of the " not in caption.text or len(caption.phrases) != 2 or caption.kind != "relation":
                    continue
                centres = batch.targets[row].boxes[:, 0]
                target, anchor = caption.phrases
                assert (centres[list(target.things)] < centres[anchor.things[0]]).all()
                read += 1
    assert read > 5


def test_training_knows_the_attributes_of_each_thing_that_a_caption_asks_for(root: Path) -> None:
    made, read = data(root, kinds={"attribute": 9.0}), 0
    for batch in batches(made):
        assert batch.captions.attributes.shape == (len(batch), batch.packed.boxes.shape[1], len(made.attributes))
        assert (batch.captions.attributes.sum(-1) == 4 * batch.packed.valid).all()
        for caption, row in zip(batch.captions.records, batch.captions.caption_image.tolist(), strict=True):
            for phrase in caption.phrases if caption.kind == "attribute" else ():
                words = [caption.text[a:b] for a, b in phrase.spans]
                known = {word for word in " ".join(words).split() if word in made.attributes}
                for thing in phrase.things:
                    names = [
                        n
                        for n, true in zip(made.attributes, batch.captions.attributes[row, thing], strict=True)
                        if true
                    ]
                    assert known <= set(names)
                    read += len(known)
    assert read > 3


def test_val_has_the_files_captions_whole(root: Path) -> None:
    (batch,) = data(root).val_dataloader()
    written = json.loads((root / "annotations/val_captions.json").read_text())
    assert sorted(texts([batch])) == sorted(image["caption"] for image in written["images"])
    boxes = cxcywh_to_xyxy(batch.targets[0].boxes) * 64
    first = written["annotations"][0]
    place = batch.captions.records[0].phrases[0].things[0]
    x, y, w, h = first["bbox"]
    assert boxes[place].tolist() == pytest.approx([x, y, x + w, y + h], abs=1e-3)


def test_captions_of_a_file_are_drawn_for_training(root: Path) -> None:
    files = {"train": "annotations/val_captions.json"}
    made = data(root, train=SPLIT["val"], val=None, test=None, captions=files, augment=[])
    counts = torch.bincount(batches(made)[0].captions.caption_image)
    assert counts.tolist() == [5, 5, 5]


def test_it_is_told_that_flips_which_make_sentences_of_a_file_false_are_left_out(root: Path) -> None:
    files = {"train": "annotations/val_captions.json"}
    only = {"train": SPLIT["val"], "val": None, "test": None, "captions": files}
    told = [notice for notice in data(root, **only).report.notices if "name a side" in notice]
    assert told and "holds RandomHorizontalFlip: it is left out for" in told[0]
    assert not [notice for notice in data(root, **only, augment=[]).report.notices if "name a side" in notice]
    assert not [notice for notice in data(root).report.notices if "name a side" in notice]


def test_colours_that_captions_of_attributes_name_are_not_changed(root: Path) -> None:
    inverted, plain = data(root, augment=[RandomInversion(1.0)]), data(root, augment=[])
    assert any("RandomInversion: it is left out for 12 of 12 images" in notice for notice in inverted.report.notices)
    for one, other in zip(batches(inverted), batches(plain), strict=True):
        assert one.images.equal(other.images)
        assert texts([one]) == texts([other])


def captions_of_test(root: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> dict[str, str]:
    """The setting `captions` with a changed file of test."""
    shutil.copy(root / CAPTIONS["test"], folder / "captions.json")
    return {**CAPTIONS, "test": str(edited(folder / "captions.json", change))}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content["annotations"][0].update(tokens_positive=[[0, 999]]), "does not lie in"),
        (lambda content: content["annotations"][0].update(image_id=-5), "belongs to no record"),
        (lambda content: content.pop("images"), "has no list 'images'"),
    ],
    ids=range(3),
)
def test_what_is_wrong_with_the_captions_of_test_is_found_before_the_training(
    root: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], why: str
) -> None:
    captions = captions_of_test(root, tmp_path, change)
    with pytest.raises(DataError, match=rf"^test: .*{why}.*; data\.captions\.test=null trains without these captions"):
        data(root, captions=captions)
    Path(captions["test"]).unlink()
    with pytest.raises(DataError, match=r"^test: there is no annotation file .*data\.captions\.test=null"):
        data(root, captions=captions)
    assert set(data(root, captions={**captions, "test": None}).sentences) == {"train", "val"}


def test_a_caption_of_test_that_is_too_long_is_found_before_the_training(root: Path, tmp_path: Path) -> None:
    def lengthen(content: dict[str, Any]) -> None:
        content["images"][0]["caption"] += " and so on" * 40

    made = data(root, captions=captions_of_test(root, tmp_path, lengthen))
    with pytest.raises(DataError, match=r"captions\.json: 1 of \d+ captions have more than the 100 tokens"):
        made.limit_tokens(100)


def test_captions_of_test_that_were_read_before_the_training_are_those_that_are_measured(root: Path) -> None:
    made = data(root)
    before = made.sentences["test"]
    made.setup("test")
    assert made.sentences["test"] is before
    (batch,) = made.test_dataloader()
    written = json.loads((root / CAPTIONS["test"]).read_text())
    assert sorted(texts([batch])) == sorted(image["caption"] for image in written["images"])


def test_captions_about_images_that_a_split_lacks_are_counted(root: Path, tmp_path: Path) -> None:
    def add(content: dict[str, Any]) -> None:
        content["images"].append({**content["images"][0], "id": 10**6, "file_name": "elsewhere.png"})

    made = data(root, captions=captions_of_test(root, tmp_path, add))
    counted = re.compile(r"1 of \d+ captions in .*captions\.json are about images that test lacks")
    assert any(map(counted.fullmatch, made.report.notices))


@pytest.mark.parametrize("share", [0, 0.4])
def test_made_captions_have_at_most_the_tokens_that_the_model_takes(root: Path, share: float) -> None:
    how = {"tokenizer": {"kind": "characters", "size": 500}, "captions": {"train": "made"}, "categories_share": share}
    made = data(root, **how)
    assert made.tokenizer is not None
    lengths = sorted(len(made.tokenizer.encode(lowered(text)).framed().ids) for text in texts(batches(made)))
    most = lengths[len(lengths) // 2]
    assert most < lengths[-1]
    made.limit_tokens(most)
    short = texts(batches(made))
    assert max(len(made.tokenizer.encode(lowered(text)).framed().ids) for text in short) <= most
    assert len(short) > 12


def test_a_limit_that_no_caption_reaches_changes_none(root: Path) -> None:
    made = data(root, categories_share=0.4)
    before = texts(batches(made))
    made.limit_tokens(256)
    assert texts(batches(made)) == before


def test_a_limit_that_every_made_caption_exceeds_is_refused(root: Path) -> None:
    made = data(root, tokenizer={"kind": "characters", "size": 500}, captions={"train": "made"}, captions_per_image=1)
    with pytest.raises(DataError, match=r"no caption that is made for train has at most the 5 tokens"):
        made.limit_tokens(5)


def test_every_caption_of_a_file_gives_its_words_to_the_vocabulary(root: Path) -> None:
    files = {"train": "annotations/val_captions.json"}
    made = data(root, train=SPLIT["val"], val=None, test=None, captions=files, augment=[], captions_per_image=1)
    written = json.loads((root / "annotations/val_captions.json").read_text())
    known: Any = made.tokenizer
    assert len(written["images"]) > 3 * 5
    assert not [word for image in written["images"] for word in known.unknown(lowered(image["caption"]))]


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        ({"chain": None}, r"kinds\.chain is None; it must be a number of at least 0"),
        ({"chain": "often"}, r"kinds\.chain is 'often'"),
        ({"chain": -1.0}, r"kinds\.chain is -1\.0"),
        ({"chain": float("nan")}, r"kinds\.chain is nan"),
        (dict.fromkeys(WEIGHTS, 0), "kinds leaves every kind of caption out"),
    ],
    ids=range(5),
)
def test_weights_of_kinds_that_are_none_are_refused(root: Path, kinds: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        data(root, kinds=kinds)


@pytest.mark.parametrize("looks", [{"occluded": False}, {"rotation": 0.0}, {}, None, [1], "red"])
def test_attributes_of_another_tool_are_none_of_made_scenes(root: Path, looks: Any) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["attributes"] = looks

    shutil.copy(root / "annotations/train.json", root / "annotations/other.json")
    edited(root / "annotations/other.json", change)
    with pytest.raises(DataError, match=r"without attributes of made scenes \(shape, color, size, texture\)"):
        data(root, train={"images": "train", "annotations": "annotations/other.json"})


@pytest.mark.parametrize("kind", ["order", "attribute", "list", "absent"])
def test_images_with_one_object_or_none_have_fewer_captions(root: Path, tmp_path: Path, kind: str) -> None:
    few = tmp_path / "few"
    shutil.copytree(root, few)

    def remove(content: dict[str, Any]) -> None:
        own = [annotation for annotation in content["annotations"] if annotation["image_id"] == 2][:1]
        content["annotations"] = [*own, *(a for a in content["annotations"] if a["image_id"] > 2)]

    edited(few / "annotations/train.json", remove)
    made = data(few, kinds={**dict.fromkeys(WEIGHTS, 0), kind: 1}, batch_size=12, captions={"train": "made"})
    (batch,) = batches(made)
    images = [batch.image_ids[row] for row in batch.captions.caption_image.tolist()]
    assert 1 not in images and set(images) & set(range(3, 13))
    assert kind not in ("order", "list") or 2 not in images


def test_settings_that_make_no_sense_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.kinds\.relations does not exist; did you mean 'relation'"):
        data(root, kinds={"relations": 1.0})
    with pytest.raises(ConfigError, match="tokeniser 'word' does not exist; did you mean 'words'"):
        data(root, tokenizer={"kind": "word", "size": 10})
    with pytest.raises(ConfigError, match=r"captions_per_image is 0"):
        data(root, captions_per_image=0)
    with pytest.raises(DataError, match="no captions to train on"):
        data(root, captions={"train": None, "val": None})
    content = json.loads((root / "annotations/train.json").read_text())
    for annotation in content["annotations"]:
        annotation.pop("attributes")
    (root / "annotations/plain.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="without attributes"):
        data(root, train={"images": "train", "annotations": "annotations/plain.json"})


@pytest.mark.parametrize(
    "transform", [Mosaic(), Mixup(), RandomWindow(), RandomScaleCrop()], ids=lambda t: type(t).__name__
)
@pytest.mark.parametrize("place", ["augment", "augment_strong"])
def test_what_adds_things_or_cuts_them_off_is_refused_beside_sentences(root: Path, transform: Any, place: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"data\.augment holds {type(transform).__name__}, .* no longer be true; leave"
    ):
        data(root, **{place: [transform]})


def test_names_of_categories_stay_true_whatever_is_cut_or_added(root: Path) -> None:
    captions = {"train": "categories", "val": None, "test": None}
    made = data(root, captions=captions, augment_strong=[Mosaic(p=1), RandomScaleCrop(2, 3)])
    assert made._strong()
    for batch in batches(made):
        assert batch.captions is not None and batch.captions.token_map is not None
        assert batch.captions.token_map.shape[1] == batch.packed.boxes.shape[1]
    made.follow(lambda: 1.0, lambda batches: 1.0)
    assert not made._strong()


def test_an_image_that_cannot_be_read_has_no_captions_where_it_may_be_skipped(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(root, broken)
    file = sorted((broken / "train").glob("*.png"))[2]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + b"\0" * 40 + content[len(content) // 2 + 40 :])
    with pytest.raises(DataError, match=file.name):
        batches(data(broken))
    with pytest.warns(UserWarning, match="empty picture"):
        made = batches(data(broken, on_bad_image="skip"))
    assert len(texts(made)) == 11 * 5
    for batch in made:
        for row, target in enumerate(batch.targets):
            assert bool(len(target.labels)) == bool((batch.captions.caption_image == row).any())


def test_what_is_measured_needs_no_captions_to_learn_words_from(root: Path) -> None:
    measured = CaptionData(
        root=root, **SPLIT, captions=CAPTIONS, tokenizer={"kind": "words", "size": 500}, size=64, mean=[0.5] * 3,
        std=[0.25] * 3, stride=16, seed=0, batch_size=4,
    )  # fmt: skip
    trained = data(root)
    measured.categories = trained.categories
    measured.setup("test")
    assert set(measured.sets) == {"test"}
    assert measured.tokenizer is None


def test_a_run_that_goes_on_keeps_its_tokeniser(root: Path) -> None:
    words = ["experiment=shapes_captions", "data.make=null", f"data.root={root}", "data.size=64", "trainer.max_steps=1",
             "trainer.max_minutes=null", "data.batch_size=4", *SMALL]  # fmt: skip
    config = compose("train", words)
    first = build(config)
    state = first.task.metadata["tokeniser"]
    permuted = {**state, "words": state["words"][::-1]}  # as other captions would have trained it
    again = build(config, {"tokeniser": permuted})
    assert again.data.tokenizer is not None and again.data.tokenizer.state() == permuted
    assert again.task.metadata["tokeniser"] == permuted
    one, other = (next(iter(parts.data.train_dataloader())).captions for parts in (first, again))
    assert one is not None and other is not None
    assert [c.text for c in one.records] == [c.text for c in other.records]
    assert not one.token_ids.equal(other.token_ids)
