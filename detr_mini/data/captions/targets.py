"""A caption's phrases as a model wants them: what each token is, and which thing it speaks of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detr_mini.structures import Caption, Captions, Phrase
from detr_mini.text.tokenizers import AnyTokenizer, Encoding, pad

OTHER, BEGIN, INSIDE, ANCHOR = range(4)


def phrase_tokens(encoding: Encoding, phrase: Phrase) -> list[int]:
    """Places of the tokens that share a character with the phrase; as a list, since a tensor for each costs more."""
    spans = zip(range(len(encoding.ids)), encoding.spans, strict=False)
    return [i for i, (begin, end) in spans if any(begin < last and end > first for first, last in phrase.spans)]


def token_tags(encoding: Encoding, phrases: Sequence[Phrase]) -> list[int]:
    """Of each token: OTHER, BEGIN and INSIDE of what is asked for, ANCHOR."""
    tags = [OTHER] * len(encoding.ids)
    for phrase in phrases:
        own = phrase_tokens(encoding, phrase)
        for token in own:
            tags[token] = INSIDE if phrase.asked else ANCHOR
        if phrase.asked and own:
            tags[own[0]] = BEGIN
    return tags


def collate_captions(tokenizer: AnyTokenizer, captions: Sequence[Sequence[Caption]], things: Sequence[int]) -> Captions:
    """The captions of a batch's images, `things[i]` truths in image i, as one padded block."""
    flat = [caption for own in captions for caption in own]
    image = [row for row, own in enumerate(captions) for _ in own]
    encodings = [tokenizer.encode(caption.text.lower()).framed() for caption in flat]
    ids, padding = pad(encodings)
    spoken = torch.zeros(len(flat), max((*things, 1)), ids.shape[1], dtype=torch.bool)
    told = [
        (row, thing, token)
        for row, (caption, encoding) in enumerate(zip(flat, encodings, strict=True))
        for phrase in caption.phrases
        for token in phrase_tokens(encoding, phrase)
        for thing in phrase.things
    ]
    if told:
        spoken[tuple(torch.tensor(told).T)] = True
    tags = [token_tags(encoding, caption.phrases) for caption, encoding in zip(flat, encodings, strict=True)]
    padded = torch.tensor([own + [-1] * (ids.shape[1] - len(own)) for own in tags], dtype=torch.long).view(ids.shape)
    return Captions(ids, padding, torch.tensor(image, dtype=torch.long), tuple(e.spans for e in encodings), tuple(flat),
                    spoken, padded)  # fmt: skip
