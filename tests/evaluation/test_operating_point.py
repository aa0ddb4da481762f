"""The operating point of a detector: score threshold and overlap suppression, chosen on val."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detr_mini.errors import ConfigError
from detr_mini.evaluation.metrics.operating_point import AUTO, FEWEST_OBJECTS, choose, settled
from detr_mini.models.heads import suppress
from detr_mini.pretrained.checkpoints import operating_point
from detr_mini.structures import Categories, Detections, OperatingPoint

CATEGORIES = Categories((1, 2), ("cell", "plate"))
IMAGES = tuple(range(30))


def box(x: float, image: int, category: int = 1, **more: Any) -> dict[str, Any]:
    area = {"area": 400.0, "iscrowd": 0} if "score" not in more else {}
    return {"image_id": image, "category_id": category, "bbox": [x, 10.0, 20.0, 20.0], **area, **more}


def truth(apart: float = 40.0) -> dict[str, Any]:
    """Two objects of one category in each image, `apart` pixels from each other."""
    annotations = [box(10.0 + apart * k, image) for image in IMAGES for k in range(2)]
    return {
        "images": [{"id": image, "width": 100, "height": 100} for image in IMAGES],
        "annotations": [{"id": i + 1, **annotation} for i, annotation in enumerate(annotations)],
        "categories": CATEGORIES.records(),
    }


def found(apart: float = 40.0, doubled: bool = False) -> list[dict[str, Any]]:
    """Every object found with a score of 0.3 and more, false alarms below 0.2; `doubled`: most of them twice."""
    records = []
    for image in IMAGES:
        for k in range(2):
            score = 0.3 + 0.01 * image
            records.append(box(10.0 + apart * k, image, score=score))
            if doubled:
                records.append(box(11.0 + apart * k, image, score=score - 0.005))
        records.append(box(70.0, image, score=0.1))
    return records


def test_duplicates_are_suppressed_where_that_raises_ap() -> None:
    point = choose(truth(), found(doubled=True), IMAGES, CATEGORIES)
    assert point.suppress_iou is not None


def test_nothing_is_suppressed_without_duplicates() -> None:
    assert choose(truth(), found(), IMAGES, CATEGORIES).suppress_iou is None


def test_objects_that_overlap_are_not_suppressed() -> None:
    """Boxes of 20 pixels that stand 4 apart have an IoU of 0.67."""
    point = choose(truth(4.0), found(4.0), IMAGES, CATEGORIES)
    assert point.suppress_iou is None or point.suppress_iou > 0.67


def test_u11_the_threshold_separates_right_from_wrong_detections() -> None:
    point = choose(truth(), found(), IMAGES, CATEGORIES)
    assert 0.1 < point.threshold <= 0.3


def test_u11_with_few_objects_the_default_threshold_is_kept() -> None:
    images = IMAGES[: FEWEST_OBJECTS // 2 - 1]
    assert choose(truth(), found(), images, CATEGORIES).threshold == OperatingPoint.threshold


def test_an_empty_val_leaves_the_defaults() -> None:
    nothing = {**truth(), "annotations": []}
    assert choose(nothing, found(), IMAGES, CATEGORIES) == OperatingPoint()
    assert choose(truth(), [], IMAGES, CATEGORIES) == OperatingPoint()


def test_a_setting_of_the_user_is_kept() -> None:
    point = choose(truth(), found(doubled=True), IMAGES, CATEGORIES, threshold=0.9, suppress_iou=None)
    assert point == OperatingPoint(0.9, None)
    assert settled({"threshold": 0.2, "suppress_iou": 0.6}) == OperatingPoint(0.2, 0.6)
    assert settled({"threshold": AUTO, "suppress_iou": AUTO}) == settled(None) == OperatingPoint()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threshold": 50}, r"operating_point\.threshold is 50; it must be auto or a score from 0 to 1"),
        ({"suppress_iou": 0}, r"operating_point\.suppress_iou is 0; it must be auto, null or an IoU above 0"),
        ({"suppress_iou": "often"}, r"operating_point\.suppress_iou is 'often'; it must be auto, null"),
    ],
)
def test_an_invalid_setting_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        settled(settings)


def test_a_checkpoint_without_a_valid_operating_point_has_the_defaults() -> None:
    assert operating_point({}) == OperatingPoint()
    assert operating_point({"operating_point": [1]}) == OperatingPoint()
    assert operating_point({"operating_point": {"threshold": "x", "suppress_iou": 7}}) == OperatingPoint()
    kept = {"operating_point": {"threshold": 0.31, "suppress_iou": 0.6}}
    assert operating_point(kept) == OperatingPoint(0.31, 0.6)


def test_suppression_keeps_the_best_of_each_category_in_order() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [1, 0, 10, 10], [30, 30, 40, 40]])
    every = Detections(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 0, 0]), CATEGORIES)
    assert suppress(every, 0.5).scores.tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert suppress(every, None) is every
