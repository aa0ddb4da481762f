"""AP on real photographs laid together as one large picture and looked at by tiles, beside AP on each alone.

    python docs/tiles_mosaic.py CHECKPOINT DATA_ROOT [SPLIT] [COUNT] [OVERLAP]

COUNT (40) photographs of the split (test) in a square of rows. Detections of the picture count for the photograph in
which their centre lies. Doubles are counted as `evaluate` counts them (`duplicate_metrics`).
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import torch

from detr_mini.data.module import DetectionData
from detr_mini.evaluation.metrics.coco import evaluate
from detr_mini.evaluation.metrics.duplicate_detections import duplicate_metrics
from detr_mini.evaluation.metrics.subset import Subset
from detr_mini.inference.detect_tiles import tile_side
from detr_mini.inference.detections import to_coco_records
from detr_mini.inference.detector import load
from detr_mini.structures import Detections

LEAST, MOST = 0.01, 300


def main(checkpoint: str, root: str, split: str = "test", count: str = "40", overlap: str = "0.2") -> None:
    """Print both APs and both shares of doubles."""
    detector = load(checkpoint)
    data = DetectionData(root=root, format="auto", train="auto", val="auto", test="auto", stride=1, seed=0,
                         **{key: detector.image[key] for key in ("size", "mean", "std")})  # fmt: skip
    data.evaluate_as(detector.categories)
    data.setup(split)
    records = data.sets[split].records[: int(count)]
    cell = max(max(record.size) for record in records)
    columns = math.ceil(math.sqrt(len(records)))
    picture = np.full((math.ceil(len(records) / columns) * cell, columns * cell, 3), 118, np.uint8)
    alone, places = {}, {}
    for number, record in enumerate(records):
        pixels = record.pixels()
        top, left = number // columns * cell, number % columns * cell
        picture[top : top + record.size[0], left : left + record.size[1]] = pixels.permute(1, 2, 0).numpy()
        places[record.image_id] = (top, left, *record.size)
        alone[record.image_id] = detector.detect(pixels, threshold=LEAST, limit=MOST)
    tiles = cell if detector.box_sizes is None else "auto"
    whole = detector.detect(picture, threshold=LEAST, tiles=tiles, overlap=float(overlap))
    parts = {image_id: part(whole, *place) for image_id, place in places.items()}
    print(f"{len(records)} photographs, one by one and as a picture of {picture.shape[1]} x {picture.shape[0]} pixels "
          f"with tiles={tile_side(detector, tiles)} overlap={overlap}")  # fmt: skip
    truth = data.sets[split].truth
    content = {**truth, **{key: [one for one in truth[key] if one[name] in places]
                           for key, name in (("images", "id"), ("annotations", "image_id"))}}  # fmt: skip
    for name, found in (("one by one", alone), ("by tiles", parts)):
        kept = [record for image_id, each in found.items() for record in to_coco_records(each, image_id)]
        metrics = evaluate(content, kept, detector.categories)
        subset = Subset(tuple(found), detector.categories)
        repeated = duplicate_metrics(content, kept, subset, detector.operating_point.threshold)
        print(f"{name}: AP {metrics['AP']:.4f}, AP50 {metrics['AP50']:.4f}, doubles {repeated['doubles'] or 0:.4f} of "
              f"{repeated['detections_at_threshold']} detections", flush=True)  # fmt: skip


def part(found: Detections, top: int, left: int, height: int, width: int) -> Detections:
    """The detections whose centre lies in a part of the picture, in its pixels."""
    moved = found.boxes - torch.tensor([left, top, left, top])
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    inside = ((centre >= 0) & (centre < torch.tensor([width, height]))).all(1)
    limit = torch.tensor([width, height, width, height])
    return replace(found[inside], boxes=moved[inside].clamp(min=0).minimum(limit), image_size=(height, width))


if __name__ == "__main__":
    main(*sys.argv[1:])
