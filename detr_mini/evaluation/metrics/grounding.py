"""Metrics of grounding: exact answers, recall, and the share of captions about absent objects that get no box.

The model reads each caption itself: it predicts which words ask for objects. Its phrases and those of the ground truth
are paired by the characters that they share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr_mini.boxes import box_iou, cxcywh_to_xyxy, scale_boxes
from detr_mini.evaluation.metrics.coco import evaluate
from detr_mini.structures import Captions, Categories, PhraseFound, Target

IOU = 0.5
RANKS = (1, 5, 10)
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Asked:
    """A phrase that a caption asks for, and the xyxy boxes of the objects that it names."""

    spans: Spans
    boxes: Float[Tensor, "n 4"]


@dataclass(frozen=True)
class Answer:
    """One caption with its ground truth and the model's prediction."""

    kind: str
    asked: tuple[Asked, ...]
    guesses: tuple[PhraseFound, ...]
    size: tuple[int, int]
    """(height, width) of the image."""
    text: str = ""
    image_id: int = 0

    @cached_property
    def pairs(self) -> list[tuple[Asked, PhraseFound | None]]:
        """Each asked-for phrase with the guess that shares most characters with it. A guess is used once."""
        shared = sorted(
            (
                (_shared(asked.spans, guess.spans), -a, -g)
                for a, asked in enumerate(self.asked)
                for g, guess in enumerate(self.guesses)
            ),
            reverse=True,
        )
        chosen: dict[int, int] = {}
        for amount, a, g in shared:
            if amount > 0 and -a not in chosen and -g not in chosen.values():
                chosen[-a] = -g
        return [(asked, self.guesses[chosen[a]] if a in chosen else None) for a, asked in enumerate(self.asked)]


def answers(found: Sequence[tuple[PhraseFound, ...]], captions: Captions, targets: Sequence[Target]) -> list[Answer]:
    """The predictions for a batch's captions with their ground truth. `targets`: of the batch's images."""
    made = []
    for phrases, caption, image in zip(found, captions.records, captions.caption_image.tolist(), strict=True):
        target = targets[image]
        height, width = target.original_size
        boxes = scale_boxes(cxcywh_to_xyxy(target.boxes[~target.is_crowd]), width, height)
        asked = tuple(Asked(p.spans, boxes[list(p.things)]) for p in caption.phrases if p.asked)
        made.append(Answer(caption.kind, asked, phrases, target.original_size, caption.text, target.image_id))
    return made


def is_exact(answer: Answer, threshold: float) -> bool:
    """Whether the boxes found for every phrase pair one to one with the true ones at IoU 0.5, none missing or extra."""
    if len(answer.guesses) != len(answer.asked) or any(guess is None for _, guess in answer.pairs):
        return False
    found = ((asked.boxes, guess.boxes[guess.scores >= threshold]) for asked, guess in answer.pairs if guess)
    return all(_same_boxes(truth, boxes) for truth, boxes in found)


def best_threshold(answers: Sequence[Answer]) -> float:
    """The threshold of 0.05, 0.10 .. 0.95 with the most exact answers; the middle one of a tie. Choose it on val."""
    steps = [step / 20 for step in range(1, 20)]
    right = [sum(is_exact(answer, threshold) for answer in answers) for threshold in steps]
    best = [step for step, count in zip(steps, right, strict=True) if count == max(right)]
    return best[len(best) // 2]


def grounding_metrics(answers: Sequence[Answer], threshold: float) -> dict[str, Any]:
    """The flat `grounding/...` keys of metrics.json. A metric without any captions to average is None."""
    exact: dict[str, list[bool]] = defaultdict(list)
    ranks: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        exact[answer.kind].append(is_exact(answer, threshold))
        for asked, guess in answer.pairs:
            if len(asked.boxes):
                _rank(ranks, asked, guess)
    absent = [a for a in answers if not any(len(asked.boxes) for asked in a.asked)]
    silent = [not any(bool((g.scores >= threshold).any()) for g in answer.guesses) for answer in absent]
    everything = [right for rights in exact.values() for right in rights]
    metrics: dict[str, Any] = {
        "grounding/accuracy": _mean(everything),
        "grounding/top1": _mean(ranks["any@1"]),
        **{f"grounding/recall_{how}@{k}": _mean(ranks[f"{how}@{k}"]) for how in ("any", "merged") for k in RANKS},
        "grounding/agnostic_AP": _agnostic(answers),
        "grounding/absent_rejected": _mean(silent),
        "grounding/threshold": threshold,
        "grounding/captions": len(answers),
    }
    return metrics | {f"grounding/accuracy/{kind}": _mean(rights) for kind, rights in sorted(exact.items())}


def _shared(one: Spans, other: Spans) -> int:
    return sum(max(0, min(e, f) - max(b, c)) for b, e in one for c, f in other)


def _same_boxes(truth: Tensor, found: Tensor) -> bool:
    """Whether all boxes of both sides can be paired one to one at IoU 0.5."""
    if len(truth) != len(found):
        return False
    return len(matched(truth, found)) == len(truth)


def matched(truth: Float[Tensor, "n 4"], found: Float[Tensor, "m 4"]) -> dict[int, int]:
    """Index of a found box to index of its true box: the largest one-to-one matching at IoU 0.5."""
    near = (box_iou(truth, found) >= IOU).cpu()
    pairs = zip(*linear_sum_assignment(near, maximize=True), strict=True)
    return {int(f): int(t) for t, f in pairs if near[t, f]}


def _rank(ranks: dict[str, list[bool]], asked: Asked, guess: PhraseFound | None) -> None:
    """Recall at each rank by Flickr30k Entities' two protocols: any of the boxes, or the box around all of them."""
    merged = torch.cat([asked.boxes[:, :2].amin(0), asked.boxes[:, 2:].amax(0)])[None]
    best = None if guess is None else guess.boxes[guess.scores.argsort(descending=True)]
    for how, boxes in (("any", asked.boxes), ("merged", merged)):
        for k in RANKS:
            found = best is not None and bool((box_iou(boxes, best[:k]) >= IOU).any())
            ranks[f"{how}@{k}"].append(found)


def _agnostic(answers: Sequence[Answer]) -> float | None:
    """COCO's AP with each caption as an image of its own and one category, "asked for"."""
    categories = Categories((1,), ("asked for",))
    images, truth, results = [], [], []
    for number, answer in enumerate(answers, start=1):
        images.append({"id": number, "height": answer.size[0], "width": answer.size[1]})
        for asked in answer.asked:
            truth += [_record(number, box) for box in asked.boxes.tolist()]
        for guess in answer.guesses:
            scored = zip(guess.boxes.tolist(), guess.scores.tolist(), strict=True)
            results += [{**_record(number, box), "score": score} for box, score in scored]
    if not truth:
        return None
    annotations = [{"id": k, "iscrowd": 0, "area": r["bbox"][2] * r["bbox"][3], **r} for k, r in enumerate(truth, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories.records()}
    return evaluate(content, results, categories)["AP"]


def _record(image_id: int, box: Sequence[float | int]) -> dict[str, Any]:
    x, y, right, bottom = box
    return {"image_id": image_id, "category_id": 1, "bbox": [x, y, right - x, bottom - y]}


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
