"""Detections to COCO records and to `supervision`."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
import torch

from detr_mini.boxes import box_iou, xywh_to_xyxy
from detr_mini.errors import UserError
from detr_mini.inference.detections import Detections as Found
from detr_mini.inference.detections import to_coco_records
from detr_mini.structures import Categories, Detections

CATEGORIES = Categories((7, 2905442), ("bolt", "nut"))


def detections(n: int = 50) -> Detections:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(n, 2, generator=generator) * 300
    boxes = torch.cat([low, low + 4 + torch.rand(n, 2, generator=generator) * 100], 1)
    return Detections(boxes, torch.rand(n, generator=generator), torch.arange(n) % 2, CATEGORIES)


def test_records_have_the_ids_of_the_data_and_hardly_move_a_box() -> None:
    found = detections()
    records = json.loads(json.dumps(to_coco_records(found, 42)))
    assert {r["image_id"] for r in records} == {42}
    assert [r["category_id"] for r in records] == list(found.category_ids)
    again = xywh_to_xyxy(torch.tensor([r["bbox"] for r in records]))
    assert box_iou(found.boxes, again).diagonal().min() > 0.999
    assert torch.allclose(torch.tensor([r["score"] for r in records]), found.scores, atol=1e-6)


def test_a_record_is_short() -> None:
    assert all(len(json.dumps(r)) < 120 for r in to_coco_records(detections(), 1))


def test_nothing_found_is_an_empty_list() -> None:
    assert to_coco_records(detections()[:0], 1) == []


def test_supervision_gets_boxes_scores_and_names() -> None:
    pytest.importorskip("supervision", reason="the package supervision is not installed")
    found = detections(4)
    theirs = Found.of(found).to_supervision()
    assert np.array_equal(theirs.xyxy, found.boxes.numpy())
    assert np.array_equal(theirs.confidence, found.scores.numpy())
    assert theirs.class_id.tolist() == found.labels.tolist()
    assert list(theirs.data["class_name"]) == list(found.names)


def test_a_missing_supervision_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "supervision":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install supervision"):
        Found.of(detections(1)).to_supervision()
