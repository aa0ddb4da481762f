"""Captions that people wrote, tied to boxes: by whole words, the longest first, and only where they are plain."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.captions import noun_grounding as reasons
from detr_mini.captions.captions_of_split import objects_of, read_captions
from detr_mini.captions.mdetr_format import caption_records, instances_of
from detr_mini.captions.noun_grounding import Grounded, Sentence, ground, grounded, read_sentences
from detr_mini.captions.nouns import COCO, Nouns, check_categories
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.coco import read_coco

NAMES = tuple(name for name in COCO if name)
NOUNS = Nouns(COCO, NAMES)


def tied(text: str, crowded: frozenset[str] = frozenset(), /, **boxes: int) -> dict[str, int]:
    """The words that are tied, and to how many boxes; `boxes`: how many each category has (hot_dog is hot dog)."""
    return {words: len(things) for words, things in _phrases(_grounded(text, crowded, **boxes))}


def left_out(text: str, crowded: frozenset[str] = frozenset(), /, **boxes: int) -> dict[str, str]:
    return {text[begin:end]: reason for begin, end, reason in _grounded(text, crowded, **boxes).left_out}


def _grounded(text: str, crowded: frozenset[str], **boxes: int) -> Grounded:
    places, first = {}, 0
    for name, count in boxes.items():
        places[name.replace("_", " ")] = tuple(range(first, first + count))
        first += count
    return ground(text, NOUNS, places, crowded)


def _phrases(made: Grounded) -> list[tuple[str, tuple[int, ...]]]:
    return [(made.caption.text[b:e], phrase.things) for phrase in made.caption.phrases for b, e in phrase.spans]


def test_a_noun_is_tied_to_the_box_of_its_category() -> None:
    made = _grounded("A lady with a puppy, on the sofa.", frozenset(), dog=1, person=1, couch=1)
    assert _phrases(made) == [("lady", (1,)), ("puppy", (0,)), ("sofa", (2,))]
    assert not made.left_out


@pytest.mark.parametrize(
    ("text", "boxes", "words"),
    [
        ("a cupboard beside the catwalk", {"cup": 1, "cat": 1, "bear": 1}, {}),
        ("a hot dog on a plate", {"dog": 1, "hot_dog": 1}, {"hot dog": 1}),
        ("a hot-dog on a plate", {"dog": 1, "hot_dog": 1}, {"hot-dog": 1}),
        ("a teddy bear", {"bear": 1, "teddy_bear": 1}, {"teddy bear": 1}),
        ("a polar bear", {"bear": 1, "teddy_bear": 1}, {"polar bear": 1}),
        ("A dog-shaped rug and a CAT", {"dog": 1, "cat": 1}, {"CAT": 1}),
        ("a man's hat", {"person": 1}, {"man": 1}),
        ("a wine  glass by the sink", {"wine_glass": 1, "cup": 1, "sink": 1}, {"wine  glass": 1, "sink": 1}),
    ],
)
def test_words_are_whole_and_the_longest_counts(text: str, boxes: dict[str, int], words: dict[str, int]) -> None:
    assert tied(text, **boxes) == words


@pytest.mark.parametrize("text", ["two dogs", "dogs on a lawn", "some dogs", "a couple of dogs"])
def test_a_plural_is_tied_to_all_boxes_of_its_category(text: str) -> None:
    assert tied(text, dog=2) == {"dogs": 2}


@pytest.mark.parametrize(
    ("text", "boxes", "reason"),
    [
        ("a dog", {"dog": 2}, reasons.SEVERAL),
        ("dogs", {"dog": 1}, reasons.SINGLE),
        ("two dogs", {"dog": 3}, reasons.NUMBER),
        ("a couple of dogs", {"dog": 3}, reasons.NUMBER),
        ("men on a bench", {"person": 3}, reasons.SOME),
        ("a bag", {"handbag": 1}, reasons.TWO),
        ("a dog", {}, reasons.NOTHING),
        ("there is no dog", {"dog": 1}, reasons.DENIED),
        ("an orange shirt", {"orange": 1}, reasons.PART),
        ("the bus driver", {"bus": 1}, reasons.PART),
        ("a toilet lid", {"toilet": 1}, ""),
        ("a pizza shop", {"pizza": 1}, reasons.PART),
        ("a man and a boy", {"person": 1}, reasons.AGAIN),
    ],
)
def test_a_noun_that_could_mean_others_is_left_out_with_its_reason(
    text: str, boxes: dict[str, int], reason: str
) -> None:
    found = left_out(text, **boxes)
    assert reason in found.values() if reason else not found, "words of no category are no nouns"
    assert not set(tied(text, **boxes)) - {"driver", "bench"}


def test_a_category_with_a_crowd_region_is_left_out() -> None:
    assert left_out("two dogs", frozenset({"dog"}), dog=2) == {"dogs": reasons.CROWD}


def test_words_without_a_number_of_their_own_fit_one_and_several() -> None:
    assert tied("sheep on a hill", sheep=1) == tied("a sheep on a hill", sheep=1) == {"sheep": 1}
    assert tied("sheep on a hill", sheep=4) == {"sheep": 4}
    assert left_out("a sheep on a hill", sheep=4) == {"sheep": reasons.SEVERAL}


def test_a_kind_is_tied_where_its_number_says_that_it_means_all() -> None:
    assert tied("three men", person=3) == {"men": 3}


def test_an_orange_is_a_fruit_where_it_describes_nothing() -> None:
    assert tied("an orange and a knife", orange=1, knife=1) == {"orange": 1, "knife": 1}
    assert tied("a peeled orange", orange=1) == {"orange": 1}


@given(st.lists(st.sampled_from(["a", "two", "dogs", "cat", "hot", "dog", "men", "and", "cup", "-", "board", ","])))
def test_spans_are_whole_words_and_do_not_overlap(words: list[str]) -> None:
    text = " ".join(words)
    made = _grounded(text, frozenset(), dog=2, cat=1, person=2, cup=1, hot_dog=1)
    spans = [phrase.spans[0] for phrase in made.caption.phrases] + [(b, e) for b, e, _ in made.left_out]
    ends = 0
    for begin, end in sorted(spans):
        assert ends <= begin < end
        assert NOUNS.of(text[begin:end]).categories
        ends = end


def test_every_category_has_a_noun_and_its_plural() -> None:
    for name in NAMES:
        assert NOUNS.nouns[name].categories == (name,)
    assert NOUNS.of("Knives").many and NOUNS.of("buses").many and NOUNS.of("Ladies").many


def test_a_table_of_ones_own_serves_other_categories() -> None:
    nouns = Nouns({"RBC": ["red cell", "erythrocyte"]}, ["RBC", "WBC"])
    made = ground("Red cells, a WBC", nouns, {"RBC": (0, 1), "WBC": (2,)}, frozenset())
    assert _phrases(made) == [("Red cells", (0, 1)), ("WBC", (2,))]


def test_tables_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"nouns has 'dgo', which is none of the data's categories.*mean 'dog'"):
        check_categories("nouns", {"dgo": ["dog"]}, ["dog", "cat"])
    with pytest.raises(ConfigError, match="has none of the data's categories"):
        Nouns(COCO, ["RBC"])
    with pytest.raises(ConfigError, match="must be a list of words"):
        Nouns({"dog": "puppy"}, ["dog"])
    for nouns in (None, 3, True, {"puppy": 1}):
        with pytest.raises(ConfigError, match=r"nouns\.dog is .*; it must be a list of words"):
            Nouns({"dog": nouns}, ["dog"])
    with pytest.raises(ConfigError, match="is no word"):
        Nouns({"dog": ["~/"]}, ["dog"])


DOGS = (
    {"bbox": [1, 1, 9, 9], "category_id": 1}, {"bbox": [20, 1, 9, 9], "category_id": 1},
    {"bbox": [1, 20, 9, 9], "category_id": 2}, {"bbox": [2, 2, 30, 30], "category_id": 3, "iscrowd": 1},
)  # fmt: skip
ANIMALS = ({"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "person"})


def _captions(folder: Path, *texts: str, name: str = "1.png") -> Path:
    content = {
        "images": [{"id": 77, "file_name": name}],
        "annotations": [{"id": k, "image_id": 77, "caption": text} for k, text in enumerate(texts)],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return folder / "captions.json"


def test_what_is_written_is_read_again_and_the_counts_add_up(tmp_path: Path, make_coco: Callable[..., Any]) -> None:
    coco = read_coco(*make_coco(annotations=DOGS, categories=ANIMALS))
    path = _captions(tmp_path, "Two dogs and a cat", "a dog and a cat", "people", " ", name="folder/1.png")
    content = grounded(read_sentences(path), coco, NOUNS_HERE)
    assert content["info"] == {
        "captions": 3, "written": 2, "whole": 1, "phrases": 3, "without_picture": 0,
        "left_out": {reasons.SEVERAL: 1, reasons.CROWD: 1},
    }  # fmt: skip
    assert content["images"][1]["left_out"] == [{"spans": [[2, 5]], "reason": reasons.SEVERAL}]
    (tmp_path / "grounded.json").write_text(json.dumps(content))
    found = read_captions(tmp_path / "grounded.json", coco)
    assert [[(p.spans, p.things, p.asked) for p in c.phrases] for c in found[1]] == [
        [(((4, 8),), (0, 1), True), (((15, 18),), (2,), True)],
        [(((12, 15),), (2,), True)],
    ]


NOUNS_HERE = Nouns(COCO, ["dog", "cat", "person"])


def test_a_caption_goes_to_no_other_image_of_the_same_base_name(tmp_path: Path, make_coco: Callable[..., Any]) -> None:
    names = ["cam1/5.png", "cam2/5.png", "val/1.png", "caf\u00e9.png"]
    for folder in ("cam1", "cam2", "val"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)]
    boxes = [{"bbox": [1, 1, 9, 9], "category_id": 1, "image_id": image["id"]} for image in images]
    coco = read_coco(*make_coco(images=images, annotations=boxes, categories=ANIMALS))

    def linked(*files: str) -> list[int]:
        content = grounded([Sentence(file, "a dog") for file in files], coco, NOUNS_HERE)
        assert content["info"]["without_picture"] + content["info"]["written"] == len(files)
        return [record["original_img_id"] for record in content["images"]]

    assert linked("cam1/5.png", "cam2/5.png", "5.png", "cam3/5.png") == [1, 2]
    assert linked("val/1.png", "train/1.png") == [3]
    assert linked("1.png", "cafe\u0301.png") == linked("photos/val/1.png", "/old/caf\u00e9.PNG") == [3, 4]
    assert linked("a/caf\u00e9.png", "b/caf\u00e9.png", "1.png") == [3]


@pytest.mark.parametrize(
    "content",
    [
        {"images": [5], "annotations": []}, {"images": [], "annotations": [None]}, {"images": {}, "annotations": []},
        {"images": ["a"], "annotations": ["b"]}, [], 3,
    ],
    ids=range(6),
)  # fmt: skip
def test_a_file_without_records_holds_no_captions(tmp_path: Path, content: Any) -> None:
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="holds no captions: a JSON object with lists of records"):
        read_sentences(tmp_path / "captions.json")


def test_an_id_of_any_kind_is_a_key_or_no_image(tmp_path: Path) -> None:
    content = {
        "images": [{"id": "7", "file_name": "7.png"}, {"id": [8], "file_name": "8.png"}, {"file_name": "9.png"}],
        "annotations": [{"image_id": 7.0, "caption": "a dog"}],
    }
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    assert [sentence.file_name for sentence in read_sentences(path)] == ["7.png"]
    for wrong in (None, [9], {}):
        path.write_text(json.dumps({**content, "annotations": [{"image_id": wrong, "caption": "a dog"}]}))
        with pytest.raises(DataError, match=r"annotation number 1 of .* belongs to no image"):
            read_sentences(path)


def test_captions_that_fit_nothing_are_refused(tmp_path: Path, make_coco: Callable[..., Any]) -> None:
    coco = read_coco(*make_coco(annotations=DOGS, categories=ANIMALS))
    with pytest.raises(DataError, match="no noun of 1 captions could be tied to a box of 2 images"):
        grounded(read_sentences(_captions(tmp_path, "a tree")), coco, NOUNS_HERE)
    with pytest.raises(DataError, match="there is no captions file"):
        read_sentences(tmp_path / "none.json")
    with pytest.raises(DataError, match="has no caption; give a COCO captions file"):
        read_sentences(make_coco(annotations=DOGS, categories=ANIMALS)[0])


def _mdetr(folder: Path) -> Path:
    """As MDETR's own files are: a record a caption, pictures and boxes repeated."""
    sizes = {"file_name": "1.png", "height": 40, "width": 60}
    content = {
        "info": [], "licenses": [], "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
        "images": [
            {**sizes, "id": 0, "original_img_id": 1, "caption": "two dogs by a cat", "dataset_name": "flickr"},
            {**sizes, "id": 1, "original_img_id": 1, "caption": "the cat", "dataset_name": "flickr"},
        ],
        "annotations": [
            {"id": k, "image_id": image, "bbox": box, "category_id": 1, "area": 81, "iscrowd": 0,
             "tokens_positive": spans}
            for k, (image, box, spans) in enumerate([
                (0, [1, 1, 9, 9], [[0, 8]]), (0, [20, 1, 9, 9], [[0, 8]]), (0, [1, 20, 9, 9], [[12, 17]]),
                (1, [1, 20, 9, 9], [[0, 7]]),
            ])
        ],
    }  # fmt: skip
    (folder / "mdetr.json").write_text(json.dumps(content))
    return folder / "mdetr.json"


