"""Images and targets to one `Batch`, and how it travels from a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from jaxtyping import Real
from torch import Tensor

from detr_mini.structures import Batch, PackedTargets, Target, pack_targets


def collate(
    images: Sequence[Real[Tensor, "3 _ _"]],
    targets: Sequence[Target],
    stride: int = 1,
    normalise: Callable[[Tensor], Tensor] | None = None,
) -> Batch:
    """Pad right and below with zeros to the largest height and width, up to a multiple of `stride`.

    `images` are as the model takes them or, with `normalise`, pixels: these stay bytes if all are, and are normalised
    where the batch goes.
    """
    if normalise is not None and not all(image.dtype == torch.uint8 for image in images):
        images, normalise = [normalise(image) for image in images], None
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = (-(-max(side) // stride) * stride for side in zip(*sizes, strict=True))
    has_padding = any(size != (height, width) for size in sizes)
    mask = torch.zeros(len(images), height, width, dtype=torch.bool)
    if not has_padding:
        padded = torch.stack(list(images))
    else:
        padded = torch.zeros(len(images), 3, height, width, dtype=images[0].dtype)
        for row, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):  # unequal sizes: one copy each
            padded[row, :, :h, :w] = image
            mask[row, h:] = True
            mask[row, :, w:] = True
    return Batch(padded, mask, tuple(targets), pack_targets(targets), has_padding, normalise=normalise)


def _rebuild(kind: Callable[..., Any], values: tuple[Any, ...], tensors: tuple[bool, ...]) -> Any:
    return kind(*(torch.from_numpy(v) if t else v for v, t in zip(values, tensors, strict=True)))


def _reduce(record: Any) -> tuple[Any, ...]:
    values = tuple(getattr(record, entry.name) for entry in fields(record))
    tensors = tuple(isinstance(v, Tensor) for v in values)
    return _rebuild, (type(record), tuple(v.numpy() if t else v for v, t in zip(values, tensors, strict=True)), tensors)


AS_BYTES = (Target, PackedTargets)
"""Records whose small tensors travel between processes as bytes: in shared memory each would cost a file descriptor,
some 70 a batch, and the limit on open files would end long runs."""
for _kind in AS_BYTES:
    ForkingPickler.register(_kind, _reduce)
