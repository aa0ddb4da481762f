"""Scenes for sentences: the same seed gives the same, and the pairs kept from training stay out of it."""

from __future__ import annotations

import numpy as np
import pytest

from detr_mini.captions.scenes import OBJECTS, SIDES, UNSEEN, draw_items


def test_the_same_numbers_give_the_same_scene_and_others_others() -> None:
    one, again, other = draw_items(0, "train", 3, 64), draw_items(0, "train", 3, 64), draw_items(0, "val", 3, 64)
    assert np.array_equal(one[0], again[0])
    assert one[1] == again[1]
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("split", ["train", "val", "test_wording"])
def test_pairs_kept_from_training_are_in_no_thing(split: str) -> None:
    scenes = [draw_items(0, split, index, 64)[1] for index in range(30)]
    assert not {(item.color, item.shape) for items in scenes for item in items} & UNSEEN
    assert all(len(items) <= OBJECTS[1] for items in scenes)


def test_the_split_for_them_shows_them() -> None:
    scenes = [draw_items(0, "test_composition", index, 64)[1] for index in range(60)]
    assert {(item.color, item.shape) for items in scenes for item in items} >= UNSEEN


def test_small_and_large_things_cannot_be_taken_for_each_other() -> None:
    for index in range(20):
        for item in draw_items(1, "train", index, 128)[1]:
            assert max(item.box[2:]) <= SIDES[item.size][1]
            assert min(item.box[:2]) >= 0
            assert item.box[0] + item.box[2] <= 128
            assert item.box[1] + item.box[3] <= 128
