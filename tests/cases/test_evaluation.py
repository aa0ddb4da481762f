"""Cases from public reports: evaluation (E-01 to E-06)."""

from __future__ import annotations

import pytest

from detr_mini.evaluation.metrics.coco import evaluate, score
from detr_mini.evaluation.report.table import summary
from detr_mini.structures import Categories

ONE = Categories((1,), ("bolt",))
TWO = Categories((1, 2), ("bolt", "nut"))


def truth(*annotations: tuple[int, int, list[float]], images: int = 1, first_id: int = 1) -> dict:
    return {
        "images": [{"id": i} for i in range(1, images + 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (image, category, box) in enumerate(annotations, first_id)
        ],
    }


def found(image: int, category: int, box: list[float], score: float) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


BOX = [10.0, 10.0, 30.0, 40.0]


def test_E_01_an_annotation_with_id_0_can_be_found() -> None:
    assert evaluate(truth((1, 1, BOX), first_id=0), [found(1, 1, BOX, 0.9)], ONE)["AP"] == pytest.approx(1)


@pytest.mark.parametrize(("limit", "expected"), [(300, 1.0), (100, 0.663)])
def test_E_02_the_headline_ap_is_taken_at_the_limit_in_use(limit: int, expected: float) -> None:
    boxes = [[20.0 * (i % 15), 20.0 * (i // 15), 10.0, 10.0] for i in range(150)]
    metrics = evaluate(
        truth(*((1, 1, box) for box in boxes)), [found(1, 1, box, 0.5) for box in boxes], ONE, detection_limit=limit
    )
    assert metrics["AP"] == pytest.approx(expected, abs=1e-3)
    assert metrics["detection_limit"] == limit
    assert metrics["AR100"] == pytest.approx(100 / 150)
    assert metrics["AR10"] == pytest.approx(10 / 150)
    assert -1 not in metrics.values()


def test_E_03_detections_on_pictures_without_objects_are_false_alarms() -> None:
    metrics = evaluate(truth((1, 1, BOX), images=2), [found(1, 1, BOX, 0.5), found(2, 1, BOX, 0.9)], ONE)
    assert metrics["AP"] == pytest.approx(0.5)
    assert metrics["images"] == 2


def test_E_04_pictures_without_predictions_count() -> None:
    metrics = evaluate(truth((1, 1, BOX), (2, 1, BOX), images=2), [found(1, 1, BOX, 0.5)], ONE)
    assert metrics["AP"] == pytest.approx(0.505, abs=1e-3)
    assert metrics["AR100"] == pytest.approx(0.5)


def test_E_05_low_scores_count_in_ap() -> None:
    there = truth((1, 1, BOX), (2, 1, BOX), images=2)
    everything = [found(1, 1, BOX, 0.9), found(2, 1, BOX, 0.01)]
    assert evaluate(there, everything, ONE)["AP"] == pytest.approx(1)
    assert evaluate(there, [r for r in everything if r["score"] > 0.8], ONE)["AP"] < 0.6


def test_E_06_detections_of_a_class_without_objects_are_told() -> None:
    results = [found(1, 1, BOX, 1.0)] + [found(1, 2, [float(i), 0.0, 5.0, 5.0], 0.95) for i in range(50)]
    scores = score(truth((1, 1, BOX)), results, TWO)
    row = scores.classes[1]
    assert (row.name, row.images, row.truths, row.detections, row.AP, row.AP50) == ("nut", 0, 0, 50, None, None)
    assert scores.metrics["AP"] == pytest.approx(1)
    assert scores.metrics["AP/nut"] is None
    assert scores.metrics["categories_scored"] == 1
    assert "means over 1 of 2 categories" in summary(scores)
    assert "50 detections of categories without an object (nut)" in summary(scores)
