"""Sources of an image's captions: a scene's attributes, boxes and category names, or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, scale_boxes, xyxy_to_xywh
from detr_mini.captions.from_boxes import Words, captions_about, items_from
from detr_mini.captions.made_dataset import captions_of
from detr_mini.captions.templates.scene import ATTRIBUTES, Item
from detr_mini.errors import DataError
from detr_mini.phrases import Caption
from detr_mini.seeding import image_generator
from detr_mini.structures import Target
from detr_mini.text.names import FRAME
from detr_mini.text.tokenizers import AnyTokenizer, lowered

CaptionsOf = Callable[[int, int, Target], list[Caption]]
"""Captions of an image, from its index in the dataset, the epoch, and the target that the model gets."""


@dataclass(frozen=True)
class MadeCaptions:
    """New captions of made scenes each epoch, a function of seed, epoch and image."""

    items: tuple[tuple[Item, ...], ...]
    image_ids: tuple[int, ...]
    seed: int
    count: int
    weights: Mapping[str, float | int]
    longest_chain: int

    def __call__(self, index: int, epoch: int, target: Target) -> list[Caption]:
        boxes = _pixels(target).tolist()
        items = [replace(i, box=tuple(b)) for i, b in zip(self.items[index], boxes, strict=True)]
        rng = image_generator(self.seed, epoch, self.image_ids[index])
        side = min(target.original_size)
        return captions_of(items, side, rng, self.count, self.weights, longest_chain=self.longest_chain)

    def attributes(self, index: int) -> Tensor:
        """(n, a) bool: which of `ATTRIBUTES` each object has."""
        return torch.tensor([[value in (i.shape, i.color, i.size, i.texture) for value in ATTRIBUTES]
                             for i in self.items[index]])  # fmt: skip


def _pixels(target: Target) -> Tensor:
    """The boxes (n, 4) as xywh in pixels of the original image's size."""
    height, width = target.original_size
    return scale_boxes(xyxy_to_xywh(cxcywh_to_xyxy(target.boxes)), width, height)


@dataclass(frozen=True)
class BoxCaptions:
    """New captions from boxes each epoch, a function of seed, epoch and image."""

    words: Words
    categories: tuple[str, ...]
    """Their names, by label."""
    seed: int
    count: int
    weights: Mapping[str, float | int]
    longest_chain: int

    def __call__(self, index: int, epoch: int, target: Target) -> list[Caption]:
        names = [self.categories[label] for label in target.labels.tolist()]
        crowd = target.is_crowd.tolist()
        crowded = frozenset(name for name, is_crowd in zip(names, crowd, strict=True) if is_crowd)
        own = [name for name, is_crowd in zip(names, crowd, strict=True) if not is_crowd]
        items = items_from(own, _pixels(target)[~target.is_crowd].tolist())
        rng = image_generator(self.seed, epoch, target.image_id)
        how: dict[str, Any] = {"weights": self.weights, "longest_chain": self.longest_chain}
        return captions_about(items, min(target.original_size), rng, self.words, self.count, crowded=crowded, **how)


@dataclass(frozen=True)
class FileCaptions:
    """Captions of a file: for training `count` of each image, drawn by seed, epoch and image; None: all."""

    captions: tuple[tuple[Caption, ...], ...]
    image_ids: tuple[int, ...]
    seed: int
    count: int | None

    def __call__(self, index: int, epoch: int, target: Target) -> list[Caption]:
        own = list(self.captions[index])
        if self.count is None or len(own) <= self.count:
            return own
        return image_generator(self.seed, epoch, self.image_ids[index]).sample(own, self.count)

    def check(self, path: Path, tokenizer: AnyTokenizer, most: int) -> None:
        """DataError for captions with more than `most` tokens, start and end tokens included. None is cut silently."""
        texts = [caption.text for own in self.captions for caption in own]
        long = [text for text in texts if len(tokenizer.encode(lowered(text)).ids) + FRAME > most]
        if long:
            raise DataError(f"{path}: {len(long)} of {len(texts)} captions have more than the {most} tokens that the "
                            f"model takes (the first: {long[0][:60]!r}...); raise model.text.max_tokens or shorten "
                            "them")  # fmt: skip
