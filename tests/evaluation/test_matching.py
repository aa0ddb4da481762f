"""Matching once and weighting images equals COCOeval on any selection of images, repeats included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.evaluation.metrics.average_precision import WeightedAP, average_precision
from detr_mini.evaluation.metrics.coco import evaluate
from detr_mini.evaluation.metrics.headline import headline_metrics
from detr_mini.evaluation.metrics.matching import Matches, match, side_by_side
from made_detections import CATEGORIES, Records, made

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", *(f"AP/{name}" for name in CATEGORIES.names))


def read(matches: Matches, weights: np.ndarray) -> dict[str, float | None]:
    values = headline_metrics(WeightedAP(matches)(weights[None]), CATEGORIES.names)
    return {name: None if np.isnan(values[name][0]) else float(values[name][0]) for name in NAMES}


def by_coco(truth: dict, records: Records, limit: int = 100) -> dict[str, float | None]:
    metrics = evaluate(truth, records, CATEGORIES, detection_limit=limit)
    return {name: metrics[name] for name in NAMES}


def close(expected: dict[str, float | None]) -> dict[str, object]:
    return {name: None if value is None else pytest.approx(value, abs=1e-12) for name, value in expected.items()}


def chosen(truth: dict, records: Records, images: list[int]) -> tuple[dict, Records]:
    """The data of these image ids, each time as another image."""
    there: Records = []
    found: Records = []
    for number, image in enumerate(images):
        there += [{**a, "image_id": number} for a in truth["annotations"] if a["image_id"] == image]
        found += [{**r, "image_id": number} for r in records if r["image_id"] == image]
    return {**truth, "images": [{"id": n} for n in range(len(images))], "annotations": there}, found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3, 100]), st.booleans())
def test_with_every_image_once_the_metrics_equal_cocoevals(seed: int, limit: int, ties: bool) -> None:
    truth, (records,) = made(6, seed, objects=4, crowd=0.15)
    if ties:
        records = [{**r, "score": round(r["score"], 1)} for r in records]
    matches = match(truth, records, CATEGORIES.ids, range(1, 7), limit)
    assert read(matches, np.ones(6, int)) == close(by_coco(truth, records, limit))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_an_image_counts_as_often_as_its_weight(seed: int, images: list[int]) -> None:
    truth, (records,) = made(8, seed, objects=4, crowd=0.1)
    matches = match(truth, records, CATEGORIES.ids, range(1, 9))
    expected = close(by_coco(*chosen(truth, records, images)))
    assert read(matches, np.bincount(np.array(images) - 1, minlength=8)) == expected
    assert read(matches.take(np.array(images) - 1), np.ones(len(images), int)) == expected


def test_ties_in_iou_are_resolved_as_in_cocoeval() -> None:
    box = [10.0, 10.0, 40.0, 40.0]
    annotation = {"image_id": 1, "category_id": 2, "bbox": box, "area": 1600, "iscrowd": 0}
    truth = {"images": [{"id": 1}], "annotations": [{**annotation, "id": 1}, {**annotation, "id": 2, "area": 500}]}
    records = [{"image_id": 1, "category_id": 2, "bbox": box, "score": s} for s in (0.9, 0.8, 0.7)]
    matches = match(truth, records, CATEGORIES.ids, [1])
    assert read(matches, np.ones(1, int)) == close(by_coco(truth, records))


def test_one_half_of_side_by_side_matches_is_that_detector() -> None:
    truth, (first, second) = made(12, 3, detectors=2)
    a, b = (match(truth, records, CATEGORIES.ids, range(1, 13)) for records in (first, second))
    both = side_by_side(a, b)
    ones, none = np.ones(12, int), np.zeros(12, int)
    assert read(both, np.concatenate([ones, none])) == close(read(a, ones))
    assert read(both, np.concatenate([none, ones])) == close(read(b, ones))


def test_a_category_without_objects_in_the_drawn_images_is_undefined() -> None:
    truth, (records,) = made(8, 1)
    weights = np.array([[int(all(a["image_id"] != i for a in truth["annotations"] if a["category_id"] == 9))
                         for i in range(1, 9)]])  # fmt: skip
    values = WeightedAP(match(truth, records, CATEGORIES.ids, range(1, 9)))(weights)
    assert np.isnan(values[0, 2]).all()
    assert np.isnan(values[0, 0, 0]).sum() == 0


def test_the_mean_of_unbiased_ap_over_samples_is_that_of_all_images() -> None:
    truth, (records,) = made(2000, 5, objects=2)
    matches = match(truth, records, CATEGORIES.ids, range(1, 2001), areas=1)
    judge = WeightedAP(matches)
    drawn = np.random.default_rng(0).multinomial(40, np.full(2000, 1 / 2000), 300)
    whole = judge(np.ones((1, 2000), int))[0, 0, 0].mean()
    biased = judge(drawn)[:, 0, 0].mean() - whole
    unbiased = judge.unbiased(drawn)[:, 0, 0].mean() - whole
    assert biased > 0.01
    assert abs(unbiased) < biased / 3


@pytest.mark.parametrize(
    ("found", "truths", "expected"),
    [([True, True], 2, 1.0), ([False, True], 1, 0.5), ([], 3, 0.0), ([False], 0, None), ([True], 2, 51 / 101)],
)
def test_the_ap_of_small_rankings_is_known(found: list[bool], truths: int, expected: float | None) -> None:
    assert average_precision(np.array(found, bool), truths) == pytest.approx(expected)
