"""Captions in files: what is written comes back; what points at nothing is refused, with the place that was meant."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_parts import edited
from detr_mini.captions.captions_of_split import INTERRUPTED, MISSING, read_captions
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
    (folder / "images").mkdir(exist_ok=True)
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


def with_boxes(folder: Path, *annotations: dict[str, Any]) -> tuple[CocoSet, dict[str, Any]]:
    """An image with these boxes (dog is category 1, sofa 2): as training reads it, and as the file has it."""
    instances(folder)
    own = [{"id": k, "image_id": 5, "category_id": 1, **each} for k, each in enumerate(annotations, start=1)]
    path = edited(folder / "all.json", lambda content: content.update(annotations=own))
    return read_coco(path, folder / "images"), json.loads(path.read_text())


@pytest.mark.parametrize("name", ["/old/machine/a.png", "C:\\photos\\A.PNG", "photos/a.png"])
def test_a_caption_finds_its_image_by_the_end_of_a_path(tmp_path: Path, name: str) -> None:
    coco, path = instances(tmp_path), grounded(tmp_path, DOG, SOFA, file_name=name)
    assert len(read_captions(path, coco)[5]) == 1
    assert caption_faults(path, coco.truth) == []


def test_a_file_about_other_images_is_refused_and_single_captions_are_counted(tmp_path: Path) -> None:
    coco, path = instances(tmp_path), grounded(tmp_path, DOG, SOFA, file_name="b.png")
    why = r"no caption of .* is about an image of the split: .* file_name 'b\.png', the split's first image is 'a\.png'"
    with pytest.raises(DataError, match=why) as error:
        read_captions(path, coco)
    assert caption_faults(path, coco.truth) == [str(error.value)]
    edited(path, lambda content: content["images"].append({**content["images"][0], "id": 2, "file_name": "a.png"}))
    edited(path, lambda content: content["annotations"].append({**content["annotations"][0], "image_id": 2}))
    left_out = Counter[str]()
    assert len(read_captions(path, coco, left_out)[5]) == 1
    assert left_out == {MISSING: 1}
    edited(path, lambda content: content.update(images=[], annotations=[]))
    with pytest.raises(DataError, match=r"captions\.json has no captions"):
        read_captions(path, coco)


PAST_EDGE = {"bbox": [-3, 10, 50, 40]}
TURNED = {"bbox": [20, 20, 30, 10], "attributes": {"rotation": 90}}


@pytest.mark.parametrize("box", [PAST_EDGE, TURNED], ids=["past the edge", "turned"])
def test_a_box_that_training_reads_otherwise_is_found_by_either_form(tmp_path: Path, box: dict[str, Any]) -> None:
    coco, written = with_boxes(tmp_path, {"bbox": [60, 60, 20, 20]}, box)
    read = coco.boxes_xywh[1].tolist()
    assert read != box["bbox"]
    for given in (box, {"bbox": read}):
        path = grounded(tmp_path, {**given, "tokens_positive": [[2, 5]]})
        assert read_captions(path, coco)[5][0].phrases[0].things == (1,)
        assert caption_faults(path, written) == caption_faults(path, coco.truth) == []


def test_of_boxes_at_one_place_the_nearest_of_the_category_is_meant(tmp_path: Path) -> None:
    near = [{"bbox": [1.25, 2, 30, 40]}, {"bbox": [1, 2, 30, 40]}, {"bbox": [1.125, 2, 30, 40], "category_id": 2}]
    coco, _ = with_boxes(tmp_path, *near)

    def meant(*phrases: dict[str, Any]) -> list[tuple[int, ...]]:
        (caption,) = read_captions(grounded(tmp_path, *phrases), coco)[5]
        return [phrase.things for phrase in caption.phrases]

    sofa = {**DOG, "tokens_positive": [[17, 21]], "category_id": 2}
    assert meant(DOG, sofa) == [(1,), (2,)]
    assert meant(DOG, DOG) == [(1, 0)]  # two dogs, a box each
    assert meant(DOG, DOG, DOG, DOG) == [(1, 0, 2)]
    unnamed = edited(grounded(tmp_path, {**DOG, "bbox": [1.125, 2, 30, 40], "category_id": 2}),
                     lambda content: content.update(categories=[{"id": 2, "name": "object"}]))  # fmt: skip
    assert read_captions(unnamed, coco)[5][0].phrases[0].things == (2,)


def test_a_phrase_with_another_one_between_its_words_is_no_longer_asked_for(tmp_path: Path) -> None:
    around = {**DOG, "tokens_positive": [[2, 5], [17, 21]]}
    inside = {**SOFA, "tokens_positive": [[6, 12]]}
    left_out = Counter[str]()
    for asked, expected in ((True, {"dog": False, "beside": True}), (False, {"dog": True, "beside": False})):
        path = grounded(tmp_path, around, {**inside, "asked": asked})
        (caption,) = read_captions(path, instances(tmp_path), left_out)[5]
        assert {TEXT[slice(*phrase.spans[0])]: phrase.asked for phrase in caption.phrases} == expected
    assert left_out == {INTERRUPTED: 1}


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
