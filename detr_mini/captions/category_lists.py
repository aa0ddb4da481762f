"""Captions that list category names, "person. dog.", so that any dataset of boxes trains a model with captions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from detr_mini.phrases import Caption, Phrase
from detr_mini.seeding import image_generator
from detr_mini.structures import Target
from detr_mini.text.names import AT_ONCE, FRAME, listed, passes, tokens_in_list
from detr_mini.text.tokenizers import AnyTokenizer, lowered

KIND = "names"


@dataclass(frozen=True)
class CategoryCaptions:
    """Captions that ask for several categories each, some in the image and some not.

    `count` new captions per image with random names in random order, a function of seed, epoch and image. None: all
    names in their own order. A category with a crowd region is not asked for, since some of its objects have no box.
    """

    names: tuple[str, ...]
    """Category names, by label."""
    seed: int
    count: int | None
    at_once: int = AT_ONCE

    def __call__(self, index: int, epoch: int, target: Target) -> list[Caption]:
        labels = target.labels[~target.is_crowd].tolist()
        unsure = set(target.labels[target.is_crowd].tolist())
        known = [label for label in range(len(self.names)) if label not in unsure]
        if self.count is None:
            asked = [known[start : start + self.at_once] for start in range(0, len(known), self.at_once)]
        else:
            rng = image_generator(self.seed, epoch, target.image_id)
            asked = [self._drawn(rng, known, set(labels)) for _ in range(self.count if known else 0)]
        return [self._caption(own, labels) for own in asked]

    def _drawn(self, rng: random.Random, known: Sequence[int], there: set[int]) -> list[int]:
        """Labels in the image and others; half of the time as many as fit."""
        present, absent = ([label for label in known if (label in there) == is_in] for is_in in (True, False))
        n = min(len(known), self.at_once if rng.random() < 0.5 else rng.randint(1, self.at_once))
        positive = rng.randint(min(len(present), max(0, n - len(absent))), min(len(present), n))
        drawn = rng.sample(present, positive) + rng.sample(absent, n - positive)
        return rng.sample(drawn, n)

    def _caption(self, asked: Sequence[int], labels: Sequence[int]) -> Caption:
        text, spans = listed([lowered(self.names[label]) for label in asked])
        things = [tuple(place for place, own in enumerate(labels) if own == label) for label in asked]
        phrases = tuple(Phrase((span,), own, asked=True) for span, own in zip(spans, things, strict=True))
        return Caption(text, KIND, phrases)

    def fitted(self, tokenizer: AnyTokenizer, most: int) -> CategoryCaptions:
        """A copy whose captions have at most `most` tokens, by fewer names. UserError for a longer name."""
        passes(self.names, tokenizer, most)
        longest = sorted((tokens_in_list(name, tokenizer) for name in self.names), reverse=True)
        at_once = max(n for n in range(1, self.at_once + 1) if sum(longest[:n]) + FRAME <= most)
        return replace(self, at_once=at_once)


@dataclass(frozen=True)
class Together:
    """The captions of two sources."""

    own: Callable[[int, int, Target], list[Caption]]
    names: CategoryCaptions

    def __call__(self, index: int, epoch: int, target: Target) -> list[Caption]:
        return self.own(index, epoch, target) + self.names(index, epoch, target)


def beside_names(captions: Callable[[int, int, Target], list[Caption]]) -> Callable[[int, int, Target], list[Caption]]:
    """The source that `Together` combines with lists of names, or the given source itself."""
    return captions.own if isinstance(captions, Together) else captions
