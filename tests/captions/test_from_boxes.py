"""Captions made from boxes alone are true, and silent on what boxes do not decide."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.captions.captions_of_split import objects_of, read_captions
from detr_mini.captions.from_boxes import (
    WEIGHTS,
    Words,
    captions_about,
    captions_to_measure,
    checked_kinds,
    items_from,
    words_for,
)
from detr_mini.captions.from_boxes_files import ensure_referred, referred, write_json
from detr_mini.captions.templates.scene import Item
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.discover import find_layout
from detr_mini.formats.load import read_split
from detr_mini.phrases import Caption
from oracles.captions.check import faults, pair_faults
from oracles.captions.grammar import Vocabulary
from training_parts import unchecked

CELLS = ["RBC", "WBC", "Platelets"]
WORDS = words_for(
    CELLS, {"RBC": "red cell", "WBC": ["white cell", "leukocyte"], "Platelets": "platelet"}, ["WBC", "Platelets"]
)
WIDTH, HEIGHT = 640, 480
NAMES: dict[str, list[str]] = {
    "leaf": ["leaf/leaves", "foliage"], "sheep": ["sheep/sheep"], "two_wheeler": ["two wheeler"],
    "left_hand": ["left hand"], "catcher's mitt": ["catcher's mitt", "mitt"], "fly": ["fly", "bug"],
    "non-human": ["non-human"],
}  # fmt: skip
"""Categories, and names that they may have; some begin with words of the captions."""
boxes = st.tuples(st.integers(0, 500), st.integers(0, 380), st.integers(10, 140), st.integers(10, 100))
pictures = st.lists(st.tuples(st.sampled_from(CELLS), boxes), min_size=1, max_size=10)


def items_of(picture: list[tuple[str, tuple[int, ...]]]) -> list[Item]:
    return items_from([name for name, _ in picture], [list(box) for _, box in picture])


def said_of(caption: Caption, words: Words) -> list[tuple[str, int, bool]]:
    """(category, things, asked) of each phrase."""
    return [
        (words.lexicon.shape_of(" ".join(caption.text[b:e] for b, e in p.spans)), len(p.things), p.asked)
        for p in caption.phrases
    ]


def vocabulary_of(words: Words) -> Vocabulary:
    """The words for the oracle, which reads the captions."""
    nouns = words.lexicon.synonyms.items()
    return Vocabulary({noun: (words.lexicon.plural(noun), name) for name, own in nouns for noun in own})


def assert_true(captions: list[Caption], items: list[Item], side: int, words: Words) -> None:
    """The oracle, which shares no code with the templates, reads each caption as its phrases say."""
    vocabulary = vocabulary_of(words)
    for caption in captions:
        assert not faults(caption, items, float(side), vocabulary), (caption, items)
        assert caption.kind in WEIGHTS
    pairs = [caption for caption in captions if caption.kind == "order"]
    for one, other in zip(pairs[::2], pairs[1::2], strict=False):
        assert not pair_faults(one, other, items, float(side), vocabulary), (one, other, items)


@st.composite
def naming(draw: st.DrawFn) -> tuple[list[str], dict[str, list[str]], Any]:
    """What `words_for` takes: some categories, each with some of its names or none, some of them complete."""
    categories = draw(st.lists(st.sampled_from(sorted(NAMES)), min_size=1, max_size=5, unique=True))
    named = draw(st.lists(st.sampled_from(categories), unique=True))
    names = {category: NAMES[category][: draw(st.integers(1, 2))] for category in named}
    return categories, names, draw(st.just("all") | st.lists(st.sampled_from(categories), unique=True))


def random_picture(rng: random.Random, categories: list[str]) -> tuple[list[Item], int, frozenset[str]]:
    """Items, the shorter side, crowded categories. Boxes may share a grid, so that centres and sizes tie."""
    side, step = rng.randint(60, 900), rng.choice([1, 1, 8, 32, 0.37])

    def box() -> list[float]:
        size = [max(step, round(rng.uniform(1, side / 2) / step) * step) for _ in range(2)]
        return [round(rng.uniform(0, side - length) / step) * step for length in size] + size

    crowded = frozenset(category for category in categories if rng.random() < 0.1)
    names = [rng.choice(categories) for _ in range(rng.randint(1, 14))]
    return items_from(names, [box() for _ in names]), side, crowded


def check_random_picture(named: tuple[list[str], dict[str, list[str]], Any], seed: int) -> None:
    words = words_for(*named)
    rng = random.Random(seed)
    items, side, crowded = random_picture(rng, list(words.lexicon.synonyms))
    weights = {kind: weight * (rng.random() < 0.8) for kind, weight in WEIGHTS.items()} | {"attribute": 1.0}
    made = captions_to_measure(items, side, rng, words, 2, crowded=crowded, weights=weights)
    assert_true(made, items, side, words)
    chain = rng.choice((2, 3))
    made = captions_about(items, side, rng, words, 8, crowded=crowded, weights=weights, longest_chain=chain)
    assert_true(made, items, side, words)


@settings(max_examples=15)
@given(naming(), st.integers(0, 2**32))
def test_every_caption_is_true_of_exactly_its_objects(named: Any, seed: int) -> None:
    check_random_picture(named, seed)


@pytest.mark.slow
@settings(max_examples=300)
@given(naming(), st.integers(0, 2**32))
def test_every_one_of_many_captions_is_true(named: Any, seed: int) -> None:
    with unchecked():
        check_random_picture(named, seed)


@pytest.mark.parametrize("complete", ["all", ["WBC", "Platelets"]])
def test_every_caption_of_real_boxes_is_true(complete: Any, shared_data: Callable[[str], Path]) -> None:
    root = shared_data("bccd_voc")
    layout = find_layout(root)
    coco = read_split(root, dict(layout.splits["val"]), "val", format=layout.format)
    words = words_for(coco.categories.names, {"RBC": ["red cell", "erythrocyte"], "WBC": "white cell"}, complete)
    made = 0
    for own in objects_of(coco)[:40]:
        items, side = items_from(own.names, [each["bbox"] for each in own.annotations]), own.record["height"]
        captions = captions_to_measure(items, side, random.Random(own.record["id"]), words, 2)
        assert_true(captions, items, side, words)
        made += len(captions)
    assert made > 100


@pytest.mark.parametrize(
    ("categories", "why"),
    [
        (["glass", "glasses"], "'glasses' names both glass and glasses"),
        (["hand", "second hand"], "'second hand' may also mean 'second' and then 'hand'"),
        (["3 wheeler", "wheeler"], "'3 wheeler' may also mean '3' and then 'wheeler'"),
        (["largest_fish", "fish"], "'largest fish' may also mean 'largest' and then 'fish'"),
        (["hand_left", "hand"], "'hand left' may also mean 'hand' and then 'left'"),
        (["cat from the left", "cat"], "'cat from the left' may also mean 'cat' and then 'from the left'"),
    ],
)
def test_nouns_that_a_reader_cannot_tell_apart_are_refused(categories: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=f"{why}.*; give each category nouns of its own in names"):
        words_for(categories, None, "all")
    other = {category: f"item {chr(97 + place)}" for place, category in enumerate(categories)}
    assert words_for(categories, other, "all").complete == set(categories)


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
    more = [*items, *items_from(["RBC"], [list(box)])]
    for caption in captions_about(items, HEIGHT, random.Random(seed), WORDS, 4):
        if all(category != "RBC" for category, _, _ in said_of(caption, WORDS)):
            assert not faults(caption, more, float(HEIGHT), vocabulary_of(WORDS))


def scene() -> list[Item]:
    """A white cell in the middle, three platelets, red cells around."""
    named = {"WBC": [[280, 190, 80, 90]], "Platelets": [[50, 40, 20, 20], [150, 330, 30, 30], [500, 250, 45, 45]]}
    named["RBC"] = [[20, 100, 60, 60], [400, 60, 50, 50], [520, 380, 60, 50], [100, 220, 55, 60], [250, 30, 60, 60]]
    return items_from([name for name in named for _ in named[name]], [b for own in named.values() for b in own])


def test_every_kind_is_made_where_the_picture_has_it() -> None:
    made = captions_to_measure(scene(), HEIGHT, random.Random(0), WORDS, 3)
    assert {caption.kind for caption in made} == set(WEIGHTS) - {"order"}  # two things that can be told apart lack
    pair = captions_to_measure([scene()[0], scene()[1]], HEIGHT, random.Random(0), WORDS, 1)
    assert sum(caption.kind == "order" for caption in pair) == 2
    texts = [caption.text for caption in made]
    assert len(set(texts)) == len(texts)
    assert any("red cells" in text and caption.kind == "relation" for text, caption in zip(texts, made, strict=True))


def test_a_category_with_a_crowd_region_is_not_spoken_of() -> None:
    crowded = frozenset({"Platelets"})
    for caption in captions_about(scene(), HEIGHT, random.Random(1), WORDS, 10, crowded=crowded):
        assert "platelet" not in caption.text.lower()
    assert not captions_about([], HEIGHT, random.Random(1), WORDS, 8)


def test_clear_distances_are_shares_of_the_shorter_side() -> None:
    apart = items_from(["WBC", "Platelets"], [[100, 100, 40, 40], [118, 300, 40, 40]])  # 18 pixels in x
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
        ({}, None, "complete is None; name the categories whose objects all have a box"),
        ({"RBC": "cell", "WBC": "cell"}, "all", "'cell' names both RBC and WBC"),
        ({"RBC": "red; cell"}, "all", "names.RBC is 'red; cell'; give a noun"),
        ({"RBC": []}, "all", "names.RBC is empty"),
        ({"RBC": None}, "all", "names.RBC is None; give a noun"),
        ({"RBC": ["red cell", None]}, "all", "names.RBC is None; give a noun"),
        ({"RBC": True}, "all", "names.RBC is True; give a noun"),
        ({"RBC": {"red": "cell"}}, "all", "names.RBC is {'red': 'cell'}; give a noun"),
        (["RBC"], "all", r"names is \['RBC'\]; give each category its noun"),
        ({}, True, "complete is True; name the categories"),
        ({}, 3, "complete is 3; name the categories"),
        ({}, {"RBC": True}, "complete is {'RBC': True}; name the categories"),
    ],
)
def test_names_that_cannot_be_used_are_refused(names: Any, complete: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        words_for(CELLS, names, complete)


def test_a_number_may_be_a_noun() -> None:
    assert words_for(CELLS, {"RBC": 747}, "all").lexicon.synonyms["RBC"] == ("747",)


@pytest.mark.parametrize("weight", [None, "often", -1, float("inf"), True, [1]])
def test_a_weight_of_a_kind_is_a_number_of_at_least_0(weight: Any) -> None:
    with pytest.raises(ConfigError, match=r"kinds\.chain is .*; it must be a number of at least 0"):
        checked_kinds({"chain": weight})
    with pytest.raises(ConfigError, match="kinds leaves every kind of caption out"):
        checked_kinds(dict.fromkeys(WEIGHTS, 0))


def test_kinds_that_boxes_do_not_decide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"kinds\.same is no kind that boxes decide"):
        checked_kinds({"same": 1})
    made = captions_to_measure(scene(), HEIGHT, random.Random(0), WORDS, 2, weights=checked_kinds({"order": 0}))
    assert "order" not in {caption.kind for caption in made}


def test_a_noun_whose_plural_looks_alike_names_several_only_with_a_number() -> None:
    words = words_for(["sheep", "dog"], {"sheep": "sheep/sheep"}, "all")
    flock = items_from(["sheep"] * 3 + ["dog"], [[100 * n, 50 * n, 40, 40] for n in range(4)])
    captions = captions_about(flock, HEIGHT, random.Random(0), words, 60)
    several = [c for c in captions if any(len(phrase.things) > 1 for phrase in c.phrases)]
    assert several and all("three sheep" in caption.text.lower() for caption in several)


def test_a_plural_of_its_own_and_a_category_without_a_name() -> None:
    words = words_for(["leaf", "fire_ant"], {"leaf": "leaf/leaves"}, "all")
    items = items_from(["leaf", "leaf", "fire_ant"], [[0, 0, 30, 30], [200, 100, 60, 60], [400, 300, 20, 20]])
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
    assert "again, since the old ones differ in names, complete" in ensure_referred(
        path, coco, words_for(CELLS, None, "all"), each=2
    )
    told = read_captions(path, coco)
    assert len(told[1]) > 10 and not told[2]


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path, make_coco: Callable[..., Any]) -> None:
    path = tmp_path / "captions.json"
    write_json(path, {"images": [], "annotations": [], "categories": []})
    with pytest.raises(DataError, match="from another source"):
        ensure_referred(path, cells(make_coco), WORDS, each=2)


def test_objects_of_which_nothing_can_be_said_are_refused(make_coco: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="no caption can be made for the 2 images"):
        referred(read_coco(*make_coco()), words_for(["bolt", "nut", "washer"], None, []), each=1)
    with pytest.raises(DataError, match="each is 0"):
        referred(cells(make_coco), WORDS, each=0)
