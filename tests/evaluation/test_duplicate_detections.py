"""Duplicate detections are counted, two objects side by side are not; NMS and its gain."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.evaluation.metrics.duplicate_detections import duplicate_metrics, nms_gain, without_overlaps
from detr_mini.evaluation.metrics.subset import Subset
from detr_mini.evaluation.report.measure import evaluate_subset
from made_detections import CATEGORIES, made

Box = tuple[float, float, float, float]
COORDINATE = st.integers(0, 60)
SIDE = st.integers(1, 40)
BOXES = st.tuples(COORDINATE, COORDINATE, SIDE, SIDE)
RECORDS = st.lists(st.tuples(st.sampled_from([1, 2]), st.sampled_from(CATEGORIES.ids), BOXES, st.floats(0, 1)))


def found(box: Box, score: float, category: int = 2, image: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def truth(*boxes: Box, crowd: int = 0) -> dict[str, Any]:
    annotations = [
        {"id": k, "image_id": 1, "category_id": 2, "bbox": list(box), "area": box[2] * box[3], "iscrowd": crowd}
        for k, box in enumerate(boxes, 1)
    ]
    return {"images": [{"id": 1}, {"id": 2}], "annotations": annotations, "categories": CATEGORIES.records()}


PART = Subset([1, 2], CATEGORIES)


def share(there: dict[str, Any], *records: dict[str, Any], threshold: float = 0.5) -> float | None:
    return duplicate_metrics(there, records, PART, threshold)["doubles"]


def records_of(rows: list[tuple[int, int, Box, float]]) -> list[dict[str, Any]]:
    return [found(box, score, category, image) for image, category, box, score in rows]


def iou(a: dict[str, Any], b: dict[str, Any]) -> float:
    (x, y, w, h), (u, v, s, t) = a["bbox"], b["bbox"]
    common = max(0, min(x + w, u + s) - max(x, u)) * max(0, min(y + h, v + t) - max(y, v))
    return common / (w * h + s * t - common)


A, NEAR, ASIDE = (0, 0, 20, 20), (0, 0, 20, 19), (3, 0, 20, 20)
"""IoU of A and NEAR 0.95, of A and ASIDE 17 / 23 = 0.74."""


def test_the_second_detection_of_an_object_is_a_duplicate() -> None:
    assert share(truth(A), found(A, 0.9)) == 0
    assert share(truth(A), found(A, 0.9), found(NEAR, 0.8)) == 1 / 2
    assert share(truth(A), found(A, 0.9), found(NEAR, 0.8), found(A, 0.7)) == 2 / 3, "a triple is two doubles"


def test_two_detections_of_two_overlapping_objects_are_no_duplicates() -> None:
    assert share(truth(A, ASIDE), found(A, 0.9), found(ASIDE, 0.8)) == 0
    assert share(truth(A, ASIDE), found(A, 0.9), found(ASIDE, 0.8), found(ASIDE, 0.7)) == 1 / 3
    assert share(truth(A), found(A, 0.9), found(ASIDE, 0.8)) == 1 / 2, "with one object they are"


def test_two_detections_of_background_at_one_place_are_duplicates() -> None:
    assert share(truth(), found(A, 0.9), found(A, 0.8)) == 1 / 2


def test_detections_that_differ_in_category_image_or_place_are_no_duplicates() -> None:
    assert share(truth(A), found(A, 0.9), found(A, 0.8, category=5)) == 0
    assert share(truth(A), found(A, 0.9), found(A, 0.8, image=2)) == 0
    assert share(truth(A), found(A, 0.9), found((5, 0, 20, 20), 0.8)) == 0, "IoU 0.6"


def test_only_detections_above_the_threshold_count() -> None:
    records = [found(A, 0.9), found(A, 0.4)]
    assert duplicate_metrics(truth(A), records, PART, 0.5) == {"doubles": 0, "detections_at_threshold": 1}
    assert duplicate_metrics(truth(A), records, PART, 0.4) == {"doubles": 0.5, "detections_at_threshold": 2}
    assert duplicate_metrics(truth(A), records, PART, 0.95) == {"doubles": None, "detections_at_threshold": 0}


def test_detections_in_a_crowd_region_are_no_duplicates() -> None:
    assert share(truth((0, 0, 60, 60), crowd=1), found(A, 0.9), found(NEAR, 0.8)) == 0


def test_images_and_categories_outside_the_subset_do_not_count() -> None:
    records = [found(A, 0.9), found(A, 0.8), found(A, 0.9, image=2)]
    assert duplicate_metrics(truth(A), records, Subset([2], CATEGORIES), 0.5) == {
        "doubles": 0,
        "detections_at_threshold": 1,
    }


@given(RECORDS, RECORDS)
def test_the_share_of_duplicates_does_not_depend_on_order_or_scale(rows: list, objects: list) -> None:
    there = {**truth(), "annotations": [{**record, "id": k} for k, record in enumerate(records_of(objects), 1)]}
    scores = {score for *_, score in rows}
    records = records_of(rows)
    result = duplicate_metrics(there, records, PART, 0.3)
    assert result["detections_at_threshold"] == sum(record["score"] >= 0.3 for record in records)
    if result["doubles"] is not None:
        assert 0 <= result["doubles"] < 1
    if len(scores) == len(rows):  # among equals the order decides
        assert duplicate_metrics(there, records[::-1], PART, 0.3) == result
    moved = [{**r, "bbox": [2 * v for v in r["bbox"]]} for r in records]
    there["annotations"] = [{**a, "bbox": [2 * v for v in a["bbox"]]} for a in there["annotations"]]
    assert duplicate_metrics(there, moved, PART, 0.3) == result, "a picture of twice the size has as many"


@given(RECORDS)
def test_nms_leaves_no_overlap_and_drops_only_what_a_better_one_covers(rows: list) -> None:
    records = records_of(rows)
    kept = without_overlaps(records, 0.6)
    left = [id(record) for record in kept]
    assert left == [id(record) for record in records if id(record) in left], "in their order"
    assert without_overlaps(kept, 0.6) == kept

    def overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
        return (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"]) and iou(a, b) > 0.6

    assert not any(overlap(a, b) for i, a in enumerate(kept) for b in kept[:i])
    for record in records:
        if id(record) not in left:
            assert any(overlap(record, better) and better["score"] >= record["score"] for better in kept)


def test_the_gain_of_nms_is_the_difference_of_cocos_metrics() -> None:
    there, (records,) = made(40, seed=3)
    part = Subset([image["id"] for image in there["images"]], CATEGORIES)
    before, after = (
        evaluate_subset(there, own, part, resamples=0)[0].metrics for own in (records, without_overlaps(records, 0.6))
    )
    gain = nms_gain(there, records, part)
    assert gain["nms_AP"] == pytest.approx(after["AP"] - before["AP"], abs=1e-9)
    assert gain["nms_AP50"] == pytest.approx(after["AP50"] - before["AP50"], abs=1e-9)


def test_nms_only_gains_if_objects_are_found_twice() -> None:
    other = (40, 40, 15, 15)
    once = [found(A, 0.9), found(other, 0.8)]
    assert nms_gain(truth(A, other), once, PART) == {"nms_AP": 0, "nms_AP50": 0}
    assert nms_gain(truth(A, other), [*once, found(A, 0.85)], PART)["nms_AP50"] > 0.1
    assert nms_gain(truth(), once, PART) == {"nms_AP": None, "nms_AP50": None}
