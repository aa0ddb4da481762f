"""COCO's metric, computed by pycocotools' COCOeval without its output and without its known pitfalls.

- Annotation ids are renumbered from 1, since COCOeval takes id 0 for "not matched".
- Every image counts, also one without objects or without predictions.
- The headline metrics are taken at the detection limit in use; COCOeval's own summary only knows 100.
- What is undefined is None, never -1.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr_mini.errors import ConfigError, DataError, install
from detr_mini.structures import Categories

AREAS = ("all", "s", "m", "l")
"""COCO's area ranges: all, under 32^2 pixels, up to 96^2, above."""


@dataclass(frozen=True)
class ClassRow:
    """One category: the number of images that show it, of objects (without crowd regions) and of detections, its AP."""

    name: str
    images: int
    truths: int
    detections: int
    AP: float | None
    """None where the category has no object; its detections then count in no metric."""
    AP50: float | None


@dataclass(frozen=True)
class Scores:
    """`metrics`: the keys of metrics.json; `classes`: one row per category, also for one without objects."""

    metrics: dict[str, Any]
    classes: tuple[ClassRow, ...]


def evaluate(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    categories: Categories,
    image_ids: Iterable[int] | None = None,
    detection_limit: int = 100,
) -> dict[str, Any]:
    """COCO's twelve numbers, the AP of each category, and the number of images behind them. See `score`."""
    return score(truth, results, categories, image_ids, detection_limit).metrics


def score(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    categories: Categories,
    image_ids: Iterable[int] | None = None,
    detection_limit: int = 100,
    fast: bool = False,
) -> Scores:
    """Compare `results` (COCO records: image_id, category_id, bbox xywh, score) with `truth` (a COCO file's content).

    Every result counts, whatever its score. `image_ids`: the images to evaluate, or None for all of `truth`.
    `detection_limit`: how many of the best detections per image and category count for AP, ARs, ARm and ARl; AR1, AR10
    and AR100 have limits of their own. `fast`: use faster-coco-eval, a C++ implementation with equal results (extra
    `fast`; ConfigError where it is not installed). DataError where a record refers to an unknown image or category, or
    holds a number that is not finite.
    """
    known = [image["id"] for image in truth["images"]]
    ids = sorted(set(known if image_ids is None else image_ids))
    wanted = set(ids)
    if unknown := wanted.difference(known):
        raise DataError(f"image {min(unknown)} is not among the {len(known)} images of the ground truth")
    annotations = [a for a in truth["annotations"] if a["image_id"] in wanted]
    _check(annotations, "annotation", known, categories)
    _check(results, "prediction", known, categories)
    records = [r for r in results if r["image_id"] in wanted]
    objects = _objects(annotations)
    limits = sorted({1, 10, 100, detection_limit})
    precision, recall = _run(objects, _found(records), ids, categories, limits, fast)
    metrics = _summary(precision, recall, limits, detection_limit)
    at = limits.index(detection_limit)
    rows = _class_rows(objects, records, precision[:, :, :, 0, at], categories)
    metrics |= {f"AP/{row.name}": row.AP for row in rows}
    metrics |= {
        "images": len(ids),
        "categories_scored": sum(row.AP is not None for row in rows),
        "detection_limit": detection_limit,
    }
    return Scores(metrics, rows)


def _check(records: Sequence[Mapping[str, Any]], kind: str, image_ids: Sequence[int], categories: Categories) -> None:
    images, ids = set(image_ids), set(categories.ids)
    for number, record in enumerate(records):
        if record["image_id"] not in images:
            raise DataError(f"{kind} {number} refers to image {record['image_id']}, which is not in the ground truth")
        if record["category_id"] not in ids:
            raise DataError(f"{kind} {number} has category id {record['category_id']}, which is none of {sorted(ids)}")
        if not all(math.isfinite(v) for v in (*record["bbox"], record.get("score", 0.0))):
            raise DataError(f"{kind} {number} of image {record['image_id']} has a box or score that is not finite")


def _objects(annotations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": list(a["bbox"]),
            "area": a.get("area", a["bbox"][2] * a["bbox"][3]),
            "iscrowd": int(a.get("iscrowd", 0)),
        }
        for number, a in enumerate(annotations, start=1)
    ]


def _found(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "image_id": r["image_id"],
            "category_id": r["category_id"],
            "bbox": list(r["bbox"]),
            "area": r["bbox"][2] * r["bbox"][3],
            "iscrowd": 0,
            "score": r["score"],
        }
        for number, r in enumerate(records, start=1)
    ]


def _run(
    objects: list[dict[str, Any]],
    found: list[dict[str, Any]],
    image_ids: Sequence[int],
    categories: Categories,
    limits: Sequence[int],
    fast: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """COCOeval's precision (IoU, recall, category, area, limit) and recall (without that axis), NaN where undefined."""
    make_dataset, make_evaluator = _library(fast)
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (objects, found):
            side = make_dataset()
            side.dataset = {
                "images": [{"id": i} for i in image_ids],
                "annotations": annotations,
                "categories": categories.records(),
            }
            side.createIndex()
            sides.append(side)
        evaluator = make_evaluator(*sides, iouType="bbox")
        evaluator.params.imgIds = list(image_ids)
        evaluator.params.catIds = list(categories.ids)
        evaluator.params.maxDets = list(limits)
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def _library(fast: bool) -> tuple[Any, Any]:
    """The classes COCO and COCOeval of pycocotools, or their counterparts of faster-coco-eval."""
    if not fast:
        return COCO, COCOeval
    try:
        from faster_coco_eval import COCO as FastCOCO
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        raise ConfigError(f"fast=true needs the package faster-coco-eval; install it with: {install('fast')}") from None
    return FastCOCO, COCOeval_faster


def has_fast_library() -> bool:
    """Whether faster-coco-eval is installed."""
    try:
        _library(True)
    except ConfigError:
        return False
    return True


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def _summary(precision: np.ndarray, recall: np.ndarray, limits: list[int], limit: int) -> dict[str, float | None]:
    at = limits.index(limit)
    metrics = {
        "AP": _mean(precision[:, :, :, 0, at]),
        "AP50": _mean(precision[0, :, :, 0, at]),
        "AP75": _mean(precision[5, :, :, 0, at]),
    }
    metrics |= {f"AP{name}": _mean(precision[:, :, :, a, at]) for a, name in enumerate(AREAS) if a}
    metrics |= {f"AR{n}": _mean(recall[:, :, 0, i]) for i, n in enumerate(limits)}
    return metrics | {f"AR{name}": _mean(recall[:, :, a, at]) for a, name in enumerate(AREAS) if a}


def _class_rows(
    objects: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    precision: np.ndarray,
    categories: Categories,
) -> tuple[ClassRow, ...]:
    """`precision`: (IoU, recall, category)."""
    truths: Counter[int] = Counter()
    images: defaultdict[int, set[int]] = defaultdict(set)
    for record in objects:
        if not record["iscrowd"]:
            truths[record["category_id"]] += 1
            images[record["category_id"]].add(record["image_id"])
    detections = Counter(r["category_id"] for r in records)
    return tuple(
        ClassRow(name, len(images[i]), truths[i], detections[i], _mean(precision[:, :, k]), _mean(precision[0, :, k]))
        for k, (i, name) in enumerate(zip(categories.ids, categories.names, strict=True))
    )
