"""The confusion matrix, precision over recall, and the best threshold."""

from __future__ import annotations

import numpy as np
import pytest

from detr_mini.evaluation.metrics.coco import evaluate
from detr_mini.evaluation.metrics.confusion import best_threshold, confusion, precision_at_recalls
from detr_mini.evaluation.metrics.matching import match
from made_detections import CATEGORIES, made


def test_every_object_and_every_confident_detection_is_counted_once() -> None:
    truth, (records,) = made(40, 2)
    counts = confusion(truth, records, CATEGORIES.ids, range(1, 41), 0.4)
    for k, category in enumerate(CATEGORIES.ids):
        assert counts[k].sum() == sum(a["category_id"] == category for a in truth["annotations"])
        assert counts[:, k].sum() == sum(r["category_id"] == category and r["score"] >= 0.4 for r in records)
    assert counts[-1, -1] == 0


def test_the_right_category_takes_precedence_over_a_larger_overlap() -> None:
    truth = {"annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 100, 100]},
                             {"image_id": 1, "category_id": 5, "bbox": [5, 0, 100, 100]}]}  # fmt: skip
    records = [{"image_id": 1, "category_id": 2, "bbox": [5, 0, 100, 100], "score": 0.9}]
    counts = confusion(truth, records, CATEGORIES.ids, [1], 0.5)
    assert counts[0, 0] == 1
    assert counts[1, -1] == 1


def test_detections_in_a_crowd_region_are_left_out() -> None:
    truth = {"annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 300, 300], "iscrowd": 1}]}
    records = [{"image_id": 1, "category_id": 2, "bbox": [5, 5, 20, 20], "score": 0.9}]
    assert confusion(truth, records, CATEGORIES.ids, [1], 0.5).sum() == 0


def test_the_mean_of_the_curve_is_ap() -> None:
    truth, (records,) = made(30, 4)
    matches = match(truth, records, CATEGORIES.ids, range(1, 31))
    metrics = evaluate(truth, records, CATEGORIES)
    for name, (ranking, *_) in zip(CATEGORIES.names, matches.rankings, strict=True):
        curves = [precision_at_recalls(ranking, t) for t in range(10)]
        assert np.mean(curves) == pytest.approx(metrics[f"AP/{name}"])
        assert all((np.diff(curve) <= 0).all() for curve in curves)


def test_no_threshold_has_a_better_f1_than_the_best() -> None:
    truth, (records,) = made(30, 4)
    threshold, f1 = best_threshold(match(truth, records, CATEGORIES.ids, range(1, 31)))

    def at(score: float) -> float:
        kept = [r for r in records if r["score"] >= score]
        ranges = match(truth, kept, CATEGORIES.ids, range(1, 31), areas=1).rankings
        found = sum(int((ranking.state[0] == 1).sum()) for (ranking,) in ranges)
        return 2 * found / (len(kept) + len(truth["annotations"]))

    assert at(threshold) == pytest.approx(f1)
    assert all(at(score) <= f1 + 1e-12 for score in np.linspace(0.02, 0.98, 49))


def test_without_true_positives_the_threshold_is_0_5() -> None:
    assert best_threshold(match({"annotations": []}, [], CATEGORIES.ids, [1])) == (0.5, 0.0)
