"""Cases from public reports: prediction (I-03)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import detr_mini.verbs.predict as verb
from detr_mini.inference.detector import Detector
from detr_mini.structures import Categories, Detections, OperatingPoint

CATEGORIES = Categories((5,), ("bolt",))


class Counting(Detector):
    """Finds as many things as the picture's first pixel says."""

    def __init__(self) -> None:
        self.categories = CATEGORIES
        self.operating_point = OperatingPoint()
        self.image = {"size": 64, "shorter_side": None}

    def detect(self, images: list[torch.Tensor], **_: object) -> list[Detections]:  # type: ignore[override]
        found = []
        for image in images:
            n = int(image[0, 0, 0]) // 40
            boxes = torch.tensor([[2.0, 2.0, 9.0, 9.0]]).repeat(n, 1)
            size = (int(image.shape[1]), int(image.shape[2]))
            labels = torch.zeros(n, dtype=torch.long)
            found.append(Detections(boxes, torch.linspace(0.9, 0.6, n), labels, CATEGORIES, image_size=size))
        return found


def test_I_03_pictures_of_one_name_in_several_folders_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    for name, things in {"a/1.jpg": 2, "b/1.jpg": 3, "b/1.png": 1}.items():
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), 40 * things + 10, np.uint8)).save(photos / name)
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    monkeypatch.setattr(verb, "load", lambda *_: Counting())
    output = tmp_path / "out"
    config = OmegaConf.create({
        "checkpoint": "x", "source": str(photos), "output": str(output), "threshold": 0.5, "draw": True,
        "explain": False, "caption": None, "batch_size": 2, "device": "cpu",
        "suppress_iou": "auto", "modules": [], "limit": 100,
        "tiles": None, "overlap": 0.2, "video": False, "every": 1, "start": None, "end": None, "track": False,
    })  # fmt: skip
    for _ in range(2):
        verb.predict(config)
        results = {
            path.relative_to(output / "results").as_posix(): json.loads(path.read_text())
            for path in (output / "results").rglob("*.json")
        }
        counts = {name: len(result["detections"]) for name, result in results.items()}
        assert counts == {"a/1.jpg.json": 2, "b/1.jpg.json": 3, "b/1.png.json": 1}
        drawn = {path.relative_to(output / "drawn").as_posix() for path in (output / "drawn").rglob("*.*")}
        assert drawn == {"a/1.jpg", "b/1.jpg", "b/1.png"}
        ids = {image["file_name"]: image["id"] for image in json.loads((output / "images.json").read_text())["images"]}
        records = json.loads((output / "predictions.json").read_text())
        assert len(records) == 6
        assert [r["image_id"] for r in records].count(ids["b/1.jpg"]) == 3
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before
