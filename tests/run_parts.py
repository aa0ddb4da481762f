"""Run folders as training leaves them, of detectors of a known quality."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from detr_mini.evaluation.metrics.subset import Subset
from detr_mini.evaluation.report.measure import evaluate_subset
from detr_mini.formats.coco import read_coco


def data_of(root: Path) -> dict:
    splits = {s: {"images": s, "annotations": f"annotations/{s}.json"} for s in ("train", "val", "test")}
    return {
        "_target_": "detr_mini.data.DetectionData",
        "_convert_": "all",
        "root": str(root),
        **splits,
        "size": 64,
    }


def write_run(
    folder: Path, root: Path, noise: float, seed: int = 0, split: str = "val", lr: float = 0.02, minutes: float = 1
) -> Path:
    """A run folder as training leaves it, of a detector whose boxes are off by `noise` of their size."""
    train = read_coco(root / "annotations/train.json", root / "train")
    truth = read_coco(root / f"annotations/{split}.json", root / split, split=split, categories=train.categories)
    rng = np.random.default_rng(seed)
    records = []
    for a in truth.truth["annotations"]:
        box = np.array(a["bbox"]) + rng.normal(0, noise, 4) * np.tile(a["bbox"][2:], 2)
        records.append({"image_id": a["image_id"], "category_id": a["category_id"], "score": float(rng.random()),
                        "bbox": [*box[:2].tolist(), *np.maximum(box[2:], 1).tolist()]})  # fmt: skip
    scores, _ = evaluate_subset(truth.truth, records, Subset(truth.image_ids, train.categories), resamples=0)
    folder.mkdir(parents=True)
    (folder / "predictions.json").write_text(json.dumps(records))
    metrics = {**scores.metrics, "split": split, "train_seconds": 60 * minutes, "seed": seed}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    config = {"data": data_of(root), "seed": seed, "name": "made", "optim": {"lr": lr}}
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    return folder
