"""Which pictures to label next: those that a detector is least sure of, unlike each other and unlike the training set.

Two steps, as in PPAL (Yang, Huang and Crowley 2024, "Plug and play active learning for object detection"): the pictures
with the largest uncertainty are candidates, several for each one wanted; among these the greedy k-centre method of core
sets (Sener and Savarese 2018, "Active learning for convolutional neural networks") picks, again and again, the one that
is farthest from the training set and from those picked before. The uncertainty of a picture is the sum of the
entropies of its detections (Brust, Käding and Denzler 2019, "Active learning for deep object detection", found sums
best among their aggregations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detr_mini.errors import some_of
from detr_mini.structures import Detections

CANDIDATES = 3
"""Candidates for each picture that is wanted."""
ROWS = 1024
"""Pictures that are compared with all others at once."""
FARTHEST = 2.0
"""1 - cosine of opposite directions."""
LEAST_SHARE = 0.25
"""Detections below this share of the threshold say nothing."""
UNSURE = 0.5
"""A detection with at least this entropy (of 1) is called unsure in a reason."""


@dataclass(frozen=True)
class Choice:
    """A picture to label, with what speaks for it."""

    place: int
    """Among the pictures that were looked at."""
    uncertainty: float
    """The sum of the entropies of its detections, in bits."""
    distance: float
    """From the nearest training picture or picture chosen before: 1 - cosine, from 0 to 2."""
    reason: str


def entropies(scores: Float[Tensor, " n"], threshold: float) -> Float[Tensor, " n"]:
    """How unsure each detection is, in bits: 1 at the threshold, 0 at scores 0 and 1.

    A score is stretched so that the threshold means one half: a detector's scores are no probabilities.
    """
    middle = min(max(threshold, 1e-3), 1 - 1e-3)
    p = torch.where(scores < middle, 0.5 * scores / middle, 0.5 + 0.5 * (scores - middle) / (1 - middle))
    p = p.double().clamp(1e-9, 1 - 1e-9)
    return -(p * p.log2() + (1 - p) * (1 - p).log2()).to(scores.dtype)


def uncertainty(found: Detections, threshold: float) -> float:
    """The sum of the entropies of a picture's detections."""
    scores = found.scores[found.scores >= LEAST_SHARE * threshold]
    return float(entropies(scores, threshold).sum())


def choose(
    found: Sequence[Detections],
    features: Float[Tensor, "n c"],
    labelled: Float[Tensor, "m c"],
    count: int,
    threshold: float,
) -> list[Choice]:
    """`count` pictures in the order of choice. `features` and `labelled` (the training set) are of length 1.

    Nothing is drawn at random: the same pictures in the same order give the same choice.
    """
    unsure = torch.tensor([uncertainty(one, threshold) for one in found], dtype=torch.float64)
    candidates = unsure.argsort(descending=True, stable=True)[: CANDIDATES * count]
    from_training = _nearest(features, labelled)
    picked, distances = k_centres(features[candidates], _nearest(features[candidates], labelled), count)
    choices = []
    for row, distance in zip(picked.tolist(), distances.tolist(), strict=True):
        place = int(candidates[row])
        rank = float((unsure < unsure[place]).double().mean())
        far = None if from_training is None else float((from_training < from_training[place]).double().mean())
        reason = _reason(found[place], threshold, rank, far, distance)
        choices.append(Choice(place, float(unsure[place]), distance, reason))
    return choices


def _nearest(features: Float[Tensor, "n c"], centres: Float[Tensor, "m c"]) -> Float[Tensor, " n"] | None:
    """1 - cosine to the nearest centre; None without centres."""
    if not len(centres):
        return None
    return torch.cat([(1 - rows @ centres.T).min(1).values for rows in features.split(ROWS)])


def k_centres(
    features: Float[Tensor, "n c"], distance: Float[Tensor, " n"] | None, count: int
) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
    """The greedy solution of the k-centre problem: places in the order of choice, and each one's distance then.

    `distance`: of each vector from the centres that are there already; None: the first vector begins.
    """
    left = torch.full((len(features),), FARTHEST) if distance is None else distance.clone().float()
    picked, distances = list[int](), list[float]()
    for _ in range(min(count, len(features))):
        place = int(left.argmax())
        picked.append(place)
        distances.append(float(left[place]))
        left = torch.minimum(left, 1 - features @ features[place])
        left[picked] = -1.0
    return torch.tensor(picked, dtype=torch.long), torch.tensor(distances)


def _reason(found: Detections, threshold: float, rank: float, far: float | None, distance: float) -> str:
    """In words, for a person who is to label the picture."""
    bits = entropies(found.scores, threshold)
    rows = [row for row in bits.argsort(descending=True, stable=True).tolist() if float(bits[row]) >= UNSURE]
    boxes = [f"{found.names[row]} {float(found.scores[row]):.2f}" for row in rows]
    if boxes:
        what = f"unsure of {len(boxes)} box{'es' * (len(boxes) > 1)} ({some_of(boxes, 3)})"
    elif not bool((found.scores >= threshold).any()):
        what = "nothing found above the threshold"
    else:
        what = "few doubts about its boxes"
    parts = [what, f"less sure than of {rank:.0%} of the pictures"]
    if far is not None:
        parts.append(f"farther from the training pictures than {far:.0%} of them")
    if distance < FARTHEST:  # else there is nothing to compare with yet
        parts.append(f"distance {distance:.2f} to the nearest one trained on or chosen")
    return "; ".join(parts)
