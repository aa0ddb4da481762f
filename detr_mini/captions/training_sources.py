"""Sources of an image's captions: a scene's attributes, boxes and category names, or a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, scale_boxes, xyxy_to_xywh
from detr_mini.captions.captions_of_split import INTERRUPTED, MISSING, read_captions
from detr_mini.captions.category_lists import CategoryCaptions, Together, beside_names
from detr_mini.captions.directions import COLOUR, axes_of
from detr_mini.captions.from_boxes import Words, captions_about, items_from
from detr_mini.captions.made_dataset import captions_of
from detr_mini.captions.templates.scene import ATTRIBUTES, Item
from detr_mini.errors import DataError
from detr_mini.formats.split import CocoSet
from detr_mini.phrases import Caption
from detr_mini.seeding import image_generator
from detr_mini.structures import Target
from detr_mini.text.names import FRAME
from detr_mini.text.tokenizers import AnyTokenizer, lowered

CaptionsOf = Callable[[int, int, Target], list[Caption]]
"""Captions of an image, from its index in the dataset, the epoch, and the target that the model gets."""
TRIED = 64
"""Images of which at least one must have a made caption that is short enough, if any has a made caption."""


@dataclass(frozen=True)
class Fits:
    """Whether a caption has at most `most` tokens, start and end tokens included."""

    tokenizer: AnyTokenizer
    most: int

    def __call__(self, text: str) -> bool:
        text = lowered(text)
        if len(text.encode("utf-8", "surrogatepass")) + FRAME <= self.most:  # a token has at least one byte
            return True
        return len(self.tokenizer.encode(text).ids) + FRAME <= self.most


@dataclass(frozen=True)
class MadeCaptions:
    """New captions of made scenes each epoch, a function of seed, epoch and image."""

    items: tuple[tuple[Item, ...], ...]
    image_ids: tuple[int, ...]
    seed: int
    count: int
    weights: Mapping[str, float | int]
    longest_chain: int
    fits: Fits | None = None

    def __call__(self, index: int, epoch: int, target: Target) -> list[Caption]:
        boxes = _pixels(target).tolist()
        items = [replace(i, box=tuple(b)) for i, b in zip(self.items[index], boxes, strict=True)]
        rng = image_generator(self.seed, epoch, self.image_ids[index])
        how: dict[str, Any] = {"longest_chain": self.longest_chain, "fits": self.fits}
        return captions_of(items, min(target.original_size), rng, self.count, self.weights, **how)

    def axes(self, index: int) -> frozenset[str]:
        """The axes that captions of an image may name, see `axes_of`. Sides are those after augmentation: none."""
        return COLOUR

    def attributes(self, index: int) -> Tensor:
        """(n, a) bool: which of `ATTRIBUTES` each object has."""
        own = self.items[index]
        true = [[value in (i.shape, i.color, i.size, i.texture) for value in ATTRIBUTES] for i in own]
        return torch.tensor(true, dtype=torch.bool).view(len(own), len(ATTRIBUTES))


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
    fits: Fits | None = None

    def __call__(self, index: int, epoch: int, target: Target) -> list[Caption]:
        names = [self.categories[label] for label in target.labels.tolist()]
        crowd = target.is_crowd.tolist()
        crowded = frozenset(name for name, is_crowd in zip(names, crowd, strict=True) if is_crowd)
        own = [name for name, is_crowd in zip(names, crowd, strict=True) if not is_crowd]
        items = items_from(own, _pixels(target)[~target.is_crowd].tolist())
        rng = image_generator(self.seed, epoch, target.image_id)
        how: dict[str, Any] = {"weights": self.weights, "longest_chain": self.longest_chain, "fits": self.fits}
        return captions_about(items, min(target.original_size), rng, self.words, self.count, crowded=crowded, **how)

    def axes(self, index: int) -> frozenset[str]:
        """See `MadeCaptions`: a colour where a noun has one, such as red cell."""
        return self._axes

    @cached_property
    def _axes(self) -> frozenset[str]:
        return COLOUR & axes_of(", ".join(noun for nouns in self.words.lexicon.synonyms.values() for noun in nouns))


@dataclass(frozen=True)
class FileCaptions:
    """Captions of a file: for training `count` of each image, drawn by seed, epoch and image; None: all."""

    captions: tuple[tuple[Caption, ...], ...]
    image_ids: tuple[int, ...]
    seed: int
    count: int | None
    path: Path
    made: bool = False
    """Made from boxes by `data.refer`, not written by the user."""

    @classmethod
    def read(
        cls, path: Path, coco: CocoSet, seed: int, count: int | None, made: bool, notices: list[str], trained: bool
    ) -> FileCaptions:
        """The captions of a file about the images of a split. What is left out is added to `notices`.

        `trained`: by a run before this one, or a detector that is measured; then none need be about these images.
        """
        left_out = Counter[str]()
        found = read_captions(path, coco, left_out, may_be_empty=trained)
        if lost := left_out[MISSING]:
            total = lost + sum(map(len, found.values()))
            notices.append(f"{lost} of {total} captions in {path} are about images that {coco.report.split} lacks")
        if unasked := left_out[INTERRUPTED]:
            notices.append(f"{unasked} phrases in {path} are not asked for, since another one that asks for objects "
                           "begins between their words")  # fmt: skip
        return cls(tuple(tuple(found[i]) for i in coco.image_ids), coco.image_ids, seed, count, path, made)

    def __call__(self, index: int, epoch: int, target: Target) -> list[Caption]:
        own = list(self.captions[index])
        if self.count is None or len(own) <= self.count:
            return own
        return image_generator(self.seed, epoch, self.image_ids[index]).sample(own, self.count)

    def axes(self, index: int) -> frozenset[str]:
        """The axes that captions of an image name, see `axes_of`."""
        return frozenset[str]().union(*(axes_of(caption.text) for caption in self.captions[index]))

    def fitted(self, fits: Fits, notices: list[str]) -> FileCaptions:
        """A copy without captions that are too long, with a notice, where they are made. DataError for a user's."""
        texts = [caption.text for own in self.captions for caption in own]
        long = [text for text in texts if not fits(text)]
        if not long:
            return self
        what = f"{self.path}: {len(long)} of {len(texts)} captions have more than the {fits.most} tokens that the model"
        if not self.made:
            raise DataError(f"{what} takes (the first: {long[0][:60]!r}...); shorten them, or train a model with a "
                            "text encoder of its own and a larger model.text.max_tokens")  # fmt: skip
        notices.append(f"{what} takes, and are left out")
        return replace(self, captions=tuple(tuple(c for c in own if fits(c.text)) for own in self.captions))


