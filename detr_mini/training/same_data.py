"""Several processes, each of which has read the data for itself: all must have found the same, before one begins."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from hashlib import blake2b

from detr_mini.data.protocol import Data
from detr_mini.data.samplers import check_enough
from detr_mini.errors import DataError
from detr_mini.formats.split import CocoSet
from detr_mini.training.processes import Ranks


@dataclass(frozen=True)
class Read:
    """What one process has read."""

    host: str
    root: str
    digests: dict[str, str]
    """Of each split's images and boxes, and of what labels and words mean."""
    images: dict[str, int]
    """Of each split, by its name in `digests`."""


def check_same_data(ranks: Ranks, data: Data) -> None:
    """DataError where a process has other images, boxes, categories or words than the first, or too few images.

    Processes with other numbers of images would make other numbers of steps and wait for each other for ever.
    """
    if ranks.world == 1:
        return
    first, *others = ranks.of_all(_read(data))
    for rank, other in enumerate(others, start=1):
        if other.digests != first.digests:
            raise DataError(
                f"process {rank} of this training (on {other.host}) has read {_difference(other, first)} from "
                f"{other.root} than process 0 (on {first.host}) from {first.root}; copy the dataset again, or let all "
                "machines read one folder"
            )
    for name, kind in (("train", "training"), ("val", "evaluation")):
        if name in data.sets:
            check_enough(len(data.sets[name]), ranks.world, kind)


def _difference(other: Read, first: Read) -> str:
    keys = (*first.digests, *other.digests)
    what = next(key for key in keys if other.digests.get(key) != first.digests.get(key))
    counts = [each.images.get(what, 0) for each in (other, first)]
    return f"another {what}" if counts[0] == counts[1] else f"another {what} ({counts[0]:,} images, not {counts[1]:,})"


def _read(data: Data) -> Read:
    splits = {f"{name} split": data.sets[name] for name in ("train", "val") if name in data.sets}
    words = None if data.tokenizer is None else data.tokenizer.state()
    digests = {name: fingerprint(coco) for name, coco in splits.items()} | {
        "list of categories": _digest(json.dumps(data.categories.to_dict()).encode()),
        "vocabulary of captions": _digest(json.dumps(words, sort_keys=True).encode()),
    }
    images = {name: len(coco) for name, coco in splits.items()}
    return Read(socket.gethostname(), str(data.root), digests, images)


def fingerprint(coco: CocoSet) -> str:
    """A checksum of the ids and sizes of a split's images, and of all boxes."""
    images = coco.records
    arrays = (images.ids, images.sizes, coco.first, coco.boxes_xywh, coco.labels, coco.is_crowd)
    return _digest(*(array.numpy().tobytes() for array in arrays))


def _digest(*parts: bytes) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
