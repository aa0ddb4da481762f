"""Made truth and made detections of a known quality: as many images and equal detectors as a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detr_mini.structures import Categories

Records = list[dict[str, Any]]
CATEGORIES = Categories((2, 5, 9), ("bolt", "nut", "washer"))


def made(
    images: int,
    seed: int = 0,
    detectors: int = 1,
    shares: Sequence[float] = (0.6, 0.3, 0.1),
    objects: float = 2.5,
    skill: float = 0.8,
    alarms: float = 1.5,
    noise: float = 0.08,
    crowd: float = 0.0,
) -> tuple[dict[str, Any], list[Records]]:
    """A COCO file's content, and the records of `detectors` that are equally good but err on their own.

    Images differ in difficulty and in their number of objects (`objects` on the mean); a detector finds an object with
    probability `skill` or so, misplaces its box by `noise` of its size, mislabels one in twenty, finds one in ten
    twice, and gives `alarms` boxes of nothing an image. Scores tell about all this, but not everything.
    """
    rng = np.random.default_rng(seed)
    ids = CATEGORIES.ids
    share = np.array(shares) / sum(shares)
    annotations: Records = []
    found: list[Records] = [[] for _ in range(detectors)]
    for image in range(1, images + 1):
        hardness = rng.normal(0, 0.5)
        count = rng.poisson(rng.gamma(2, objects / 2))
        boxes = np.concatenate([rng.uniform(0, 400, (count, 2)), np.exp(rng.normal(4, 0.8, (count, 2)))], 1)
        labels = rng.choice(len(ids), count, p=share)
        for box, label in zip(boxes, labels, strict=True):
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": ids[label], "bbox": box.tolist(),
                "area": float(box[2] * box[3]), "iscrowd": int(rng.random() < crowd),
            })  # fmt: skip
        for records in found:
            for box, label in zip(boxes, labels, strict=True):
                ease = hardness + rng.normal()
                if rng.random() > _sigmoid(np.log(skill / (1 - skill)) + ease):
                    continue
                said = label if rng.random() < 0.95 else rng.integers(len(ids))
                score = _sigmoid(1.2 + 0.7 * ease + rng.normal(0, 0.8))
                records.append(_record(image, ids[said], _moved(box, noise * np.exp(-0.3 * ease), rng), score))
                if rng.random() < 0.1:
                    records.append(_record(image, ids[said], _moved(box, 0.15, rng), _sigmoid(rng.normal(-0.7, 0.8))))
            for _ in range(rng.poisson(alarms)):
                box = np.concatenate([rng.uniform(0, 400, 2), np.exp(rng.normal(4, 0.8, 2))])
                score = _sigmoid(rng.normal(-1.2 - 0.5 * hardness))
                records.append(_record(image, int(rng.choice(ids, p=share)), box, score))
    truth = {
        "images": [{"id": image} for image in range(1, images + 1)],
        "annotations": annotations,
        "categories": CATEGORIES.records(),
    }
    return truth, found


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def _moved(box: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    moved = box + rng.normal(0, noise, 4) * np.tile(box[2:], 2)
    moved[2:] = np.maximum(moved[2:], 1)
    return moved


def _record(image: int, category_id: int, box: np.ndarray, score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": int(category_id), "bbox": box.tolist(), "score": score}
