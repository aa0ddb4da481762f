"""What every detector does with a caption: which names it lists, its tokens, and its answers as detections."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from detr_mini.errors import UserError, nearest
from detr_mini.structures import Categories, Detections, PhraseFound
from detr_mini.text.names import checked_names, names_in
from detr_mini.text.tokenizers import AnyTokenizer, Encoding, WordTokenizer, lowered


def listed_names(caption: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The names that a caption lists; None where it is a sentence."""
    listed = names_in(caption) if isinstance(caption, str) else caption
    return None if listed is None else checked_names(listed)


def asked_categories(caption: str | Sequence[str] | None, own: Categories) -> Categories:
    """What the labels of detections mean: the detector's `own` categories, or the names that a caption lists."""
    names = listed_names(caption)
    return own if names is None else Categories(tuple(range(1, len(names) + 1)), names)


def encoded(caption: str, tokenizer: AnyTokenizer, most: int) -> Encoding:
    """The tokens of a sentence. UserError for one that is empty or has more than `most` tokens."""
    if not caption.strip():
        raise UserError("the caption is empty; say what to look for")
    encoding = tokenizer.encode(lowered(caption)).framed()
    if len(encoding.ids) > most:
        raise UserError(f"the caption has {len(encoding.ids)} tokens, the model takes {most}; shorten it")
    return encoding


def warn_of_unknown(caption: str | Sequence[str] | None, tokenizer: AnyTokenizer | None, stacklevel: int = 3) -> None:
    """Warn of each word that the tokeniser does not know, with the word that may be meant."""
    if caption is None or not isinstance(tokenizer, WordTokenizer):  # the others know of no unknown words
        return
    for word in tokenizer.unknown(lowered(caption if isinstance(caption, str) else " ".join(caption))):
        hint = nearest(word, tokenizer.words)
        warnings.warn(f"unknown word '{word}', treated as [UNK]{hint}", stacklevel=stacklevel)


def answer(
    phrases: Sequence[PhraseFound],
    labels: Int[Tensor, " q"],
    size: tuple[int, int],
    caption: str,
    least: float,
    categories: Categories,
) -> Detections:
    """What a caption asks for in an image of `size` (height, width), best first. `labels`: of each query."""
    rows = [(p, q) for p, phrase in enumerate(phrases) for q in (phrase.scores >= least).nonzero()[:, 0].tolist()]
    rows.sort(key=lambda row: -float(phrases[row[0]].scores[row[1]]))
    words = [" ".join(caption[begin:end] for begin, end in phrase.spans) for phrase in phrases]
    queries = torch.tensor([q for _, q in rows], dtype=torch.long)
    return Detections(
        torch.stack([phrases[p].boxes[q] for p, q in rows]) if rows else torch.zeros(0, 4),
        torch.stack([phrases[p].scores[q] for p, q in rows]) if rows else torch.zeros(0),
        labels[queries],
        categories,
        tuple(words[p] for p, _ in rows),
        size,
        queries,
    )
