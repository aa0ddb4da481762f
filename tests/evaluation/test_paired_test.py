"""The paired test: equal detectors rarely differ, different ones do, and the number of comparisons counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.evaluation.comparison import paired_test as module
from detr_mini.evaluation.comparison.paired_test import _p_values, holm, paired_test
from detr_mini.evaluation.metrics.matching import Matches, match, side_by_side
from made_detections import CATEGORIES, Records, made
from training_parts import unchecked

NAMES = CATEGORIES.names


def matched(truth: dict, records: Records, areas: int = 4) -> Matches:
    return match(truth, records, CATEGORIES.ids, [image["id"] for image in truth["images"]], areas=areas)


def told_apart(images: int, cases: int, seed: int = 0, objects: float = 2.5) -> float:
    """How often any number of two equally good detectors is called different.

    On every image of every case a coin says which of two detectors is the first, so that the two are equal exactly.
    The measured difference counts as one of 41, so the level is 2 in 41: 4.9 %. If it did not count, it would be 3 in
    41: 7.3 %.
    """
    population = max(2000, 4 * images)
    truth, records = made(population, seed, detectors=2, objects=objects)
    both = side_by_side(*(matched(truth, own, areas=1) for own in records))
    rng = np.random.default_rng(seed)
    count = 0
    for case in range(cases):
        drawn, coin = rng.integers(0, population, images), rng.integers(0, 2, images)
        first, second = (both.take(drawn + population * side) for side in (coin, 1 - coin))
        count += any(row.real for row in paired_test(first, second, NAMES, 40, seed=case))
    return count / cases


def test_equal_detectors_rarely_differ() -> None:
    with unchecked():
        assert told_apart(40, 150) <= 0.09  # 4.9 %, within the uncertainty of 150 cases


@pytest.mark.slow
@pytest.mark.parametrize("images", [72, 300, 1000])
def test_equal_detectors_differ_in_at_most_6_5_percent_of_1000_cases(images: int) -> None:
    with unchecked():
        assert told_apart(images, 1000, seed=1, objects=1.5) <= 0.065


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


def test_every_metric_is_compared_and_none_is_more_real_than_alone() -> None:
    truth, (first, second) = made(60, 5, detectors=2)
    rows = paired_test(matched(truth, first), matched(truth, second), NAMES, 200)
    assert {row.name for row in rows} >= {"AP", "AP50", "APs", "APm", "APl", "AP/bolt", "AP/nut", "AP/washer"}
    by_p = sorted(rows, key=lambda row: row.adjusted)
    assert all(row.adjusted >= row.p - 0.05 for row in by_p)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.floats(0.2, 3))
def test_more_comparisons_never_make_a_difference_more_real(seed: int, few: int, more: int, size: float) -> None:
    rng, count = np.random.default_rng(seed), few + more
    differences = rng.normal(size=(60, count)) @ rng.normal(size=(count, count))  # they depend on each other
    differences[0] *= size
    among, alone = (_p_values(differences[:, :n], np.zeros(n, bool)) for n in (count, few))
    assert (among[0][:few] == alone[0]).all()
    assert (among[1][:few] >= alone[1] - 1e-9).all()
    assert (among[1] >= among[0] - 1e-9).all()


def test_among_many_comparisons_a_difference_must_be_larger_to_be_real() -> None:
    differences = np.random.default_rng(0).normal(size=(1000, 9))
    differences[0] = [1.7, *[0.0] * 8]
    alone, among = (_p_values(differences[:, :n], np.zeros(n, bool))[1][0] for n in (1, 9))
    assert alone == pytest.approx(0.09, abs=0.03)
    assert among == pytest.approx(1 - (1 - 0.09) ** 9, abs=0.1)


@pytest.mark.parametrize("rounds", [7, 40])
def test_rounds_are_the_same_however_many_are_computed_at_once(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, (first, second) = made(25, 7, detectors=2)
    sides = matched(truth, first, areas=1), matched(truth, second, areas=1)
    together = paired_test(*sides, NAMES, rounds)
    monkeypatch.setattr(module, "AT_ONCE", 7 * 25)
    assert max(map(len, module._swaps(25, rounds, 0))) == 8  # the first part has the measured row as well
    for one, other in zip(paired_test(*sides, NAMES, rounds), together, strict=True):
        assert (one.name, one.real) == (other.name, other.real)
        for field in ("first", "second", "noise", "p", "adjusted"):
            assert getattr(one, field) == pytest.approx(getattr(other, field), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(p <= q <= min(1, len(values) * p) + 1e-12 for p, q in zip(values, adjusted, strict=True))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_holm_gives_the_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
