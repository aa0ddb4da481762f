"""What a detector does wrong, by type, and what each type costs in AP (TIDE: Bolya et al. 2020).

At IoU 0.5. A false alarm is, in this order: a *localisation* error (an object of its category at IoU 0.1 to 0.5), a
*class* error (an object of another category at 0.5 or more), a *duplicate* (of its category at 0.5 or more, found by a
better detection), *background* (nothing at 0.1 or more), or *both* (of another category at 0.1 to 0.5). *Missed* is an
object that neither a detection finds nor a localisation or class error would find once mended. The cost of a type is
AP50 after mending all of it and nothing else, minus AP50.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask

from detr_mini.evaluation.average_precision import average_precision
from detr_mini.evaluation.matching import assign

TYPES = ("localisation", "class", "both", "duplicate", "background", "missed")
FOREGROUND, BACKGROUND = 0.5, 0.1
"""IoUs from which a box is right, and up to which it is not about an object at all."""


@dataclass(frozen=True)
class Errors:
    """Over all images. Detections stand in the order of their images, then of their scores; crowd regions are out."""

    image: Int[np.ndarray, "d"]
    """Place of the image in `image_ids`."""
    label: Int[np.ndarray, "d"]
    """Place of the category in `category_ids`."""
    score: Float[np.ndarray, "d"]
    kind: Int[np.ndarray, "d"]
    """Place in TYPES, or -1: it finds something."""
    truth: Int[np.ndarray, "d"]
    """The object it finds, misplaces or mislabels (a place among the objects below), or -1."""
    truth_image: Int[np.ndarray, "g"]
    truth_label: Int[np.ndarray, "g"]
    missed: Bool[np.ndarray, "g"]

    def counts(self) -> dict[str, int]:
        """How many errors there are of each of TYPES."""
        found = {name: int((self.kind == k).sum()) for k, name in enumerate(TYPES)}
        return found | {"missed": int(self.missed.sum())}

    def costs(self) -> dict[str, float | None]:
        """By how much AP50 rises when a type alone is mended, and `AP50` itself; None without any object."""
        before = self._ap50(None)
        return {"AP50": before} | {
            name: None if before is None else (self._ap50(name) or 0.0) - before for name in TYPES
        }

    def _ap50(self, mended: str | None) -> float | None:
        label, found, kept = self.label.copy(), self.kind < 0, np.ones(len(self.kind), bool)
        counted = np.ones(len(self.truth_label), bool)
        if mended == "missed":
            counted = ~self.missed
        elif mended is not None:
            of_type = self.kind == TYPES.index(mended)
            kept = ~of_type
            if mended in ("localisation", "class"):
                best = self._best_of_each_truth(of_type)
                kept, found = kept | best, found | best
                label[best] = self.truth_label[self.truth[best]]
        order = np.flatnonzero(kept)[np.argsort(-self.score[kept], kind="stable")]
        values = [
            average_precision(found[order[label[order] == k]], int((self.truth_label[counted] == k).sum()))
            for k in np.unique(self.truth_label)
        ]
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if defined else None

    def _best_of_each_truth(self, of_type: Bool[np.ndarray, "d"]) -> Bool[np.ndarray, "d"]:
        """One object can be found once: of the mended detections of an object that nothing finds, the best counts."""
        taken = set(self.truth[self.kind < 0].tolist())
        best = np.zeros(len(of_type), bool)
        candidates = np.flatnonzero(of_type)
        for d in candidates[np.argsort(-self.score[candidates], kind="stable")]:
            thing = int(self.truth[d])
            if thing not in taken:
                taken.add(thing)
                best[d] = True
        return best


def errors_by_type(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int],
    image_ids: Sequence[int],
    limit: int = 100,
) -> Errors:
    """Judge every detection of these images and categories; the `limit` best an image and category."""
    place = {image_id: i for i, image_id in enumerate(image_ids)}
    label_of = {category_id: k for k, category_id in enumerate(category_ids)}
    objects: list[list[Any]] = [[] for _ in image_ids]
    found: list[list[Any]] = [[] for _ in image_ids]
    for records, lists in ((truth["annotations"], objects), (results, found)):
        for record in records:
            if record["image_id"] in place and record["category_id"] in label_of:
                lists[place[record["image_id"]]].append(record)
    parts, first = [], 0
    for image, (things, guesses) in enumerate(zip(objects, found, strict=True)):
        part = _one_image(image, things, _limited(guesses, limit), label_of, first)
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


def _one_image(image: int, things: list[Any], found: list[Any], label_of: Mapping[int, int], first: int) -> Errors:
    """`first`: the number of objects in the images before."""
    crowd = np.array([int(thing.get("iscrowd", 0)) for thing in things], bool)
    theirs = np.array([label_of[thing["category_id"]] for thing in things], np.int64)
    mine = np.array([label_of[record["category_id"]] for record in found], np.int64)
    score = np.array([record["score"] for record in found], float)
    boxes, true = (np.array([r["bbox"] for r in rs], float).reshape(-1, 4) for rs in (found, things))
    iou = np.zeros((len(found), len(things)))
    if found and things:
        iou = np.asarray(mask.iou(boxes, true, crowd.astype(np.uint8).tolist()))
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
    number = np.full(len(things) + 1, -1)
    number[counts] = first + np.arange(len(counts))  # place -1 stays -1
    ignored = (taken >= 0) & np.append(crowd, False)[taken]
    kept = ~ignored
    missed = ~np.isin(np.arange(len(things)), reached[kept])
    return Errors(
        image=np.full(int(kept.sum()), image), label=mine[kept], score=score[kept], kind=kind[kept],
        truth=number[reached[kept]], truth_image=np.full(len(counts), image), truth_label=theirs[counts],
        missed=missed[counts],
    )  # fmt: skip


def _most(iou: Float[np.ndarray, "d g"], allowed: Bool[np.ndarray, "d g"]) -> Int[np.ndarray, "d"]:
    return np.where(allowed, iou, -1.0).argmax(1) if iou.shape[1] else np.full(len(iou), -1)


def _kinds(
    iou: Float[np.ndarray, "d g"], same: Bool[np.ndarray, "d g"], taken: Int[np.ndarray, "d"]
) -> Int[np.ndarray, "d"]:
    """The type of each detection, -1 where it takes an object. IoU with crowd regions is 0 here."""
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