def axes_named(captions: CaptionsOf, index: int) -> frozenset[str]:
    """The axes that captions of an image may name: see `axes_of`. Lists of category names name none."""
    own = beside_names(captions)
    return own.axes(index) if isinstance(own, MadeCaptions | BoxCaptions | FileCaptions) else frozenset()


def fitted(captions: CaptionsOf, fits: Fits, coco: CocoSet, notices: list[str]) -> CaptionsOf:
    """The captions of a split without those that are too long. What is left out for that is added to `notices`.

    Lists of names are shorter, and made captions are drawn again. UserError where this is not possible, and for a
    user's caption.
    """
    if isinstance(captions, Together):
        names = captions.names.fitted(fits.tokenizer, fits.most)
        return replace(captions, own=fitted(captions.own, fits, coco, notices), names=names)
    if isinstance(captions, CategoryCaptions):
        return captions.fitted(fits.tokenizer, fits.most)
    if isinstance(captions, FileCaptions):
        return captions.fitted(fits, notices)
    if not isinstance(captions, MadeCaptions | BoxCaptions):
        return captions
    short, some = replace(captions, fits=fits), False
    for index, image_id in enumerate(coco.image_ids[:TRIED]):
        target = coco.target(image_id)
        if short(index, 0, target):
            return short
        some = some or bool(captions(index, 0, target))
    if some:
        raise DataError(f"no caption that is made for {coco.report.split} has at most the {fits.most} tokens that the "
                        "model takes; use shorter nouns, or train with a larger model.text.max_tokens")  # fmt: skip
    return short
