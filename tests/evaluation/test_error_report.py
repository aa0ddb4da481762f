"""The error report: its files, and the images that cost most AP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detr_mini.evaluation.metrics.coco import evaluate
from detr_mini.evaluation.metrics.errors_by_type import TYPES, errors_by_type
from detr_mini.evaluation.metrics.grounding import Answer, Asked
from detr_mini.evaluation.metrics.matching import match
from detr_mini.evaluation.metrics.subset import Subset
from detr_mini.evaluation.report import measure
from detr_mini.evaluation.report.error_report import WORST, worst_images, write_error_report
from detr_mini.evaluation.report.measure import SHOWN, Measured, evaluate_subset, pair_of
from detr_mini.formats.coco import read_coco
from detr_mini.formats.split import ImageRecord
from detr_mini.structures import Detections
from made_detections import CATEGORIES, made

MakeCoco = Callable[..., tuple[Path, Path]]
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
    part = Subset(truth.image_ids, truth.categories)
    scores, matches = evaluate_subset(truth.truth, records, part, resamples=0)
    return Measured(scores, records, found, truth, 1.0, part, matches)


def test_the_report_writes_its_pictures_and_numbers(measured: Measured, tmp_path: Path) -> None:
    report = write_error_report(tmp_path, measured, "made")
    assert json.loads((tmp_path / "report.json").read_text()) == report
    for name in FILES:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
    assert set(report["errors"]) == set(TYPES)
    assert report["AP50"] == pytest.approx(measured.scores.metrics["AP50"])


def test_an_image_without_detections_is_missed_and_among_the_costliest(measured: Measured, tmp_path: Path) -> None:
    report = write_error_report(tmp_path, measured, "made")
    objects = [len(measured.truth.target(image_id).labels) for image_id in measured.truth.image_ids]
    assert report["errors"]["missed"]["count"] == sum(objects[:2])
    assert sum(error["count"] for error in report["errors"].values()) == sum(objects[:2])
    blank = {measured.truth.image_ids[i] for i in (0, 1) if objects[i]}
    assert {row["image_id"] for row in report["worst"]} == blank
    assert all(row["cost"] > 0 for row in report["worst"])


def test_the_cost_of_an_image_is_the_ap_gained_without_it() -> None:
    truth, (records,) = made(30, 6)
    matches = match(truth, records, CATEGORIES.ids, range(1, 31))
    worst = worst_images(matches, errors_by_type(truth, records, CATEGORIES.ids, range(1, 31)), 0.3)
    whole = evaluate(truth, records, CATEGORIES)["AP"]
    assert 0 < len(worst) <= WORST
    assert [cost for _, cost in worst] == sorted((cost for _, cost in worst), reverse=True)
    for place, cost in worst[:3]:
        others = [i for i in range(1, 31) if i != place + 1]
        assert evaluate(truth, records, CATEGORIES, image_ids=others)["AP"] - whole == pytest.approx(cost)


def test_a_detector_without_detections_has_a_report_too(measured: Measured, tmp_path: Path) -> None:
    truth = measured.truth
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), truth.categories)
    scores, matches = evaluate_subset(truth.truth, [], measured.subset, resamples=20)
    silent = Measured(scores, [], dict.fromkeys(truth.image_ids, nothing), truth, 1.0, measured.subset, matches)
    report = write_error_report(tmp_path, silent, "silent")
    assert report["AP50"] == 0
    assert np.array(report["confusion"]["counts"])[:, :-1].sum() == 0


def test_no_picture_of_a_gallery_is_kept_at_full_size(make_coco: MakeCoco) -> None:
    path, folder = make_coco("val", images=[{"id": 1}], annotations=[{"bbox": [300, 30, 600, 60]}], size=(120, 2400))
    truth = read_coco(path, folder, split="val")
    boxes = torch.tensor([[300.0, 30, 900, 90]])
    one = Detections(boxes, torch.tensor([0.9]), torch.tensor([0]), truth.categories, image_size=(120, 2400))
    part = Subset(truth.image_ids, truth.categories)
    scores, matches = evaluate_subset(truth.truth, [], part, resamples=0)
    pair = pair_of(Measured(scores, [], {1: one}, truth, 1.0, part, matches), truth.records.of_id(1))
    height, width = pair.image.shape[1:]
    assert (height, width) == (round(120 * SHOWN / 2400), SHOWN)
    shares = pair.detections.boxes / torch.tensor([width, height, width, height])
    torch.testing.assert_close(shares, torch.tensor([[0.125, 0.25, 0.375, 0.75]]))
    torch.testing.assert_close(pair.target.boxes, torch.tensor([[0.25, 0.5, 0.25, 0.5]]))


def test_each_answer_is_drawn_before_the_next_image_is_read(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, pixels = list[int](), ImageRecord.pixels

    def counted(record: ImageRecord) -> torch.Tensor:
        read.append(record.image_id)
        return pixels(record)

    def drawn(cards: Iterable[object], *_: object) -> None:
        for count, _card in enumerate(cards, start=1):
            assert len(read) == count

    monkeypatch.setattr(ImageRecord, "pixels", counted)
    monkeypatch.setattr(measure, "draw_captions", drawn)
    asked = (Asked(((4, 8),), torch.zeros(0, 4)),)
    answers = tuple(Answer("list", asked, (), (64, 64), "the cats", image_id) for image_id in measured.truth.image_ids)
    measured.scores.metrics["grounding/accuracy"] = 1.0
    measure._draw_answers(tmp_path / "captions.png", replace(measured, answers=answers), 4, "made")
    assert len(read) == 4
