"""Labels that a detector trained without them finds most likely wrong, each with a score from 0 to 1.

The idea is confident learning's (Northcutt, Jiang and Chuang 2021), for boxes as in ObjectLab (Tkachenko, Thyagarajan
and Mueller 2023, "ObjectLab: automated diagnosis of mislabeled images in object detection data"): overlooked, badly
located and swapped boxes each have a score of their own, made of a detection's confidence and its overlap with the
labels. Doubled and spurious labels are added here.

s is a detection's score, IoU its overlap with a label, p(l) the best score of a detection of a label's name and place:

- missing: s (1 - 2 IoU with the nearest label), at most one for each place;
- misnamed: s (1 - p(l)), of a detection of another name at the label's place;
- displaced: s (1 - IoU / q), of a detection of the label's name beside it, q being the IoU that nine of ten labels of
  the set exceed, so that a detector with loose boxes does not doubt every label;
- doubled: IoU of two labels of one name, less where the detector sees two objects, too;
- spurious: (1 - the best score at its place) times how surely the detector finds this category, and half of that: a
  label that a detector does not see is more often a hard object than nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from detr_mini.boxes import box_iou

AT_PLACE = 0.5
"""IoU from which a detection stands at the place of a label."""
NEAR = 0.1
"""IoU from which a detection may mean a label that is displaced."""
SEEN = 0.3
"""IoU, or score, from which a label or an object counts as seen at all."""
TWICE = 0.6
"""IoU of two labels of one name that may be one object."""
USUAL, Q_LEAST, Q_MOST = 0.1, 0.3, 0.75
"""The share of labels with an IoU below q, and the limits of q."""
SPURIOUS = 0.5


class Kind(str, Enum):
    """What may be wrong with a label."""

    MISSING = "missing"
    DISPLACED = "displaced"
    MISNAMED = "misnamed"
    DOUBLED = "doubled"
    SPURIOUS = "spurious"


@dataclass(frozen=True)
class Boxes:
    """Boxes of one picture: labels (scores are 1), or detections."""

    xyxy: Float[Tensor, "n 4"]
    names: tuple[str, ...]
    scores: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Doubt:
    """One doubtful label, or one object that seems to have none."""

    image: int
    kind: Kind
    score: float
    label: int | None = None
    """Its place among the labels of the picture; None where one is missing."""
    detection: int | None = None
    """The detection that speaks against the label, by its place among those of the picture."""
    other: int | None = None
    """Of a doubled label the one that it doubles."""


def doubts(labels: Sequence[Boxes], detections: Sequence[Boxes]) -> list[Doubt]:
    """All doubts about some pictures, the most certain first; at most one for each label and each detection.

    `labels` and `detections` are of the same pictures, in the same order.
    """
    pairs = [_Picture(k, *pair) for k, pair in enumerate(zip(labels, detections, strict=True))]
    usual = _usual_iou(pairs)
    sure = _sureness(pairs)
    found = [doubt for picture in pairs for doubt in picture.doubts(usual, sure)]
    return sorted(found, key=lambda doubt: (-doubt.score, doubt.image, doubt.kind.value, doubt.label or 0))


def _usual_iou(pictures: Sequence[_Picture]) -> float:
    """The IoU with their best detection that nine of ten labels exceed, of those that are seen."""
    every = torch.cat([picture.best_iou() for picture in pictures]) if pictures else torch.zeros(0)
    seen = every[every >= SEEN]
    return float(seen.quantile(USUAL).clamp(Q_LEAST, Q_MOST)) if len(seen) else Q_MOST


def _sureness(pictures: Sequence[_Picture]) -> dict[str, float]:
    """Of each category the mean of p(l) over its labels."""
    sums: dict[str, list[float]] = {}
    for picture in pictures:
        for name, p in zip(picture.labels.names, picture.support.tolist(), strict=True):
            sums.setdefault(name, []).append(p)
    return {name: sum(values) / len(values) for name, values in sums.items()}


class _Picture:
    """The labels and detections of one picture, and how they overlap."""

    def __init__(self, image: int, labels: Boxes, found: Boxes) -> None:
        self.image, self.labels, self.found = image, labels, found
        self.iou: Float[Tensor, "m n"] = box_iou(found.xyxy.double(), labels.xyxy.double()).float()
        same = [[a == b for b in labels.names] for a in found.names]
        self.same = torch.tensor(same, dtype=torch.bool).reshape(len(found), len(labels))
        self.score = found.scores[:, None].expand_as(self.iou)
        self.support = self._best(self.same & (self.iou >= AT_PLACE), self.score)
        """p(l) of each label."""

    @staticmethod
    def _best(which: Tensor, values: Tensor) -> Tensor:
        """The largest value of a column among those that count; 0 where none does."""
        return torch.where(which, values, 0.0).max(0).values if len(which) else values.new_zeros(which.shape[1])

    def best_iou(self) -> Float[Tensor, " n"]:
        """IoU of each label with the best detection of its name that scores enough to count as seen."""
        return self._best(self.same & (self.score >= SEEN), self.iou)

    def doubts(self, usual: float, sure: dict[str, float]) -> Iterator[Doubt]:
        """At most one a label, and of the detections that speak for a missing label at most one a place."""
        best: dict[int, Doubt] = {}
        for doubt in (*self._displaced(usual), *self._misnamed(), *self._doubled(), *self._spurious(sure)):
            assert doubt.label is not None
            if doubt.score > 0 and (doubt.label not in best or doubt.score > best[doubt.label].score):
                best[doubt.label] = doubt
        used = {doubt.detection: doubt.score for doubt in best.values()}
        yield from best.values()
        yield from (doubt for doubt in self._missing() if doubt.score > used.get(doubt.detection, 0.0))

    def _own(self, detection: int, label: int, names: bool) -> bool:
        """Whether no other label fits a detection better; `names`: of those with the detection's name."""
        fits = self.iou[detection] * (self.same[detection] if names else 1)
        fits = torch.where(torch.arange(len(self.labels)) == label, 0.0, fits)
        return bool(fits.max() < self.iou[detection, label]) if len(fits) else True

    def _displaced(self, usual: float) -> Iterator[Doubt]:
        tight = self._best(self.same & (self.iou >= usual), self.score)
        for i, j in (self.same & (self.iou >= NEAR) & (self.iou < usual)).nonzero().tolist():
            if self._own(i, j, names=True):
                score = float(self.score[i, j] * (1 - self.iou[i, j] / usual) * (1 - tight[j]))
                yield Doubt(self.image, Kind.DISPLACED, score, j, i)

    def _misnamed(self) -> Iterator[Doubt]:
        for i, j in (~self.same & (self.iou >= AT_PLACE)).nonzero().tolist():
            if self._own(i, j, names=True):
                yield Doubt(self.image, Kind.MISNAMED, float(self.score[i, j] * (1 - self.support[j])), j, i)

    def _doubled(self) -> Iterator[Doubt]:
        among = box_iou(self.labels.xyxy.double(), self.labels.xyxy.double())
        for j in range(len(self.labels)):
            for k in range(j):
                if among[j, k] < TWICE or self.labels.names[j] != self.labels.names[k]:
                    continue
                at_both = self.same[:, j] & (self.iou[:, [j, k]] >= AT_PLACE).any(1)
                two: list[float] = self.found.scores[at_both].sort(descending=True).values[:2].tolist()
                second = two[1] if len(two) == 2 else 0.0
                worse, better = (j, k) if self.support[j] <= self.support[k] else (k, j)
                yield Doubt(self.image, Kind.DOUBLED, float(among[j, k]) * (1 - second), worse, other=better)

    def _spurious(self, sure: dict[str, float]) -> Iterator[Doubt]:
        seen = self._best(self.iou >= SEEN, self.score)
        for j, name in enumerate(self.labels.names):
            yield Doubt(self.image, Kind.SPURIOUS, SPURIOUS * float(1 - seen[j]) * sure[name], j)

    def _missing(self) -> Iterator[Doubt]:
        nearest = self.iou.max(1).values if len(self.labels) else torch.zeros(len(self.found))
        kept: list[int] = []
        among = box_iou(self.found.xyxy, self.found.xyxy)
        for i in self.found.scores.argsort(descending=True, stable=True).tolist():
            if nearest[i] < AT_PLACE and not any(among[i, k] >= AT_PLACE for k in kept):
                kept.append(i)
                score = float(self.found.scores[i] * (1 - nearest[i] / AT_PLACE))
                yield Doubt(self.image, Kind.MISSING, score, detection=i)
