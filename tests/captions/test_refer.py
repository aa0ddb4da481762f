"""Captions made of boxes alone: proven by the checker, silent on what boxes do not decide."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.captions.check import faults
from detr_mini.captions.from_boxes import (
    WEIGHTS,
    Words,
    captions_about,
    captions_to_measure,
    checked_kinds,
    things_of,
    words_for,
)
from detr_mini.captions.from_boxes_files import ensure_referred, referred, write_json
from detr_mini.captions.mdetr_format import read_captions
from detr_mini.captions.templates.scene import Item
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.coco import read_coco
from detr_mini.structures import Caption

CELLS = ["RBC", "WBC", "Platelets"]
WORDS = words_for(
    CELLS, {"RBC": "red cell", "WBC": ["white cell", "leukocyte"], "Platelets": "platelet"}, ["WBC", "Platelets"]
)
WIDTH, HEIGHT = 640, 480
boxes = st.tuples(st.integers(0, 500), st.integers(0, 380), st.integers(10, 140), st.integers(10, 100))
pictures = st.lists(st.tuples(st.sampled_from(CELLS), boxes), min_size=1, max_size=10)


def items_of(picture: list[tuple[str, tuple[int, ...]]]) -> list[Item]:
    return things_of([name for name, _ in picture], [list(box) for _, box in picture])


def said_of(caption: Caption, words: Words) -> list[tuple[str, int, bool]]:
    """(category, things, asked) of each phrase."""
    return [
        (words.lexicon.shape_of(" ".join(caption.text[b:e] for b, e in p.spans)), len(p.things), p.asked)
        for p in caption.phrases
    ]


@settings(max_examples=20, deadline=None)
@given(pictures, st.integers(0, 99))
def test_every_caption_is_proven_by_the_checker(picture: list[Any], seed: int) -> None:
    items = items_of(picture)
    for caption in captions_about(items, HEIGHT, random.Random(seed), WORDS, 4):
        assert not faults(caption, items, float(HEIGHT), WORDS.vocabulary)
        assert caption.kind in WEIGHTS


@settings(max_examples=20, deadline=None)
@given(pictures, st.integers(0, 99))
def test_of_a_category_that_lacks_boxes_only_several_are_asked_for(picture: list[Any], seed: int) -> None:
    items = items_of(picture)
    for caption in captions_about(items, HEIGHT, random.Random(seed), WORDS, 4):
        for category, things, asked in said_of(caption, WORDS):
            if category == "RBC":
                assert asked, caption  # never an anchor
                assert things > 1 or caption.detail == "anchor", caption
                assert caption.kind in ("attribute", "relation", "chain", "compare", "absent")
                assert not {"two", "three", "four", "five", "six", "largest", "smallest"} & set(caption.text.split())


@settings(max_examples=15, deadline=None)
@given(pictures, st.integers(0, 99), boxes)
def test_what_is_said_of_others_stays_true_when_a_lacking_box_turns_up(
    picture: list[Any], seed: int, box: tuple[int, ...]
) -> None:
    items = items_of(picture)
    more = [*items, *things_of(["RBC"], [list(box)])]
    for caption in captions_about(items, HEIGHT, random.Random(seed), WORDS, 4):
        if all(category != "RBC" for category, _, _ in said_of(caption, WORDS)):
            assert not faults(caption, more, float(HEIGHT), WORDS.vocabulary)


def scene() -> list[Item]:
    """A white cell in the middle, three platelets, red cells around."""
    named = {"WBC": [[280, 190, 80, 90]], "Platelets": [[50, 40, 20, 20], [150, 330, 30, 30], [500, 250, 45, 45]]}
    named["RBC"] = [[20, 100, 60, 60], [400, 60, 50, 50], [520, 380, 60, 50], [100, 220, 55, 60], [250, 30, 60, 60]]
    return things_of([name for name in named for _ in named[name]], [b for own in named.values() for b in own])


def test_every_kind_is_made_where_the_picture_has_it() -> None:
    made, refused = captions_to_measure(scene(), HEIGHT, random.Random(0), WORDS, 3)
    assert not refused
    assert {caption.kind for caption in made} == set(WEIGHTS) - {"order"}  # two things that can be told apart lack
    pair, _ = captions_to_measure([scene()[0], scene()[1]], HEIGHT, random.Random(0), WORDS, 1)
    assert sum(caption.kind == "order" for caption in pair) == 2
    texts = [caption.text for caption in made]
    assert len(set(texts)) == len(texts)
    assert any("red cells" in text and caption.kind == "relation" for text, caption in zip(texts, made, strict=True))


def test_a_checker_that_refuses_keeps_a_caption_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detr_mini.captions.from_boxes.faults", lambda *_: ["no"])
    made, refused = captions_to_measure(scene(), HEIGHT, random.Random(0), WORDS, 1)
    assert not made and refused


def test_a_category_with_a_crowd_region_is_not_spoken_of() -> None:
    crowded = frozenset({"Platelets"})
    for caption in captions_about(scene(), HEIGHT, random.Random(1), WORDS, 10, crowded=crowded):
        assert "platelet" not in caption.text.lower()
    assert not captions_about([], HEIGHT, random.Random(1), WORDS, 8)


def test_clear_distances_are_shares_of_the_shorter_side() -> None:
    apart = things_of(["WBC", "Platelets"], [[100, 100, 40, 40], [118, 300, 40, 40]])  # 18 pixels in x
    about = [
        {c.text.lower().strip(".?") for c in captions_about(apart, side, random.Random(2), WORDS, 20)}
        for side in (HEIGHT, WIDTH)
    ]
    assert any("left" in text for text in about[0])
    assert not any("left" in text or "right" in text for text in about[1] - about[0])


@pytest.mark.parametrize(
    ("names", "complete", "why"),
    [
        ({"WCB": "white cell"}, "all", "names has 'WCB', which is none of the data's categories.*mean 'WBC'"),
        ({}, ["platelets"], "complete has 'platelets', .*mean 'Platelets'"),
        ({}, None, "complete is None; name the categories whose things all have a box"),
        ({"RBC": "cell", "WBC": "cell"}, "all", "'cell' names both RBC and WBC"),
        ({"RBC": "red; cell"}, "all", "names.RBC is 'red; cell'; give a noun"),
        ({"RBC": []}, "all", "names.RBC is empty"),
    ],
)
def test_names_that_cannot_be_used_are_refused(names: Any, complete: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        words_for(CELLS, names, complete)


def test_kinds_that_boxes_do_not_decide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"kinds\.same is no kind that boxes decide"):
        checked_kinds({"same": 1})
    made, _ = captions_to_measure(scene(), HEIGHT, random.Random(0), WORDS, 2, weights=checked_kinds({"order": 0}))
    assert "order" not in {caption.kind for caption in made}


def test_a_plural_of_its_own_and_a_category_without_a_name() -> None:
    words = words_for(["leaf", "fire_ant"], {"leaf": "leaf/leaves"}, "all")
    items = things_of(["leaf", "leaf", "fire_ant"], [[0, 0, 30, 30], [200, 100, 60, 60], [400, 300, 20, 20]])
    texts = " ".join(c.text.lower() for c in captions_about(items, HEIGHT, random.Random(0), words, 40))
    assert "leaves" in texts and "leafs" not in texts and "fire ant" in texts
    assert words.complete == {"leaf", "fire_ant"}


def cells(make_coco: Callable[..., Any]) -> Any:
    categories = [{"id": k, "name": name} for k, name in enumerate(CELLS, start=1)]
    annotations = [
        {"bbox": list(item.box), "category_id": CELLS.index(item.shape) + 1, "image_id": 1} for item in scene()
    ]
    return read_coco(*make_coco(annotations=annotations, categories=categories, size=(HEIGHT, WIDTH)))


def test_a_file_is_made_once_and_again_where_words_or_boxes_change(
    tmp_path: Path, make_coco: Callable[..., Any]
) -> None:
    coco, path = cells(make_coco), tmp_path / "made" / "captions.json"
    assert ensure_referred(path, coco, WORDS, each=2).startswith("made ")
    before = path.read_bytes()
    assert "are there already" in ensure_referred(path, coco, WORDS, each=2)
    assert path.read_bytes() == before
    assert "anew, since they differ in names, complete" in ensure_referred(
        path, coco, words_for(CELLS, None, "all"), each=2
    )
    told = read_captions(path, coco)
    assert len(told[1]) > 10 and not told[2]


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path, make_coco: Callable[..., Any]) -> None:
    path = tmp_path / "captions.json"
    write_json(path, {"images": [], "annotations": [], "categories": []})
    with pytest.raises(DataError, match="were not made here"):
        ensure_referred(path, cells(make_coco), WORDS, each=2)


def test_pictures_of_which_nothing_can_be_said_are_refused(make_coco: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="nothing can be said of the 2 pictures"):
        referred(read_coco(*make_coco()), words_for(["bolt", "nut", "washer"], None, []), each=1)
    with pytest.raises(DataError, match="each is 0"):
        referred(cells(make_coco), WORDS, each=0)
