"""What sentences mean, in scenes and with things that were worked out by hand."""

from __future__ import annotations

import re

import pytest

from detr_mini.captions.templates.scene import Item
from detr_mini.phrases import Caption, Phrase
from oracles.captions.check import faults, kind_of
from oracles.captions.grammar import Vocabulary
from oracles.captions.parser import NotUnderstoodError, parse

SIDE = 128  # so that 4 pixels are the least that counts as left or above


def thing(look: str, x: float, y: float, side: float = 10.0) -> Item:
    """A square box around (x, y)."""
    color, shape, size, texture = (*look.split(), "small", "plain")[:4]
    return Item(shape, color, size, texture, (x - side / 2, y - side / 2, side, side))


SCENE = [
    thing("red star", 20, 20),
    thing("red star large striped", 60, 22, 20),
    thing("blue star", 100, 52),
    thing("blue circle", 40, 60),
    thing("green circle small dotted", 64, 100),
    thing("red square", 116, 116, 14),
]
"""        20   40   60 64   100 116
 20      0         1
 52                         2
 60           3
100                  4
116                             5
"""


def record(marked: str, things: tuple[tuple[int, ...], ...], kind: str, detail: str = "") -> Caption:
    """Of "the {0:red star} that is {0:small}": phrase 0 is asked for, the others are anchors; in a list all are."""
    text, spans = "", dict[int, list[tuple[int, int]]]()
    for before, number, words in re.findall(r"([^{]*)(?:\{(\d):([^}]*)\})?", marked):
        text += before
        if number:
            spans.setdefault(int(number), []).append((len(text), len(text) + len(words)))
        text += words
    phrases = [Phrase(tuple(spans[n]), things[n], asked=n == 0 or kind == "list") for n in sorted(spans)]
    return Caption(text, kind, tuple(phrases), detail)


TRUE: list[tuple[str, tuple[tuple[int, ...], ...], str, str]] = [
    ("the {0:red square}", ((5,),), "attribute", ""),
    ("Please find the {0:little  blue STAR}!", ((2,),), "attribute", ""),
    ("the {0:red ones}", ((0, 1, 5),), "attribute", ""),
    ("the {0:things} that are {0:small} and {0:red}", ((0, 5),), "attribute", ""),
    ("the {0:disc} that is {0:green} in colour", ((4,),), "attribute", ""),
    ("the {0:star} with {0:stripes}, please.", ((1,),), "attribute", ""),
    ("the {0:small}, {0:spotted disc}", ((4,),), "attribute", ""),
    ("exactly three {0:stars}", ((0, 1, 2),), "count", ""),
    ("all two {0:discs}", ((3, 4),), "count", ""),
    ("3 {0:stars}", ((0, 1, 2),), "count", ""),
    ("two {0:circles}, a {1:box} and the {2:green thing}", ((3, 4), (5,), (4,)), "list", ""),
    ("the {0:star} left of the {1:blue circle}", ((0,), (3,)), "relation", ""),
    ("the {0:stars} above the {1:blue star}", ((0, 1), (2,)), "relation", ""),
    ("two {0:stars} that lie above the {1:blue star}", ((0, 1), (2,)), "relation", ""),
    ("below the {1:blue star}, the {0:things}", ((3, 4, 5), (2,)), "relation", ""),
    ("look further down than the {1:blue star}: find the {0:green circle}", ((4,), (2,)), "relation", ""),
    ("the {0:thing} nearest to the {1:green disc}", ((3,), (4,)), "relation", ""),
    ("the {0:circles} between the {1:small red star} and the {2:square}", ((3, 4), (0,), (5,)), "relation", ""),
    ("the {0:stars} right of the {1:circle} above the {2:green disc}", ((1, 2), (3,), (4,)), "chain", "2"),
    ("{0:thing} that is both left of the {1:blue star} and below the {2:blue disc}", ((4,), (2,), (3,)), "chain", "2"),
    ("the {0:thing} left of the {1:blue star} and also below the {2:blue circle}", ((4,), (2,), (3,)), "chain", "2"),
    ("the second {0:star} from the left", ((1,),), "ordinal", ""),
    ("counted from the right, the first {0:red thing}", ((5,),), "ordinal", ""),
    ("the bottommost {0:circle}", ((4,),), "ordinal", ""),
    ("the {0:star} farthest to the right", ((2,),), "ordinal", ""),
    ("the largest {0:star}", ((1,),), "compare", ""),
    ("the {0:thing} that is biggest", ((1,),), "compare", ""),
    ("the {0:square} bigger than the {1:blue star}", ((5,), (2,)), "compare", ""),
    ("the {0:star} which is larger than the {1:box}", ((1,), (5,)), "compare", ""),
    ("the {0:star} of the same colour as the {1:blue circle}", ((2,), (3,)), "same", ""),
    ("the {0:things} that have the same shape as the {1:large star}", ((0, 2), (1,)), "same", ""),
    ("the {0:star} that isn’t red", ((2,),), "not", ""),
    ("the non-blue {0:circle}", ((4,),), "not", ""),
    ("the {0:pink heart}", ((),), "absent", "attribute"),
    ("the four {0:stars}", ((),), "absent", "count"),
    ("the {0:square} above the {1:green circle}", ((), (4,)), "absent", "relation"),
    ("the {0:star} above the {1:heart}", ((), ()), "absent", "anchor"),
]  # fmt: skip


