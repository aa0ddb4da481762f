"""Recall and doubles by tiles, beside the same objects in small scenes.

    python docs/tiles_recall.py [SIDE] [OBJECTS]

A picture of SIDE pixels (4,000) is laid out of made scenes of 128 pixels with OBJECTS (1,500) objects in all, in random
places, and grounds without objects. The packaged detector of shapes looks at it by tiles, whose borders cut scenes and
objects anywhere, and at each scene alone. Doubles are counted as `evaluate` counts them (`duplicate_metrics`).
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import numpy as np
import torch

from detr_mini.boxes import box_iou
from detr_mini.captions.scenes import draw_items
from detr_mini.evaluation.metrics.duplicate_detections import duplicate_metrics
from detr_mini.evaluation.metrics.subset import Subset
from detr_mini.inference.detections import to_coco_records
from detr_mini.inference.detector import load
from detr_mini.scenes.rendering import SHAPES, grid, texture
from detr_mini.structures import Detections

CELL, TILES, OVERLAP = 128, 128, 0.5
LEAST, MOST = 12, 60


def main(side: int, wanted: int) -> None:
    """Print both recalls, the doubles and the peak memory."""
    rng = np.random.default_rng(0)
    cells = side // CELL
    picture = np.zeros((cells * CELL, cells * CELL, 3), np.uint8)
    boxes, labels, scenes, truths, everything = [], [], [], [], []
    for index, place in enumerate(rng.permutation(cells * cells)):
        top, left = place // cells * CELL, place % cells * CELL
        cell = np.s_[top : top + CELL, left : left + CELL]
        if len(boxes) >= wanted:
            ground = texture(rng, grid(0, 0, CELL, CELL), rng.random(3), 0.3, 1.0)
            picture[cell] = (ground.clip(0, 1) * 255).astype(np.uint8)
            continue
        image, items = draw_items(123, "test", index, CELL)
        picture[cell] = image
        kept = [each for each in items if LEAST <= max(each.box[2], each.box[3]) <= MOST]
        own = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (each.box for each in kept)]).reshape(-1, 4)
        kinds = torch.tensor([SHAPES.index(each.shape) for each in kept], dtype=torch.long)
        scenes.append(image)
        everything.append([(SHAPES.index(each.shape), each.box, (left, top)) for each in items])
        truths.append((own, kinds))
        boxes += (own + torch.tensor([left, top, left, top])).tolist()
        labels += kinds.tolist()
    detector = load("shapes_captions")
    alone = detector.detect(scenes, batch_size=32)
    hits = sum(hit(found, *truth) for found, truth in zip(alone, truths, strict=True))
    small = hits / len(boxes)
    objects = [[(kind, box) for kind, box, _ in own] for own in everything]
    print(f"{len(boxes)} objects in {len(scenes)} scenes of {CELL} pixels: recall {small:.4f}, doubles "
          f"{doubles(alone, objects)}", flush=True)  # fmt: skip
    del alone, scenes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = detector.detect(picture, tiles=TILES, overlap=OVERLAP, batch_size=32)
    large = hit(found, torch.tensor(boxes), torch.tensor(labels)) / len(boxes)
    print(f"one picture of {picture.shape[1]} pixels, tiles={TILES} overlap={OVERLAP}: {len(found)} detections")
    moved = [(kind, (x + left, y + top, w, h)) for own in everything for kind, (x, y, w, h), (left, top) in own]
    print(f"recall {large:.4f} ({large / small:.3f} of that in scenes), doubles {doubles([found], [moved])}")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory {after / 1024:.0f} MB, {before / 1024:.0f} MB of it before the tiles")


def hit(found: Detections, boxes: torch.Tensor, labels: torch.Tensor) -> int:
    """Objects that a detection of their category covers with an IoU of 0.5."""
    if not len(found) or not len(boxes):
        return 0
    iou = box_iou(boxes.float(), found.boxes) * (labels[:, None] == found.labels[None])
    return int((iou.max(1).values >= 0.5).sum())


def doubles(found: Sequence[Detections], objects: Sequence[Sequence[tuple[int, Sequence[float]]]]) -> str:
    """The share and the count of detections that report an object again, over pictures with all their objects."""
    categories = found[0].categories
    numbers = range(1, len(found) + 1)
    truth = {
        "images": [{"id": number} for number in numbers],
        "annotations": [
            {"image_id": number, "category_id": categories.ids[kind], "bbox": list(map(float, box))}
            for number, own in zip(numbers, objects, strict=True)
            for kind, box in own
        ],
    }
    records = [r for number, each in zip(numbers, found, strict=True) for r in to_coco_records(each, number)]
    measured = duplicate_metrics(truth, records, Subset(tuple(numbers), categories), 0.0)
    count = measured["detections_at_threshold"]
    return f"{measured['doubles']:.4f} ({round(measured['doubles'] * count)} of {count})"


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["4000", "1500"][len(sys.argv) - 1 :])))
