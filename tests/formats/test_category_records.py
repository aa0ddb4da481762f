from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.errors import DataError
from detr_mini.formats.category_records import align, categories_of, distinct
from detr_mini.structures import Categories

FILE = Path("val.json")
KNOWN = Categories((1, 2, 90), ("bolt", "nut", "washer"))


def listing(*pairs: tuple[int, str], **more: str) -> dict[str, object]:
    return {"categories": [{"id": i, "name": n, **more} for i, n in pairs]}


@given(st.permutations([(1, "bolt"), (2, "nut"), (90, "washer")]))
def test_the_order_of_the_listing_means_nothing(pairs: list[tuple[int, str]]) -> None:
    categories, label_of, notices = categories_of(listing(*pairs), FILE, {})
    assert categories == KNOWN
    assert label_of == {1: 0, 2: 1, 90: 2}
    assert align(listing(*pairs), FILE, {}, KNOWN) == (label_of, [])
    assert notices == []


def test_a_name_with_another_id_is_mapped_by_name_with_a_notice() -> None:
    label_of, notices = align(listing((7, "nut"), (1, "bolt")), FILE, {7: 3}, KNOWN)
    assert label_of == {7: 1, 1: 0}
    assert notices == ["category 'nut' has id 7 here and 2 in training: mapped by name"]


def test_a_name_that_training_lacks_is_refused_where_it_has_boxes() -> None:
    with pytest.raises(
        DataError, match=r"category 2 'nuts' of val\.json has 3 annotations .*there 2 is 'nut'; did you"
    ):
        align(listing((2, "nuts")), FILE, {2: 3}, KNOWN)
    label_of, notices = align(listing((2, "nuts")), FILE, {}, KNOWN)
    assert label_of == {}
    assert "left out" in notices[0]


def test_unused_categories_stay_and_so_do_groups_that_are_used() -> None:
    content = listing((0, "parts"), (1, "bolt"), (2, "nut"), supercategory="parts")
    assert len(categories_of(content, FILE, {0: 1})[0]) == 3
    categories, _, notices = categories_of(content, FILE, {1: 1})
    assert categories.names == ("bolt", "nut")
    assert notices == ["category 0 'parts' is a group without boxes and left out"]


def test_a_category_that_is_its_own_supercategory_stays() -> None:
    content = {"categories": [{"id": 1, "name": "person", "supercategory": "person"}]}
    assert categories_of(content, FILE, {})[0].names == ("person",)


def test_a_name_that_training_has_in_decomposed_characters_is_the_same_name() -> None:
    label_of, _ = align(listing((4, "caf\u00e9")), FILE, {4: 2}, Categories((7,), ("cafe\u0301",)))
    assert label_of == {4: 0}


def test_names_that_look_the_same_are_shown_by_their_characters() -> None:
    with pytest.raises(DataError, match=r"category 1 '\\ufb01sh' of .*there 1 is 'fish'"):
        align(listing((1, "\ufb01sh")), FILE, {1: 2}, Categories((1,), ("fish",)))
    assert distinct("fish", "fowl") == "'fish'"
    assert distinct("caf\u00e9", "cafe\u0301") == "'caf\\xe9'"
