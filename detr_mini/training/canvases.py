"""Batches of few shapes for `trainer.compile`: each shape of a batch is a graph of its own, and torch makes few."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from detr_mini.structures import Batch, PackedTargets


@dataclass(frozen=True)
class Canvases:
    """The (height, width) that batches are padded to, small to large, and the number of truths of each image."""

    sizes: tuple[tuple[int, int], ...]
    truths: int


def canvases_for(size: int, shorter_side: int | None, stride: int, truths: int) -> Canvases:
    """One canvas for upright or mixed batches and one for lying ones, of 3 : 4 where no `shorter_side` is set."""
    long, short = (-(-side // stride) * stride for side in (size, shorter_side or round(0.75 * size)))
    return Canvases(tuple(dict.fromkeys(((min(short, long), long), (long, long)))), -(-max(truths, 1) // 8) * 8)


def on_canvas(batch: Batch, canvases: Canvases) -> Batch:
    """`batch` padded to the smallest canvas that holds it; as it is where none does.

    Padding changes no result, but its share of a step is time lost. Captions keep their own number of truths.
    """
    height, width = batch.images.shape[-2:]
    found = next(((h, w) for h, w in canvases.sizes if h >= height and w >= width), None)
    if found is None:
        return batch
    more = (0, found[1] - width, 0, found[0] - height)
    images, mask = pad(batch.images, more), pad(batch.padding_mask, more, value=True)
    packed = batch.packed if batch.captions is not None else _with_room(batch.packed, canvases.truths)
    return replace(batch, images=images, padding_mask=mask, packed=packed, has_padding=True)


def _with_room(packed: PackedTargets, truths: int) -> PackedTargets:
    more = truths - packed.labels.shape[1]
    if more <= 0:
        return packed
    return replace(
        packed,
        boxes=pad(packed.boxes, (0, 0, 0, more)),
        labels=pad(packed.labels, (0, more)),
        valid=pad(packed.valid, (0, more), value=False),
    )


def graphs_made() -> int:
    """Graphs that torch has captured in this process so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def graphs_warning() -> str | None:
    """A sentence where torch has made as many graphs as it makes at most: what does not fit them is not compiled."""
    limit = torch._dynamo.config.recompile_limit
    if graphs_made() < limit:
        return None
    return (
        f"trainer.compile has made {graphs_made()} graphs, and after {limit} of one function torch no longer compiles: "
        "batches differ too much in shape. Images that grow (trainer.coarse_grow) and captions do that; "
        "trainer.compile=false may be faster"
    )