def test_files_of_mdetr_are_the_same_after_reading_and_writing(tmp_path: Path, make_coco: Callable[..., Any]) -> None:
    path, (_, images) = _mdetr(tmp_path), make_coco()
    content = json.loads(path.read_text())
    (tmp_path / "instances.json").write_text(json.dumps(instances_of(content, path)))
    coco = read_coco(tmp_path / "instances.json", images)
    assert len(coco) == 1 and len(coco.boxes_xywh) == 3  # each picture and each of its boxes once
    told = read_captions(path, coco)
    written = caption_records([(own.record, own.annotations, told[own.record["id"]]) for own in objects_of(coco)])
    assert [record["caption"] for record in written["images"]] == [r["caption"] for r in content["images"]]
    assert _spans(written) == _spans(content)
    (tmp_path / "again.json").write_text(json.dumps({**written, "categories": content["categories"]}))
    assert read_captions(tmp_path / "again.json", coco) == told


def _spans(content: dict[str, Any]) -> Counter[Any]:
    said = {record["id"]: record["caption"] for record in content["images"]}
    return Counter(
        (said[a["image_id"]], tuple(a["bbox"]), tuple(map(tuple, a["tokens_positive"]))) for a in content["annotations"]
    )


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_captions_are_tied_and_every_noun_is_accounted_for(
    shared_data: Callable[[str], Path], split: str, tmp_path: Path
) -> None:
    root = shared_data("coco_mini")
    coco = read_coco(root / f"annotations/instances_{split}.json", root / split)
    sentences = read_sentences(root / f"annotations/captions_{split}.json")
    content = grounded(sentences, coco, NOUNS)
    assert content["info"]["phrases"] > 300 and content["info"]["whole"] > 150
    (tmp_path / "captions.json").write_text(json.dumps(content))
    told = read_captions(tmp_path / "captions.json", coco)
    assert sum(map(len, told.values())) == content["info"]["written"]
    name_of = dict(zip(coco.categories.ids, coco.categories.names, strict=True))
    for record in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == record["id"]]
        for annotation in own:
            (begin, end), *_ = annotation["tokens_positive"]
            assert NOUNS.of(record["caption"][begin:end]).categories == (name_of[annotation["category_id"]],)
