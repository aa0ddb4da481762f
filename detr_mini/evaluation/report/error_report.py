"""Why a detector scores what it does: curves, confusion matrix, errors by type, and the images that cost most AP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from detr_mini.drawing.evaluation_plots import confusion_matrix, error_costs, precision_recall
from detr_mini.drawing.gallery import gallery
from detr_mini.errors import UserError
from detr_mini.evaluation.metrics.average_precision import WeightedAP
from detr_mini.evaluation.metrics.confusion import best_threshold, confusion, precision_at_recalls
from detr_mini.evaluation.metrics.errors_by_type import TYPES, Errors, errors_by_type
from detr_mini.evaluation.metrics.headline import headline_metrics
from detr_mini.evaluation.metrics.matching import Matches
from detr_mini.evaluation.report.measure import Measured, pair_of
from detr_mini.evaluation.report.table import number

WORST = 20
"""The number of costliest images that are shown."""
CANDIDATES = 400
"""The number of images, those with the most errors, whose cost is computed."""
DRAWN_IOUS = {"IoU 0.50": 0, "IoU 0.75": 5, "IoU 0.90": 8}


def write_error_report(folder: Path, measured: Measured, name: str, limit: int = 100) -> dict[str, Any]:
    """Write report.json, precision_recall.png, confusion.png, errors.png and worst.png; return report.json's content.

    `name` is the title of the pictures. UserError where a file cannot be written.
    """
    subset, matches = measured.subset, measured.matches
    names, ids = subset.categories.names, subset.categories.ids
    selected, found = subset.select(measured.truth.truth, measured.records)
    threshold, f1 = best_threshold(matches)
    confused = confusion(selected, found, ids, subset.image_ids, threshold)
    errors = errors_by_type(selected, found, ids, subset.image_ids, limit)
    counts, costs = errors.counts(), errors.costs()
    curves = {
        name: [precision_at_recalls(ranges[0], t) for t in range(ranges[0].state.shape[0])]
        for name, ranges in zip(names, matches.rankings, strict=True)
    }
    records = measured.truth.records
    worst = [(records.of_id(subset.image_ids[i]), cost) for i, cost in worst_images(matches, errors, threshold)]
    report = {
        "threshold": threshold,
        "F1": f1,
        "errors": {kind: {"count": counts[kind], "cost": costs[kind]} for kind in TYPES},
        "AP50": costs["AP50"],
        "confusion": {"categories": [*names, None], "counts": confused.tolist()},
        "worst": [{"image_id": image.image_id, "file_name": image.file_name, "cost": cost} for image, cost in worst],
        "precision": {name: None if of[0] is None else [_rounded(c) for c in of] for name, of in curves.items()},
    }
    objects = {name: int(ranges[0].truths.sum()) for name, ranges in zip(names, matches.rankings, strict=True)}
    by_category = {name: curves[name][0] for name in sorted(names, key=lambda name: -objects[name])}
    by_iou = {label: _mean([of[t] for of in curves.values()]) for label, t in DRAWN_IOUS.items()}
    title = f"{name} · {len(subset.image_ids)} images"
    best = f"{title}, scores from {threshold:.2f} (best F1 {f1:.3f})"
    try:
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
        precision_recall(_defined(by_iou), _defined(by_category), folder / "precision_recall.png", title)
        confusion_matrix(confused, names, folder / "confusion.png", best)
        error_costs(counts, costs, folder / "errors.png", f"{title}, AP50 {number(costs['AP50'])}")
        pairs = [pair_of(measured, image, f" · costs {cost:.4f}") for image, cost in worst]
        gallery(pairs, folder / "worst.png", threshold, f"{title}: the {len(pairs)} that cost most AP")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror or error})") from error
    return report


def worst_images(matches: Matches, errors: Errors, threshold: float) -> list[tuple[int, float]]:
    """The WORST costliest images: (index, AP without the image minus AP), the highest cost first, only costs above 0.

    Only the CANDIDATES images with the most errors (missed objects, and false positives from `threshold` on) are tried.
    """
    images = len(matches.image_ids)
    confident = errors.image[(errors.kind >= 0) & (errors.score >= threshold)]
    missed = errors.truth_image[errors.missed]
    wrong = np.bincount(confident, minlength=images) + np.bincount(missed, minlength=images)
    tried = np.argsort(-wrong, kind="stable")[:CANDIDATES]
    weighted = WeightedAP(replace(matches, rankings=tuple(ranges[:1] for ranges in matches.rankings)))
    names = [""] * len(matches.category_ids)
    whole = headline_metrics(weighted(np.ones((1, images), np.int64)), names)["AP"][0]
    without = np.ones((len(tried), images), np.int64)
    without[np.arange(len(tried)), tried] = 0
    costs = headline_metrics(weighted(without), names)["AP"] - whole
    order = np.argsort(-np.nan_to_num(costs), kind="stable")[:WORST]
    return [(int(tried[i]), float(costs[i])) for i in order if costs[i] > 0]


def _mean(curves: Sequence[Float[np.ndarray, "101"] | None]) -> Float[np.ndarray, "101"] | None:
    known = [curve for curve in curves if curve is not None]
    return np.mean(known, axis=0) if known else None


def _defined(curves: dict[str, Float[np.ndarray, "101"] | None]) -> dict[str, Float[np.ndarray, "101"]]:
    return {name: curve for name, curve in curves.items() if curve is not None}


def _rounded(curve: Float[np.ndarray, "101"] | None) -> list[float]:
    return [] if curve is None else [round(float(v), 5) for v in curve]