@pytest.mark.parametrize(("marked", "things", "kind", "detail"), TRUE)
def test_true_sentences_are_proven(marked: str, things: tuple[tuple[int, ...], ...], kind: str, detail: str) -> None:
    assert faults(record(marked, things, kind, detail), SCENE, SIDE) == []


FALSE: list[tuple[str, tuple[tuple[int, ...], ...], str, str, str]] = [
    ("a {0:blue star}", ((3,),), "attribute", "", "'blue star' is tied to thing 3, which is a small plain blue circle"),
    ("the {0:red star}", ((0,),), "attribute", "", "another number"),
    ("the {0:stars}", ((0, 1),), "attribute", "", "'stars' names thing 2"),
    ("the two {0:stars}", ((0, 1),), "count", "", "another number"),
    ("the {0:star} left of the {1:blue circle}", ((1,), (3,)), "relation", "", "rest of the sentence is not true"),
    ("the {0:star} left of the {1:circle}", ((0,), (3,)), "relation", "", "an anchor is to be one thing"),
    ("the {0:red stars} above the {1:large star}", ((0,), (1,)), "relation", "", "does not decide"),
    ("the {0:star} that is {0:small} left of it", ((0,),), "relation", "", "is not understood"),
    ("the {0:circle} that is nearest to the {1:square}", ((3,), (5,)), "relation", "", "names thing 4"),
    ("the largest {0:circle}", ((3,),), "compare", "", "about as large"),
    ("the largest {0:square}", ((5,),), "compare", "", "needs several"),
    ("the first {0:red star} from the top", ((0,),), "ordinal", "", "about as far"),
    ("the fourth {0:star} from the left", ((2,),), "ordinal", "", "rest of the sentence"),
    ("the {0:star} that is not red", ((0,),), "not", "", "which is a small plain red star"),
    ("a {0:stars}", ((0, 1, 2),), "attribute", "", "number"),
    ("the three {0:star}", ((0, 1, 2),), "count", "", "number"),
    ("the {0:red square} {1:and}", ((5,), (5,)), "list", "", "not understood"),
    ("the {0:blue star}", ((),), "absent", "attribute", "name nothing because of its attribute"),
    ("the three {0:stars}", ((),), "absent", "count", "'stars' names thing 0"),
    ("the {0:star} above the {1:green circle}", ((), (4,)), "absent", "relation", "things 0, 1, 2 fit"),
    ("the {0:star} above the {1:heart}", ((), ()), "absent", "relation", "relation"),
    ("the {0:stars}", ((0, 1, 2),), "count", "", "reads as 'attribute'"),
    ("the {0:stars}", ((0, 1, 2),), "attribute", "2", "has the detail '2'"),
    ("{0:the red square}", ((5,),), "attribute", "", "are not the words of a description"),
    ("the {0:red} square", ((5,),), "attribute", "", "are not the words of a description"),
    ("the {0:star} right of the {1:blue circle} that is {1:blue}", ((2,), (9,)), "relation", "", "thing 9, of 6"),
]  # fmt: skip


@pytest.mark.parametrize(("marked", "things", "kind", "detail", "why"), FALSE)
def test_false_sentences_are_refused_with_the_reason(
    marked: str, things: tuple[tuple[int, ...], ...], kind: str, detail: str, why: str
) -> None:
    found = faults(record(marked, things, kind, detail), SCENE, SIDE)
    assert any(why in fault for fault in found), found


