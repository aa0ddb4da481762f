"""Captions in files: what is written comes back; what points at nothing is refused, with the place that was meant."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detr_mini.captions.captions_of_split import read_captions
from detr_mini.captions.made_dataset import captions_of_all_kinds, ensure_captioned
from detr_mini.captions.mdetr_format import caption_faults, caption_records, checked_spans
from detr_mini.captions.scenes import SPLITS, draw_items
from detr_mini.errors import DataError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.split import CocoSet
from detr_mini.phrases import Caption

CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 2, "name": "sofa"}]
TEXT = "a dog beside the sofa"


def instances(folder: Path) -> CocoSet:
    (folder / "images").mkdir()
    Image.new("RGB", (100, 80)).save(folder / "images" / "a.png")
    content = {
        "images": [{"id": 5, "file_name": "a.png", "width": 100, "height": 80}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 1, "bbox": [0, 0, 90, 70], "iscrowd": 1},
            {"id": 2, "image_id": 5, "category_id": 1, "bbox": [1, 2, 30, 40]},
            {"id": 3, "image_id": 5, "category_id": 2, "bbox": [50, 2, 30, 40]},
        ],
        "categories": CATEGORIES,
    }
    (folder / "all.json").write_text(json.dumps(content))
    return read_coco(folder / "all.json", folder / "images")


def grounded(folder: Path, *annotations: dict[str, Any], **record: Any) -> Path:
    image = {"id": 1, "file_name": "a.png", "width": 100, "height": 80, "caption": TEXT, **record}
    content = {
        "images": [image],
        "annotations": [{"image_id": 1, "category_id": 1, "iscrowd": 0, **a} for a in annotations],
        "categories": CATEGORIES,
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return folder / "captions.json"


DOG = {"bbox": [1, 2, 30, 40], "tokens_positive": [[2, 5]]}
SOFA = {"bbox": [50.2, 2, 30, 40], "tokens_positive": [[17, 21]], "asked": False}


def test_a_files_captions_are_tied_to_the_images_own_boxes(tmp_path: Path) -> None:
    found = read_captions(grounded(tmp_path, DOG, SOFA, kind="relation"), instances(tmp_path))
    (caption,) = found[5]
    assert caption.text == TEXT
    assert [(p.spans, p.things, p.asked) for p in caption.phrases] == [
        (((2, 5),), (0,), True),  # places are counted without the crowd region
        (((17, 21),), (1,), False),
    ]


def test_a_phrase_may_name_several_boxes_or_none(tmp_path: Path) -> None:
    absent = [{"spans": [[17, 21]], "asked": True}]
    path = grounded(tmp_path, DOG, {**DOG, "bbox": [50, 2, 30, 40]}, absent=absent)
    (caption,) = read_captions(path, instances(tmp_path))[5]
    assert [phrase.things for phrase in caption.phrases] == [(0, 1), ()]


@pytest.mark.parametrize("span", [[18, 22], [18, 21], [17, 22], [16, 21], [17, 20]])
def test_G_01_a_span_that_cuts_a_word_or_the_caption_names_the_likely_one(tmp_path: Path, span: list[int]) -> None:
    path = grounded(tmp_path, DOG, {**SOFA, "tokens_positive": [span]})
    with pytest.raises(DataError, match=r"\[17, 21\], 'sofa', may be meant") as error:
        read_captions(path, instances(tmp_path))
    assert repr(TEXT[span[0] : span[1]]) in str(error.value)


@pytest.mark.parametrize(
    ("spans", "why"),
    [([[30, 40]], "does not lie in"), ([[5, 5]], "does not lie in"), ([[-3, 1]], "does not lie in"),
     ([], "must be a list"), (None, "must be a list"), ([[1]], "no pair"), ([["a", 3]], "no pair"),
     ([3, 4], "no pair")],
)  # fmt: skip
def test_spans_that_are_none_are_refused(tmp_path: Path, spans: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        checked_spans({"id": 1, "caption": TEXT}, spans, tmp_path / "captions.json")


def test_a_span_in_the_middle_of_a_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cuts a word"):
        checked_spans({"id": 1, "caption": "un cafe\u0301 noir"}, [[3, 7]], tmp_path)


@pytest.mark.parametrize(
    ("annotations", "record", "why"),
    [
        ((DOG, {**SOFA, "tokens_positive": [[2, 5]]}), {}, "two phrases overlap at 'dog'"),
        ((DOG,), {"caption": "  "}, "has no caption"),
        ((), {}, "speaks of no box"),
        (
            ({**DOG, "bbox": [9, 9, 9, 9]},),
            {},
            r"speaks of the box \[9, 9, 9, 9\], which is not among the image's boxes",
        ),
        (({**DOG, "image_id": 3},), {}, "annotation number 1 .* belongs to no record"),
        (({**DOG, "bbox": None},), {}, "annotation number 1 .* has the bbox None"),
        ((DOG,), {"id": None}, "has 1 of 1 records without an id"),
    ],
)
def test_records_that_cannot_be_used_are_refused(
    tmp_path: Path, annotations: tuple[dict[str, Any], ...], record: dict[str, Any], why: str
) -> None:
    with pytest.raises(DataError, match=why):
        read_captions(grounded(tmp_path, *annotations, **record), instances(tmp_path))


def test_two_records_of_one_id_are_refused(tmp_path: Path) -> None:
    path = grounded(tmp_path, DOG)
    content = json.loads(path.read_text())
    content["images"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has 2 records with the id 1; give each caption's record an id of its own"):
        read_captions(path, instances(tmp_path))


def test_captions_written_and_read_are_the_same(tmp_path: Path) -> None:
    ensure_captioned(tmp_path / "made", train=2, val=4, test=4, size=64, processes=1)
    for split in SPLITS[1:]:
        coco = read_coco(tmp_path / "made/annotations" / f"{split}.json", tmp_path / "made" / split, split=split)
        found = read_captions(tmp_path / "made/annotations" / f"{split}_captions.json", coco)
        for index, image_id in enumerate(coco.image_ids):
            items = draw_items(0, split, index, 64)[1]
            if len(items) < 3:
                continue
            made = captions_of_all_kinds(items, 64, random.Random(f"0 {split} {index}"), split)
            assert [_plain(caption) for caption in found[image_id]] == [_plain(caption) for caption in made]


def _plain(caption: Caption) -> tuple[Any, ...]:
    phrases = sorted((phrase.spans, phrase.things, phrase.asked) for phrase in caption.phrases)
    return caption.text, caption.kind, caption.detail, phrases


def test_a_record_is_what_other_tools_read() -> None:
    caption = Caption("the star", "attribute", ())
    written = caption_records([({"id": 3, "file_name": "a.png", "width": 9, "height": 9}, [], [caption])])
    assert written["images"][0]["caption"] == "the star"
    assert written["images"][0]["original_img_id"] == 3


def test_the_file_that_the_page_shows_has_no_fault(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "captions.md").read_text(encoding="utf-8")
    shown = page.split("```json\n")[1].split("```")[0]
    (tmp_path / "captions.json").write_text(shown)
    boxes = [{"image_id": 7, "bbox": box} for box in ([10, 20, 90, 80], [300, 40, 60, 60])]
    instances = {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": boxes}
    assert caption_faults(tmp_path / "captions.json", instances) == []
    assert len(caption_faults(tmp_path / "captions.json", {**instances, "annotations": boxes[:1]})) == 1
