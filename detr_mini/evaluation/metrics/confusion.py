"""Which categories are confused, precision over recall, and the score threshold with the best F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from detr_mini.evaluation.metrics.matching import FOUND, IGNORED, RECALLS, Matches, Ranking, by_image, overlaps


def confusion(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int],
    image_ids: Sequence[int],
    threshold: float,
    least_iou: float = 0.5,
) -> Int[np.ndarray, "n n"]:
    """Objects by true category (rows; the last: no object) and detected category (columns; the last: not detected).

    Detections with a score of at least `threshold` and objects are paired one to one where their IoU is at least
    `least_iou`: pairs of one category first, then by descending IoU. A detection inside a crowd region (by the share of
    its area) is left out.
    """
    label = {category_id: k for k, category_id in enumerate(category_ids)}
    objects = by_image(truth["annotations"], image_ids, category_ids)
    found = by_image([r for r in results if r["score"] >= threshold], image_ids, category_ids)
    counts = np.zeros((len(label) + 1, len(label) + 1), np.int64)
    for true, guesses in zip(objects, found, strict=True):
        _count(counts, true, guesses, label, least_iou)
    return counts


def _count(
    counts: Int[np.ndarray, "n n"], objects: list[Any], guesses: list[Any], label: Mapping[int, int], least_iou: float
) -> None:
    nothing = len(counts) - 1
    iou, crowd = overlaps(guesses, objects)
    free_objects = set(np.flatnonzero(~crowd).tolist())
    free_guesses = set(range(len(guesses)))
    pairs = [
        (guesses[d]["category_id"] == objects[g]["category_id"], iou[d, g], d, g)
        for d, g in np.argwhere(iou >= least_iou).tolist()
    ]
    for _, _, d, g in sorted(pairs, reverse=True):
        if d in free_guesses and g in free_objects:
            counts[label[objects[g]["category_id"]], label[guesses[d]["category_id"]]] += 1
            free_guesses.remove(d)
            free_objects.remove(g)
    free_guesses -= {d for _, _, d, g in pairs if crowd[g]}
    for g in free_objects:
        counts[label[objects[g]["category_id"]], nothing] += 1
    for d in free_guesses:
        counts[nothing, label[guesses[d]["category_id"]]] += 1


def precision_at_recalls(ranking: Ranking, t: int) -> Float[np.ndarray, "101"] | None:
    """COCO's curve at `IOUS[t]`: the best precision at or beyond each of 101 recalls; None without objects."""
    objects = int(ranking.truths.sum())
    if not objects:
        return None
    state = ranking.state[t][ranking.state[t] != IGNORED]
    found = (state == FOUND).cumsum()
    precision = found / np.arange(1, len(state) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best[np.searchsorted(found / objects, RECALLS)]


def best_threshold(matches: Matches) -> tuple[float, float]:
    """(threshold, F1): the score threshold with the best F1 over all categories, at IoU 0.5; (0.5, 0) if undefined."""
    rankings = [ranges[0] for ranges in matches.rankings]
    objects = sum(int(ranking.truths.sum()) for ranking in rankings)
    counts = [ranking.state[0] != IGNORED for ranking in rankings]
    score = np.concatenate([r.score[kept] for r, kept in zip(rankings, counts, strict=True)])
    found = np.concatenate([r.state[0][kept] == FOUND for r, kept in zip(rankings, counts, strict=True)])
    if not objects or not found.any():
        return 0.5, 0.0
    order = np.argsort(-score, kind="stable")
    f1 = 2 * found[order].cumsum() / (np.arange(1, len(order) + 1) + objects)
    last = np.append(score[order][1:] != score[order][:-1], True)  # a threshold keeps all equal scores or none
    best = int(np.where(last, f1, -1.0).argmax())
    return float(score[order][best]), float(f1[best])
