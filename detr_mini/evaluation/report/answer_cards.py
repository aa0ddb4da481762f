"""Cards that show a detector's answers to captions: found, wrong and missed boxes in the colours of their words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from detr_mini.drawing.caption_cards import CaptionCard
from detr_mini.evaluation.metrics.grounding import Answer, is_exact, matched
from detr_mini.phrases import Caption, Phrase


def card(answer: Answer, threshold: float, image: UInt8[Tensor, "3 h w"]) -> CaptionCard:
    """The answer as a card. A correct box shows its score, another one "wrong" or "missed"."""
    boxes: list[Tensor] = []
    notes: list[str] = []
    phrases: list[Phrase] = []
    pairs = answer.pairs
    unpaired = [guess for guess in answer.guesses if all(guess is not other for _, other in pairs)]
    for asked, guess in [*pairs, *((None, guess) for guess in unpaired)]:
        first = len(boxes)
        found, scores = torch.zeros(0, 4), list[float]()
        if guess is not None:
            kept = guess.scores >= threshold
            found, scores = guess.boxes[kept], guess.scores[kept].tolist()
        truth = torch.zeros(0, 4) if asked is None else asked.boxes
        stands_for = matched(truth, found)
        for place, (box, score) in enumerate(zip(found, scores, strict=True)):
            boxes.append(box)
            notes.append(f"{score:.2f}" if place in stands_for else f"wrong {score:.2f}")
        for place, box in enumerate(truth):
            if place not in stands_for.values():
                boxes.append(box)
                notes.append("missed")
        spans = guess.spans if guess is not None else asked.spans if asked is not None else ()
        phrases.append(Phrase(spans, tuple(range(first, len(boxes))), asked=True))
    caption = Caption(answer.text, answer.kind, tuple(phrases), "right" if is_exact(answer, threshold) else "WRONG")
    return CaptionCard(image, torch.stack(boxes) if boxes else torch.zeros(0, 4), caption, notes=tuple(notes))


def spread(answers: Sequence[Answer], count: int) -> list[Answer]:
    """At most `count` answers, equally many of each kind, spread evenly over the set."""
    by_kind: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_kind[answer.kind].append(answer)
    each = -(-count // max(len(by_kind), 1))
    chosen = []
    for number, own in enumerate(by_kind.values()):
        n = min(each, len(own))
        shift = number * len(own) // (len(by_kind) * max(n, 1))  # other images than the kind before
        chosen += [own[i * len(own) // n + shift] for i in range(n)]
    return chosen[:count]
