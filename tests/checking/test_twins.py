"""Boxes that occur twice in one image: found without comparing all with all at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float

from detr_mini.checking import boxes
from detr_mini.checking.boxes import AT_ONCE, SAME, _twins, overlaps

SIDE = 20.0


def plain(found: Float[np.ndarray, "n 4"]) -> list[tuple[int, int]]:
    """All pairs, from the matrix of all overlaps."""
    return [(a, b) for a, b in np.argwhere(np.triu(overlaps(found, found) >= SAME, 1)).tolist()]


@st.composite
def crowded(draw: st.DrawFn) -> Float[np.ndarray, "n 4"]:
    """Boxes around few places, which differ by a hundredth of their side or so; more than are compared at once."""
    count, places = draw(st.integers(1, 3 * AT_ONCE)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    base = rng.uniform(0, 300, (places, 4)) * [1, 1, 0.3, 0.3] + [0, 0, 1, 1]
    found: np.ndarray = base[rng.integers(0, places, count)]
    spread = draw(st.sampled_from([0.0, 0.003, 0.01, 0.03]))
    return found + rng.normal(0, 1, found.shape) * found[:, [2, 3, 2, 3]] * spread * rng.integers(0, 2, (count, 1))


@given(crowded())
def test_the_same_pairs_are_found_in_the_same_order_as_among_all_pairs(found: Float[np.ndarray, "n 4"]) -> None:
    assert _twins(found) == plain(found)


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_pair_at_the_limit_is_found_and_one_past_it_is_not(axis: int, sign: int) -> None:
    # two boxes of one width that lie d apart have the IoU (w - d) / (w + d)
    limit = SIDE * ((1 - SAME) / (1 + SAME) if axis == 0 else 1 - SAME if sign < 0 else 1 / SAME - 1)
    for share, pairs in ((0.999, [(0, 1)]), (1.001, [])):
        found = np.array([[5, 5, SIDE, SIDE]] * 2)
        found[1, axis] += sign * limit * share
        assert _twins(found) == plain(found) == pairs


def test_thousands_of_boxes_of_one_image_are_never_in_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        sizes.append(len(one) * len(two))
        return overlaps(one, two)

    monkeypatch.setattr(boxes, "overlaps", counted)
    rng = np.random.default_rng(0)
    found = np.concatenate([rng.uniform(0, 4000, (4000, 2)), rng.uniform(5, 60, (4000, 2))], 1)
    found[3999] = found[7]
    assert _twins(found) == [(7, 3999)]
    assert max(sizes) <= AT_ONCE * len(found) / 5
    assert sum(sizes) <= len(found) ** 2 / 5


def test_one_box_has_no_twin() -> None:
    assert _twins(np.array([[1.0, 2.0, 3.0, 4.0]])) == []
