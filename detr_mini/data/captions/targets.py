"""A caption's phrases as a model wants them: what each token is, and which thing it speaks of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from detr_mini.structures import Caption, Captions, Phrase
from detr_mini.text.tokenizers import AnyTokenizer, Encoding, pad, tokens_of

OTHER, BEGIN, INSIDE, ANCHOR = range(4)


def token_tags(encoding: Encoding, phrases: Sequence[Phrase]) -> Int[Tensor, "t"]:
    """OTHER, BEGIN and INSIDE of what is asked for, ANCHOR."""
    tags = torch.full((len(encoding.ids),), OTHER)
    for phrase in phrases:
        own = tokens_of(encoding, phrase.spans).nonzero()[:, 0]
        tags[own] = INSIDE if phrase.asked else ANCHOR
        if phrase.asked and len(own):
            tags[own[0]] = BEGIN
    return tags


def token_map(encoding: Encoding, phrases: Sequence[Phrase], things: int) -> Bool[Tensor, "n t"]:
    """Which tokens speak of which of the `things`."""
    spoken = torch.zeros(things, len(encoding.ids), dtype=torch.bool)
    for phrase in phrases:
        own = tokens_of(encoding, phrase.spans)
        for thing in phrase.things:
            spoken[thing] |= own
    return spoken


def collate_captions(tokenizer: AnyTokenizer, captions: Sequence[Sequence[Caption]], things: Sequence[int]) -> Captions:
    """The captions of a batch's images, `things[i]` truths in image i, as one padded block."""
    encodings = [tokenizer.encode(caption.text.lower()).framed() for own in captions for caption in own]
    ids, padding = pad(encodings)
    image = torch.tensor([row for row, own in enumerate(captions) for _ in own], dtype=torch.long)
    flat = [caption for own in captions for caption in own]
    spoken = torch.zeros(len(flat), max((*things, 1)), ids.shape[1], dtype=torch.bool)
    tags = torch.full_like(ids, -1)
    for row, (caption, encoding) in enumerate(zip(flat, encodings, strict=True)):
        n = things[int(image[row])]
        spoken[row, :n, : len(encoding.ids)] = token_map(encoding, caption.phrases, n)
        tags[row, : len(encoding.ids)] = token_tags(encoding, caption.phrases)
    return Captions(ids, padding, image, tuple(e.spans for e in encodings), tuple(flat), spoken, tags)