@pytest.mark.parametrize(("x", "verdict"), [(46, True), (46.5, False), (53, False), (54, False)])
def test_left_begins_at_a_thirty_second_of_the_side(x: float, verdict: bool) -> None:
    items = [thing("red star", x, 10), thing("blue star", 50, 90)]
    assert (
        faults(record("the {0:red star} left of the {1:blue star}", ((0,), (1,)), "relation"), items, SIDE) == []
    ) is verdict


@pytest.mark.parametrize(("far", "verdict"), [(59, True), (53, False), (55, True), (54, True)])
def test_the_nearest_is_nearer_by_a_margin(far: float, verdict: bool) -> None:
    """From 10: the first at 50 is 40 away; 44 is a tenth more, and 4 pixels."""
    items = [thing("red heart", 10, 10), thing("blue star", 50, 10), thing("red star", 10, far)]
    assert (
        faults(record("the {0:star} closest to the {1:heart}", ((1,), (0,)), "relation"), items, SIDE) == []
    ) is verdict


@pytest.mark.parametrize(
    ("x", "y", "verdict"),
    [(60, 50, True), (20, 50, True), (60, 80, True), (19, 50, None), (60, 85, None), (60, 96, False), (9, 50, False)],
)
def test_between_is_a_band_with_a_border_where_nothing_is_said(x: float, y: float, verdict: bool | None) -> None:
    """The line from (10, 50) to (110, 50): a tenth of it at both ends is unclear, and 30 to 45 pixels beside it."""
    items = [thing("red heart", 10, 50), thing("blue heart", 110, 50), thing("red star", x, y)]
    text = "the {0:star} between the {1:red heart} and the {2:blue heart}"
    present = faults(record(text, ((2,), (0,), (1,)), "relation"), items, SIDE) == []
    absent = faults(record(text, ((), (0,), (1,)), "absent", "relation"), items, SIDE) == []
    assert (present, absent) == (verdict is True, verdict is False)


def test_what_is_larger_is_so_by_15_percent_of_the_side() -> None:
    for side, verdict in ((11.5, True), (11.4, False), (8.0, False)):
        items = [thing("red star", 20, 20, side), thing("blue star", 80, 20, 10)]
        found = faults(record("the {0:red star} larger than the {1:blue star}", ((0,), (1,)), "compare"), items, SIDE)
        assert (found == []) is verdict


CELLS = Vocabulary(
    {"red cell": ("red cells", "RBC"), "white cell": ("white cells", "WBC"), "platelet": ("platelets", "P")}
)


@pytest.mark.parametrize(
    ("marked", "things", "kind", "detail"),
    [
        ("the {0:white cell}", ((2,),), "attribute", ""),
        ("two {0:red cells} and a {1:white cell}", ((0, 1), (2,)), "list", ""),
        ("the {0:red cell} above the {1:white cell}", ((0,), (2,)), "relation", ""),
        ("the second {0:platelet} from the left", ((4,),), "ordinal", ""),
        ("the largest {0:red cell}", ((1,),), "compare", ""),
        ("the {0:platelet} left of the {1:red cell} below the {2:white cell}", ((3,), (1,), (2,)), "chain", "2"),
        ("the four {0:platelets}", ((),), "absent", "count"),
    ],
)
def test_other_things_have_other_words(
    marked: str, things: tuple[tuple[int, ...], ...], kind: str, detail: str
) -> None:
    centers = [
        ("RBC", 100, 50, 60),
        ("RBC", 300, 400, 90),
        ("WBC", 200, 200, 120),
        ("P", 50, 300, 20),
        ("P", 500, 90, 20),
    ]
    items = [Item(name, "", "", "", (x - w / 2, y - w / 2, w, w)) for name, x, y, w in centers]
    caption = record(marked, things, kind, detail)
    assert faults(caption, items, 640, CELLS) == []
    assert faults(caption, items, 640)  # which are no words of made scenes


@pytest.mark.parametrize(
    "text",
    ["", "   ", "?", "the", "the red", "star left of", "the star left of the", "the star the heart", "the starr",
     "la étoile", "first star", "from the left, the star", "left of the star the heart",
     "the star of the same as the heart",
     "the one", "the star that red", "exactly star stars", "the two largest stars", "the hearts left of the stars"],
)  # fmt: skip
def test_what_is_not_of_the_language_is_said_to_be_so(text: str) -> None:
    with pytest.raises(NotUnderstoodError, match=re.escape(repr(text))):
        parse(text)


def test_a_mixture_is_of_no_kind() -> None:
    assert kind_of(parse("the largest star left of the heart")) == ("", "")
    assert kind_of(parse("the star left of the heart and a circle")) == ("", "")
