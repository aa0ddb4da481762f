"""Why the numbers are what they are: curves, confusions, errors by type and the worst images, into a run's folder."""

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
from detr_mini.evaluation.average_precision import WeightedAP
from detr_mini.evaluation.confusion import best_threshold, confusion, precision_at_recalls
from detr_mini.evaluation.errors_by_type import TYPES, Errors, errors_by_type
from detr_mini.evaluation.headline import readings
from detr_mini.evaluation.matching import Matches
from detr_mini.evaluation.measure import Measured, pair_of
from detr_mini.evaluation.table import number

WORST = 20
CANDIDATES = 400
"""Images with the most errors, of which the worst are found by leaving each out."""
DRAWN_IOUS = {"IoU 0.50": 0, "IoU 0.75": 5, "IoU 0.90": 8}


def examine(folder: Path, measured: Measured, name: str, limit: int = 100) -> dict[str, Any]:
    """Write report.json, precision_recall.png, confusion.png, errors.png and worst.png; what report.json holds.

    `name` heads the pictures. UserError where nothing can be written.
    """
    part, matches = measured.part, measured.matches
    names, ids = part.categories.names, part.categories.ids
    there, found = part.of(measured.truth.truth, measured.records)
    threshold, f1 = best_threshold(matches)
    counts = confusion(there, found, ids, part.image_ids, threshold)
    errors = errors_by_type(there, found, ids, part.image_ids, limit)
    worst = worst_images(matches, errors, threshold)
    curves = {
        name: [precision_at_recalls(ranges[0], t) for t in range(ranges[0].state.shape[0])]
        for name, ranges in zip(names, matches.rankings, strict=True)
    }
    objects = {name: int(ranges[0].truths.sum()) for name, ranges in zip(names, matches.rankings, strict=True)}
    most = sorted(names, key=lambda name: -objects[name])
    drawn = {name: curve for name in most if (curve := curves[name][0]) is not None}
    means = {label: _mean([of[t] for of in curves.values()]) for label, t in DRAWN_IOUS.items()}
    counted, costs = errors.counts(), errors.costs()
    files = {image.image_id: image.file_name for image in measured.truth.records}
    report = {
        "threshold": threshold,
        "F1": f1,
        "errors": {kind: {"count": counted[kind], "cost": costs[kind]} for kind in TYPES},
        "AP50": costs["AP50"],
        "confusion": {"categories": [*names, None], "counts": counts.tolist()},
        "worst": [
            {"image_id": part.image_ids[i], "file_name": files[part.image_ids[i]], "cost": cost} for i, cost in worst
        ],
        "precision": {name: None if of[0] is None else [_rounded(c) for c in of] for name, of in curves.items()},
    }
    title = f"{name} · {len(part.image_ids)} images"
    try:
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
        precision_recall(
            {k: v for k, v in means.items() if v is not None}, drawn, folder / "precision_recall.png", title
        )
        confusion_matrix(
            counts, names, folder / "confusion.png", f"{title}, scores from {threshold:.2f} (best F1 {f1:.3f})"
        )
        error_costs(counted, costs, folder / "errors.png", f"{title}, AP50 {number(costs['AP50'])}")
        records = measured.truth.records
        images = [records[records.index_of(part.image_ids[i])] for i, _ in worst]
        pairs = [
            pair_of(measured, image, f" · costs {cost:.4f}") for image, (_, cost) in zip(images, worst, strict=True)
        ]
        gallery(pairs, folder / "worst.png", threshold, f"{title}: the {len(pairs)} that cost most AP")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror or error})") from error
    return report


def worst_images(matches: Matches, errors: Errors, threshold: float) -> list[tuple[int, float]]:
    """(place of the image, AP without it minus AP), the most costly first; none that costs nothing.

    Of many images those with the most errors (misses, and false alarms from `threshold` on) are tried.
    """
    images = len(matches.image_ids)
    loud = errors.image[(errors.kind >= 0) & (errors.score >= threshold)]
    many = np.bincount(loud, minlength=images) + np.bincount(errors.truth_image[errors.missed], minlength=images)
    tried = np.argsort(-many, kind="stable")[:CANDIDATES]
    judge = WeightedAP(replace(matches, rankings=tuple(ranges[:1] for ranges in matches.rankings)))
    names = [""] * len(matches.category_ids)
    whole = readings(judge(np.ones((1, images), np.int64)), names)["AP"][0]
    without = np.ones((len(tried), images), np.int64)
    without[np.arange(len(tried)), tried] = 0
    costs = readings(judge(without), names)["AP"] - whole
    order = np.argsort(-np.nan_to_num(costs), kind="stable")[:WORST]
    return [(int(tried[i]), float(costs[i])) for i in order if costs[i] > 0]


def _mean(curves: Sequence[Float[np.ndarray, "101"] | None]) -> Float[np.ndarray, "101"] | None:
    known = [curve for curve in curves if curve is not None]
    return np.mean(known, axis=0) if known else None


def _rounded(curve: Float[np.ndarray, "101"] | None) -> list[float]:
    return [] if curve is None else [round(float(v), 5) for v in curve]
