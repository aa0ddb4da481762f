"""The report that says why the numbers are what they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detr_mini.evaluation.coco import evaluate
from detr_mini.evaluation.error_report import WORST, examine, worst_images
from detr_mini.evaluation.errors_by_type import TYPES, errors_by_type
from detr_mini.evaluation.matching import match
from detr_mini.evaluation.measure import Measured, judge
from detr_mini.evaluation.subset import Part
from detr_mini.formats.coco import read_coco
from detr_mini.structures import Detections
from made_detections import CATEGORIES, made

FILES = ("precision_recall.png", "confusion.png", "errors.png", "worst.png")


@pytest.fixture
def measured(scenes_root: Path) -> Measured:
    """The truth itself as detections, with two images left blank."""
    truth = read_coco(scenes_root / "annotations/val.json", scenes_root / "val", split="val")
    found, records = {}, []
    for place, image_id in enumerate(truth.image_ids):
        own = [a for a in truth.truth["annotations"] if a["image_id"] == image_id and place > 1]
        boxes = torch.tensor([a["bbox"] for a in own]).reshape(-1, 4).float()
        labels = torch.tensor([truth.categories.label_of(a["category_id"]) for a in own], dtype=torch.long)
        xyxy = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        found[image_id] = Detections(xyxy, torch.full((len(own),), 0.8), labels, truth.categories)
        records += [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.8} for a in own]
    part = Part(truth.image_ids, truth.categories)
    scores, matches = judge(truth.truth, records, part, resamples=0)
    return Measured(scores, records, found, truth, 1.0, part, matches)


def test_it_writes_its_pictures_and_its_numbers(measured: Measured, tmp_path: Path) -> None:
    report = examine(tmp_path, measured, "made")
    assert json.loads((tmp_path / "report.json").read_text()) == report
    for name in FILES:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
    assert set(report["errors"]) == set(TYPES)
    assert report["AP50"] == pytest.approx(measured.scores.metrics["AP50"])


def test_what_was_left_blank_is_missed_and_among_the_worst(measured: Measured, tmp_path: Path) -> None:
    report = examine(tmp_path, measured, "made")
    objects = [len(measured.truth.target(image_id).labels) for image_id in measured.truth.image_ids]
    assert report["errors"]["missed"]["count"] == sum(objects[:2])
    assert sum(error["count"] for error in report["errors"].values()) == sum(objects[:2])
    blank = {measured.truth.image_ids[i] for i in (0, 1) if objects[i]}
    assert {row["image_id"] for row in report["worst"]} == blank
    assert all(row["cost"] > 0 for row in report["worst"])


def test_an_images_cost_is_what_ap_gains_without_it() -> None:
    truth, (records,) = made(30, 6)
    matches = match(truth, records, CATEGORIES.ids, range(1, 31))
    worst = worst_images(matches, errors_by_type(truth, records, CATEGORIES.ids, range(1, 31)), 0.3)
    whole = evaluate(truth, records, CATEGORIES)["AP"]
    assert 0 < len(worst) <= WORST
    assert [cost for _, cost in worst] == sorted((cost for _, cost in worst), reverse=True)
    for place, cost in worst[:3]:
        others = [i for i in range(1, 31) if i != place + 1]
        assert evaluate(truth, records, CATEGORIES, image_ids=others)["AP"] - whole == pytest.approx(cost)


def test_a_detector_without_detections_is_examined_too(measured: Measured, tmp_path: Path) -> None:
    truth = measured.truth
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), truth.categories)
    scores, matches = judge(truth.truth, [], measured.part, resamples=20)
    silent = Measured(scores, [], dict.fromkeys(truth.image_ids, nothing), truth, 1.0, measured.part, matches)
    report = examine(tmp_path, silent, "silent")
    assert report["AP50"] == 0
    assert np.array(report["confusion"]["counts"])[:, :-1].sum() == 0
