"""Perturbs captions, to see whether a detector uses them: shuffled words, another image's caption, a typing error."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from detr_mini.phrases import Caption, Phrase
from detr_mini.seeding import text_generator


def shuffled(caption: Caption, rng: random.Random) -> Caption:
    """The same words in random order. Each phrase keeps its words at their new places."""
    words = [match.span() for match in re.finditer(r"\S+", caption.text)]
    order = rng.sample(range(len(words)), len(words))
    text, moved = "", {}
    for word in order:
        begin, end = words[word]
        moved[word] = len(text) - begin
        text += caption.text[begin:end] + " "
    phrases = []
    for phrase in caption.phrases:
        spans = [
            (max(begin, b) + moved[word], min(end, e) + moved[word])
            for begin, end in phrase.spans
            for word, (b, e) in enumerate(words)
            if max(begin, b) < min(end, e)
        ]
        phrases.append(replace(phrase, spans=tuple(sorted(spans))))
    return replace(caption, text=text.rstrip(), phrases=tuple(phrases))


def foreign(caption: Caption, others: Sequence[Caption]) -> Caption | None:
    """The text of the first other caption of the same kind and number of phrases, with this image's true objects.

    A detector that answers it correctly has not used the text. None where there is no such caption.
    """
    own = [phrase.things for phrase in caption.phrases if phrase.asked]
    for other in others:
        asked = [phrase for phrase in other.phrases if phrase.asked]
        if other.kind == caption.kind and len(asked) == len(own) and other.text != caption.text:
            phrases = (Phrase(phrase.spans, things, True) for phrase, things in zip(asked, own, strict=True))
            return replace(other, phrases=tuple(phrases))
    return None


def misspelt(caption: Caption, rng: random.Random) -> Caption:
    """Exchanges two neighbouring letters of one word, a typing error. The true objects stay the same."""
    text = caption.text
    places = [i for i in range(len(text) - 1) if text[i : i + 2].isalpha() and text[i] != text[i + 1]]
    if not places:
        return caption
    i = rng.choice(places)
    return replace(caption, text=text[:i] + text[i + 1] + text[i] + text[i + 2 :])


Source = Callable[[int], Sequence[Caption]]


def perturbed(how: str, images: int, seed: int, source: Source) -> Source:
    """`source`, which gives the captions of each of `images` images, with perturbed captions. `how`: see `ways`."""

    def changed(change: Callable[[Caption, random.Random], Caption], index: int) -> list[Caption]:
        rng = text_generator(seed, index)
        return [change(caption, rng) for caption in source(index)]

    def exchanged(index: int) -> list[Caption]:
        nearby = [caption for step in range(1, min(images, 6)) for caption in source((index + step) % images)]
        found = (foreign(caption, nearby) for caption in source(index))
        return [caption for caption in found if caption is not None]

    ways: dict[str, Source] = {
        "shuffled": partial(changed, shuffled),
        "misspelt": partial(changed, misspelt),
        "foreign": exchanged,
    }
    return ways[how]
