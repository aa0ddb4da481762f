"""What is taken for what, and at which score a detector is best used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask

from detr_mini.evaluation.matching import FOUND, IGNORED, RECALLS, Matches, Ranking


def confusion(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int],
    image_ids: Iterable[int],
    threshold: float,
    least_iou: float = 0.5,
) -> Int[np.ndarray, "n n"]:
    """Objects (rows; the last: background) by what they are detected as (columns; the last: nothing).

    Of detections with a score of at least `threshold`, each finds one object at most, and each object is found once:
    pairs with an IoU of at least `least_iou`, those of one category first, then the largest IoU first. A detection
    inside a crowd region (by its share in it) is left out.
    """
    label = {category_id: k for k, category_id in enumerate(category_ids)}
    wanted = set(image_ids)
    objects: dict[int, list[Any]] = {i: [] for i in wanted}
    found: dict[int, list[Any]] = {i: [] for i in wanted}
    for record in truth["annotations"]:
        if record["image_id"] in wanted and record["category_id"] in label:
            objects[record["image_id"]].append(record)
    for record in results:
        if record["image_id"] in wanted and record["category_id"] in label and record["score"] >= threshold:
            found[record["image_id"]].append(record)
    counts = np.zeros((len(label) + 1, len(label) + 1), np.int64)
    for image_id in wanted:
        _count(counts, objects[image_id], found[image_id], label, least_iou)
    return counts


def _count(
    counts: Int[np.ndarray, "n n"], things: list[Any], guesses: list[Any], label: Mapping[int, int], least: float
) -> None:
    nothing = len(counts) - 1
    crowd = [int(thing.get("iscrowd", 0)) for thing in things]
    free_things = {g for g, is_crowd in enumerate(crowd) if not is_crowd}
    free_guesses = set(range(len(guesses)))
    if things and guesses:
        iou = mask.iou(
            np.array([r["bbox"] for r in guesses], float), np.array([r["bbox"] for r in things], float), crowd
        )
        pairs = [
            (guesses[d]["category_id"] == things[g]["category_id"], iou[d, g], d, g)
            for d, g in np.argwhere(iou >= least).tolist()
        ]
        for _, _, d, g in sorted(pairs, reverse=True):
            if d in free_guesses and g in free_things:
                counts[label[things[g]["category_id"]], label[guesses[d]["category_id"]]] += 1
                free_guesses.remove(d)
                free_things.remove(g)
        free_guesses -= {d for _, _, d, g in pairs if crowd[g]}
    for g in free_things:
        counts[label[things[g]["category_id"]], nothing] += 1
    for d in free_guesses:
        counts[nothing, label[guesses[d]["category_id"]]] += 1


def precision_at_recalls(ranking: Ranking, t: int) -> Float[np.ndarray, "101"] | None:
    """COCO's curve at IoU number `t`: the best precision at each of 101 recalls or beyond; None without objects."""
    objects = int(ranking.truths.sum())
    if not objects:
        return None
    state = ranking.state[t][ranking.state[t] != IGNORED]
    found = (state == FOUND).cumsum()
    precision = found / np.arange(1, len(state) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best[np.searchsorted(found / objects, RECALLS)]


def best_threshold(matches: Matches) -> tuple[float, float]:
    """(score, F1): the least score to keep for the best F1 of all categories together, at IoU 0.5; (0.5, 0) if none."""
    rankings = [ranges[0] for ranges in matches.rankings]
    objects = sum(int(ranking.truths.sum()) for ranking in rankings)
    counts = [ranking.state[0] != IGNORED for ranking in rankings]
    score = np.concatenate([r.score[kept] for r, kept in zip(rankings, counts, strict=True)])
    found = np.concatenate([r.state[0][kept] == FOUND for r, kept in zip(rankings, counts, strict=True)])
    if not objects or not found.any():
        return 0.5, 0.0
    order = np.argsort(-score, kind="stable")
    f1 = 2 * found[order].cumsum() / (np.arange(1, len(order) + 1) + objects)
    last = np.append(score[order][1:] != score[order][:-1], True)  # equal scores are kept or left together
    best = int(np.where(last, f1, -1.0).argmax())
    return float(score[order][best]), float(f1[best])
