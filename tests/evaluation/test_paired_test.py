"""The paired test: equal detectors rarely differ, different ones do, and the number of comparisons counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.evaluation.comparison.paired_test import holm, paired_test
from detr_mini.evaluation.metrics.matching import Matches, match, side_by_side
from made_detections import CATEGORIES, Records, made

NAMES = CATEGORIES.names


def matched(truth: dict, records: Records, areas: int = 4) -> Matches:
    return match(truth, records, CATEGORIES.ids, [image["id"] for image in truth["images"]], areas=areas)


def told_apart(images: int, cases: int, rounds: int, seed: int = 0, objects: float = 2.5) -> float:
    """How often any number of two equally good detectors is called different.

    On every image of every case a coin says which of two detectors is the first, so that the two are equal exactly.
    """
    population = max(2000, 4 * images)
    truth, records = made(population, seed, detectors=2, objects=objects)
    both = side_by_side(*(matched(truth, own, areas=1) for own in records))
    rng = np.random.default_rng(seed)
    count = 0
    for case in range(cases):
        drawn, coin = rng.integers(0, population, images), rng.integers(0, 2, images)
        first, second = (both.take(drawn + population * side) for side in (coin, 1 - coin))
        count += any(row.real for row in paired_test(first, second, NAMES, rounds, seed=case))
    return count / cases


def test_equal_detectors_rarely_differ() -> None:
    assert told_apart(40, 150, 100) <= 0.09  # 5 %, within the uncertainty of 150 cases


@pytest.mark.slow
@pytest.mark.parametrize("images", [72, 300, 1000])
def test_equal_detectors_differ_in_at_most_6_5_percent_of_1000_cases(images: int) -> None:
    assert told_apart(images, 1000, 100, seed=1, objects=1.5) <= 0.065


def test_a_detector_that_misplaces_one_category_differs_there_and_nowhere_else() -> None:
    truth, (first, second) = made(150, 3, detectors=2)
    rng = np.random.default_rng(0)
    worse = [{**r, "bbox": [r["bbox"][0] + rng.normal(0, 0.2) * r["bbox"][2], *r["bbox"][1:]]}
             if r["category_id"] == 5 else r for r in second]  # fmt: skip
    rows = {row.name: row for row in paired_test(matched(truth, first), matched(truth, worse), NAMES, 500)}
    assert rows["AP/nut"].real
    assert rows["AP/nut"].difference < -0.05
    assert not rows["AP/bolt"].real
    assert not rows["AP/washer"].real


def test_a_detector_does_not_differ_from_itself() -> None:
    truth, (records,) = made(20, 1)
    for row in paired_test(matched(truth, records), matched(truth, records), NAMES, 50):
        assert (row.difference, row.noise, row.p, row.adjusted, row.real) == (0, 0, 1, 1, False)


def test_swapping_the_detectors_only_changes_the_sign() -> None:
    truth, (first, second) = made(30, 2, detectors=2)
    a, b = matched(truth, first), matched(truth, second)
    for there, back in zip(paired_test(a, b, NAMES, 100), paired_test(b, a, NAMES, 100), strict=True):
        assert there.difference == pytest.approx(-back.difference)
        assert (there.first, there.second) == (back.second, back.first)
        assert there.p == pytest.approx(back.p, abs=0.15)


def test_more_comparisons_never_make_a_difference_more_real() -> None:
    truth, (first, second) = made(60, 5, detectors=2)
    rows = paired_test(matched(truth, first), matched(truth, second), NAMES, 200)
    assert {row.name for row in rows} >= {"AP", "AP50", "APs", "APm", "APl", "AP/bolt", "AP/nut", "AP/washer"}
    by_p = sorted(rows, key=lambda row: row.adjusted)
    assert all(row.adjusted >= row.p - 0.05 for row in by_p)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(p <= q <= min(1, len(values) * p) + 1e-12 for p, q in zip(values, adjusted, strict=True))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_holm_gives_the_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
