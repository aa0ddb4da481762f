"""What a detector does wrong, by type, and what each type costs in AP (TIDE: Bolya et al. 2020).

Objects are matched at IoU 0.5. A false positive has the first of these types that fits:

- *localisation*: it overlaps an object of its category by an IoU of 0.1 to 0.5;
- *class*: it overlaps an object of another category by 0.5 or more;
- *duplicate*: it overlaps an object of its category by 0.5 or more, which a better detection has found;
- *background*: it overlaps nothing by 0.1 or more;
- *both*: it overlaps an object of another category by 0.1 to 0.5.

An object is *missed* if no detection finds it and no localisation or class error would find it once corrected. A type
costs the AP50 that correcting all its errors, and no others, would gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from detr_mini.evaluation.metrics.average_precision import average_precision
from detr_mini.evaluation.metrics.matching import assign, by_image, overlaps

TYPES = ("localisation", "class", "both", "duplicate", "background", "missed")
FOREGROUND, BACKGROUND = 0.5, 0.1
"""From the first IoU a box is right; below the second it is not near any object."""


@dataclass(frozen=True)
class Errors:
    """All detections (by image, then by score) and all objects. Crowd regions and detections in them are left out."""

    image: Int[np.ndarray, " d"]
    """The index of the image in `image_ids`."""
    label: Int[np.ndarray, " d"]
    """The index of the category in `category_ids`."""
    score: Float[np.ndarray, " d"]
    kind: Int[np.ndarray, " d"]
    """The index in TYPES, or -1 for a true positive."""
    truth: Int[np.ndarray, " d"]
    """The index of the object it finds, misplaces or mislabels among the g objects, or -1."""
    truth_image: Int[np.ndarray, " g"]
    truth_label: Int[np.ndarray, " g"]
    missed: Bool[np.ndarray, " g"]

    def counts(self) -> dict[str, int]:
        """The number of errors of each type."""
        found = {name: int((self.kind == k).sum()) for k, name in enumerate(TYPES)}
        return found | {"missed": int(self.missed.sum())}

    def costs(self) -> dict[str, float | None]:
        """How much AP50 rises when the errors of one type are corrected, and `AP50` itself; None without objects."""
        nothing, before = np.zeros(len(self.truth_label), bool), self.ap50
        costs: dict[str, float | None] = {"AP50": before}
        for k, name in enumerate(TYPES):
            corrected = self._ap50(self.kind == k, self.missed if name == "missed" else nothing)
            costs[name] = None if before is None else (corrected or 0.0) - before
        return costs

    def cost_of(self, detection: int | None = None, missed: int | None = None) -> float:
        """How much AP50 rises when this one wrong detection, or this one missed object, is corrected."""
        wrong, lost = np.zeros(len(self.kind), bool), np.zeros(len(self.truth_label), bool)
        if detection is not None:
            wrong[detection] = True
        if missed is not None:
            lost[missed] = True
        return (self._ap50(wrong, lost) or 0.0) - (self.ap50 or 0.0)

    @cached_property
    def ap50(self) -> float | None:
        """AP50 with all errors; None without objects."""
        return self._ap50(np.zeros(len(self.kind), bool), np.zeros(len(self.truth_label), bool))

    def _ap50(self, wrong: Bool[np.ndarray, " d"], lost: Bool[np.ndarray, " g"]) -> float | None:
        """AP50 once the `wrong` detections are corrected (moved, renamed or removed) and `lost` objects do not count.

        An object that a wrong detection misplaces or mislabels is found by the best of these; the others go.
        """
        kept, label = ~wrong, self.label.copy()
        movable = wrong & np.isin(self.kind, [TYPES.index("localisation"), TYPES.index("class")])
        best = self._best_of_each_truth(movable)
        kept, found = kept | best, (self.kind < 0) | best
        label[best] = self.truth_label[self.truth[best]]
        order = np.flatnonzero(kept)[np.argsort(-self.score[kept], kind="stable")]
        values = [
            average_precision(found[order[label[order] == k]], int((self.truth_label[~lost] == k).sum()))
            for k in np.unique(self.truth_label)
        ]
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if defined else None

    def _best_of_each_truth(self, of_type: Bool[np.ndarray, " d"]) -> Bool[np.ndarray, " d"]:
        """The detections that find an object once corrected: the best of each object that no detection finds yet."""
        taken = set(self.truth[self.kind < 0].tolist())
        best = np.zeros(len(of_type), bool)
        candidates = np.flatnonzero(of_type)
        for d in candidates[np.argsort(-self.score[candidates], kind="stable")]:
            truth = int(self.truth[d])
            if truth not in taken:
                taken.add(truth)
                best[d] = True
        return best


def errors_by_type(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int],
    image_ids: Sequence[int],
    limit: int = 100,
) -> Errors:
    """Find the error type of the `limit` best detections of each of these images and categories."""
    label_of = {category_id: k for k, category_id in enumerate(category_ids)}
    objects, found = (by_image(records, image_ids, category_ids) for records in (truth["annotations"], results))
    parts, first = [], 0
    for image, (true, guesses) in enumerate(zip(objects, found, strict=True)):
        part = _one_image(image, true, _limited(guesses, limit), label_of, first)
        parts.append(part)
        first += len(part.truth_label)
    fields = Errors.__dataclass_fields__
    return Errors(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in fields})


def _limited(records: list[Any], limit: int) -> list[Any]:
    kept, used = [], dict[int, int]()
    for record in sorted(records, key=lambda r: -r["score"]):
        used[record["category_id"]] = used.get(record["category_id"], 0) + 1
        if used[record["category_id"]] <= limit:
            kept.append(record)
    return kept


def _one_image(image: int, objects: list[Any], found: list[Any], label_of: Mapping[int, int], first: int) -> Errors:
    """`first`: the number of objects in the images before."""
    theirs = np.array([label_of[record["category_id"]] for record in objects], np.int64)
    mine = np.array([label_of[record["category_id"]] for record in found], np.int64)
    score = np.array([record["score"] for record in found], float)
    iou, crowd = overlaps(found, objects)
    same = mine[:, None] == theirs
    taken = np.full(len(found), -1)
    for k in np.unique(mine):
        d, g = np.flatnonzero(mine == k), np.flatnonzero(theirs == k)
        if g.size:
            own = assign(iou[np.ix_(d, g)], crowd[g], crowd[None, g], np.array([FOREGROUND]))[0, 0]
            taken[d] = np.where(own >= 0, g[own], -1)
    kind = _kinds(np.where(crowd, 0.0, iou), same, taken)
    reached = np.where(kind == TYPES.index("localisation"), _most(iou, same & ~crowd), -1)
    reached = np.where(kind == TYPES.index("class"), _most(iou, ~same & ~crowd), reached)
    reached = np.where(taken >= 0, taken, reached)
    counts = np.flatnonzero(~crowd)
    number = np.full(len(objects) + 1, -1)
    number[counts] = first + np.arange(len(counts))  # index -1 stays -1
    ignored = (taken >= 0) & np.append(crowd, False)[taken]
    kept = ~ignored
    missed = ~np.isin(np.arange(len(objects)), reached[kept])
    return Errors(
        image=np.full(int(kept.sum()), image), label=mine[kept], score=score[kept], kind=kind[kept],
        truth=number[reached[kept]], truth_image=np.full(len(counts), image), truth_label=theirs[counts],
        missed=missed[counts],
    )  # fmt: skip


def _most(iou: Float[np.ndarray, "d g"], allowed: Bool[np.ndarray, "d g"]) -> Int[np.ndarray, " d"]:
    return np.where(allowed, iou, -1.0).argmax(1) if iou.shape[1] else np.full(len(iou), -1)


def _kinds(
    iou: Float[np.ndarray, "d g"], same: Bool[np.ndarray, "d g"], taken: Int[np.ndarray, " d"]
) -> Int[np.ndarray, " d"]:
    """The index in TYPES of each detection, or -1 where it takes an object. IoU with crowd regions must be 0."""
    own, other = ((iou * which).max(1, initial=0.0) for which in (same, ~same))
    conditions = [
        taken >= 0,
        (own >= BACKGROUND) & (own < FOREGROUND),
        other >= FOREGROUND,
        own >= FOREGROUND,
        np.maximum(own, other) < BACKGROUND,
    ]
    kinds = [-1, *(TYPES.index(name) for name in ("localisation", "class", "duplicate", "background"))]
    return np.select(conditions, kinds, TYPES.index("both"))
