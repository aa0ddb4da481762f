"""Captions as a batch, with token targets: what each token is, and which objects it refers to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detr_mini.data.collate import collate
from detr_mini.phrases import Caption, Phrase
from detr_mini.structures import TAGS, Batch, Captions, Target
from detr_mini.text.tokenizers import AnyTokenizer, lowered, pad, tokens_of

OTHER, BEGIN, INSIDE, ANCHOR = range(len(TAGS))


def token_tags(tokens: int, phrases: Sequence[Phrase], places: Sequence[Sequence[int]]) -> list[int]:
    """The tag of each token: BEGIN and INSIDE of what is asked for, ANCHOR, OTHER. `places`: tokens of each phrase."""
    tags = [OTHER] * tokens
    for phrase, own in zip(phrases, places, strict=True):
        for token in own:
            tags[token] = INSIDE if phrase.asked else ANCHOR
        if phrase.asked and own:
            tags[own[0]] = BEGIN
    return tags


def collate_captions(tokenizer: AnyTokenizer, captions: Sequence[Sequence[Caption]], things: Sequence[int]) -> Captions:
    """The captions of a batch's images as one padded block. `things[i]`: number of objects in image i."""
    flat = [caption for own in captions for caption in own]
    image = [row for row, own in enumerate(captions) for _ in own]
    encodings = [tokenizer.encode(lowered(caption.text)).framed() for caption in flat]
    ids, padding = pad(encodings)
    refers = torch.zeros(len(flat), max((*things, 1)), ids.shape[1], dtype=torch.bool)
    pairs, tags = list[tuple[int, int, int]](), list[list[int]]()  # lists: a tensor per phrase costs far more
    for row, (caption, encoding) in enumerate(zip(flat, encodings, strict=True)):
        places = [tokens_of(encoding, phrase.spans) for phrase in caption.phrases]
        for phrase, own in zip(caption.phrases, places, strict=True):
            if any(not 0 <= thing < things[image[row]] for thing in phrase.things):
                raise IndexError(f"{caption.text!r} refers to an object that its image does not have")
            pairs += [(row, thing, token) for token in own for thing in phrase.things]
        tags.append(token_tags(len(encoding.ids), caption.phrases, places))
    if pairs:
        refers[tuple(torch.tensor(pairs).T)] = True
    padded = torch.tensor([own + [-1] * (ids.shape[1] - len(own)) for own in tags], dtype=torch.long).view(ids.shape)
    return Captions(ids, padding, torch.tensor(image, dtype=torch.long), tuple(e.spans for e in encodings), tuple(flat),
                    refers, padded)  # fmt: skip


def collate_samples(
    samples: Sequence[tuple[Tensor, Target, list[Caption]]],
    stride: int,
    tokenizer: AnyTokenizer,
    normalise: Callable[[Tensor], Tensor] | None,
) -> Batch:
    """Images, targets and captions as one batch. Without any caption it has images and boxes alone."""
    images, targets, captions = zip(*samples, strict=True)
    batch = collate(images, targets, stride, normalise)
    if not any(captions):
        return batch
    block = collate_captions(tokenizer, captions, batch.packed.counts)
    known = [target.attributes for target in targets if target.attributes is not None]
    if len(known) == len(targets):
        block = replace(block, attributes=pad_sequence(known, batch_first=True))
    return replace(batch, captions=block)
