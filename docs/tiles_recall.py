"""Recall and doubles by tiles, beside the same objects in small scenes.

    python docs/tiles_recall.py [SIDE] [OBJECTS]

A picture of SIDE pixels (4,000) is laid out of made scenes of 128 pixels with OBJECTS (1,500) objects in all, in random
places, and grounds without objects. The packaged detector of shapes looks at it by tiles, whose borders cut scenes and
objects anywhere, and at each scene alone.
"""

from __future__ import annotations

import resource
import sys

import numpy as np
import torch

from detr_mini.boxes import box_iou
from detr_mini.captions.scenes import draw_items
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
    boxes, labels, scenes, truths = [], [], [], []
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
        truths.append((own, kinds))
        boxes += (own + torch.tensor([left, top, left, top])).tolist()
        labels += kinds.tolist()
    detector = load("shapes_captions")
    alone = detector.detect(scenes, batch_size=32)
    hits = sum(hit(found, *truth) for found, truth in zip(alone, truths, strict=True))
    small = hits / len(boxes)
    print(f"{len(boxes)} objects in {len(scenes)} scenes of {CELL} pixels: recall {small:.4f}, doubles "
          f"{sum(map(doubles, alone)) / sum(map(len, alone)):.4f}", flush=True)  # fmt: skip
    del alone, scenes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = detector.detect(picture, tiles=TILES, overlap=OVERLAP, batch_size=32)
    large = hit(found, torch.tensor(boxes), torch.tensor(labels)) / len(boxes)
    print(f"one picture of {picture.shape[1]} pixels, tiles={TILES} overlap={OVERLAP}: {len(found)} detections")
    print(f"recall {large:.4f} ({large / small:.3f} of that in scenes), doubles {doubles(found) / len(found):.4f}")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory {after / 1024:.0f} MB, {before / 1024:.0f} MB of it before the tiles")


def hit(found: Detections, boxes: torch.Tensor, labels: torch.Tensor) -> int:
    """Objects that a detection of their category covers with an IoU of 0.5."""
    if not len(found) or not len(boxes):
        return 0
    iou = box_iou(boxes.float(), found.boxes) * (labels[:, None] == found.labels[None])
    return int((iou.max(1).values >= 0.5).sum())


def doubles(found: Detections) -> int:
    """Detections that overlap a better one of their category by more than one half."""
    iou = box_iou(found.boxes, found.boxes).tril(-1) * (found.labels[:, None] == found.labels[None])
    return int((iou > 0.5).any(1).sum())


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["4000", "1500"][len(sys.argv) - 1 :])))
