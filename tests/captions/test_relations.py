"""Sets of things: relations are opposite to each other, and say None where one may argue."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detr_mini.captions.templates.relations import SIDES, Relations, members
from detr_mini.captions.templates.scene import Item

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def items(*boxes: tuple[float, float, float, float]) -> list[Item]:
    return [Item("star", "red", "small", "plain", box) for box in boxes]


boxes = st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(5, 28), st.floats(5, 28))
scenes = st.lists(boxes, min_size=2, max_size=6).map(lambda given: Relations(items(*given), 128))


@given(st.sets(st.integers(0, 20)))
def test_members_are_those_of_the_set(things: set[int]) -> None:
    assert members(sum(1 << thing for thing in things)) == tuple(sorted(things))


@given(scenes, st.sampled_from(SIDES))
def test_a_is_left_of_b_where_b_is_right_of_a(relations: Relations, side: str) -> None:
    one, other = relations.beside(side, 0, 0b10), relations.beside(OPPOSITE[side], 1, 0b01)
    assert (one is None) == (other is None)
    assert bool(one) == bool(other)
    assert one is None or bool(one) != bool(relations.beside(OPPOSITE[side], 0, 0b10))


@given(scenes)
def test_nobody_stands_in_a_relation_to_itself(relations: Relations) -> None:
    alone = 1
    assert relations.beside("left", 0, alone) == relations.nearest(0, alone) == relations.larger(0, alone) == 0
    assert relations.same("shape", 0, relations.everything) == relations.everything & ~1


@given(scenes, st.sampled_from(SIDES))
def test_a_row_holds_everybody_in_order(relations: Relations, side: str) -> None:
    row = relations.ranked(side, relations.everything)
    if row is not None:
        assert sorted(row) == list(range(len(relations.items)))
        assert relations.ranked(OPPOSITE[side], relations.everything) == row[::-1]
        assert relations.beside(side, row[1], 1 << row[0]) == 1 << row[0]


def test_what_one_may_argue_about_is_none() -> None:
    relations = Relations(items((0, 0, 10, 10), (2, 50, 10, 10), (52, 0, 10, 10), (60, 60, 11, 10)), 128)
    assert relations.beside("left", 0, 0b10) is None  # two pixels
    assert relations.beside("below", 0, 0b10) == 0b10
    assert relations.larger(2, 0b1000) is None  # 5 % longer
    assert relations.largest(0b1100) is None
    assert relations.nearest(0, 0b0110) is None  # 50 and 52 pixels
    assert relations.nearest(0, 0b1010) == 0b10


def test_between_is_near_the_line_and_not_at_its_ends() -> None:
    ends = [(0, 50, 10, 10), (100, 50, 10, 10)]
    for box, expected in (
        ((50, 55, 10, 10), 0b100),
        ((50, 100, 10, 10), 0),
        ((50, 90, 10, 10), None),
        ((-20, 50, 10, 10), 0),
    ):
        assert Relations(items(*ends, box), 128).between(0, 1, 0b100) == expected
