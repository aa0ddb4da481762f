"""What only the pixels of images say: whether they can be decoded, and which pictures are alike."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from detr_mini.checking import duplicates
from detr_mini.checking.pictures import KEPT, LIKE, Picture
from detr_mini.checking.scene_names import scenes
from detr_mini.errors import DataError
from detr_mini.images.decoding import room_for
from detr_mini.images.encoded import ImageFile
from detr_mini.images.header import orientation_of
from detr_mini.images.load import load_image, needed_for

WHOLE, RUNS = 5, 20
"""A video or a large picture of a fifth of all images is kept together; a longer one in runs of a twentieth."""


def decoded(path: Path, keep: bool) -> Picture:
    """What the pixels of a file say; DataError where it is no image, or cut off. `keep`: the small grey copy, too."""
    with room_for(needed_for(path), path):  # until the picture is gone: eight threads look at eight of them
        return _picture(path, load_image(path), orientation_of(path), keep)


def _picture(path: ImageFile, image: UInt8[Tensor, "3 h w"], orientation: int, keep: bool) -> Picture:
    digest = hashlib.blake2b(image.numpy().data, digest_size=16)
    digest.update(repr(tuple(image.shape)).encode())
    small = small_grey(image)
    size = (image.shape[1], image.shape[2])
    return Picture(size, orientation, digest.digest(), path, duplicates.mark_of(small), small if keep else None)


def small_grey(image: UInt8[Tensor, "3 h w"]) -> UInt8[np.ndarray, "s s"]:
    """The grey copy of duplicates.SIDE x SIDE pixels, antialiased."""
    grey = Image.fromarray(image[0].float().add_(image[1]).add_(image[2]).div_(3).to(torch.uint8).numpy())
    side = (duplicates.SIDE, duplicates.SIDE)
    return np.asarray(grey.resize(side, Image.Resampling.BILINEAR, reducing_gap=3.0))


def same_pictures(pictures: Sequence[Picture], splits: Sequence[str] | None = None) -> list[tuple[int, int, str, bool]]:
    """(earlier, later, how alike, whether a fixed camera took them); see `duplicates.pairs_like`."""
    return duplicates.pairs_like(
        [picture.digest for picture in pictures],
        [picture.mark for picture in pictures],
        lambda place: _grey(pictures[place]),
        splits,
    )


def _grey(picture: Picture) -> np.ndarray:
    return small_grey(load_image(picture.path)) if picture.small is None else picture.small


def alike(
    files: Iterable[tuple[int, ImageFile]], skip_broken: bool = False, names: Mapping[int, str] | None = None
) -> dict[int, int]:
    """Of each (id, image file) that belongs with an earlier one (it shows the same, or a part of the same), that one.

    `names`: file names that tell frames of one video and tiles of one picture. DataError for a file that cannot be
    decoded, or it is taken for one of a kind (`skip_broken`).
    """
    ids, pictures = list[int](), list[Picture]()
    for image_id, path in files:
        try:
            pictures.append(_picture(path, load_image(path), 1, len(pictures) < KEPT))
            ids.append(image_id)
        except DataError:
            if not skip_broken:
                raise
    place = {image_id: k for k, image_id in enumerate(ids)}
    pairs = same_pictures(pictures)
    copies = [(one, two) for one, two, how, _ in pairs if how != LIKE]
    links = [(one, two) for one, two, *_ in pairs]
    run = max(2, len(ids) // RUNS)
    for scene in scenes({i: name for i, name in (names or {}).items() if i in place}).values():
        whole = len(scene) <= max(2, len(ids) // WHOLE)
        links += [(place[a], place[b]) for k, (a, b) in enumerate(pairwise(scene), start=1) if whole or k % run]
    first = duplicates.joined(len(ids), links)
    if max(Counter(first).values(), default=0) > max(2, len(ids) // 2):  # one camera saw it all: copies alone count
        first = duplicates.joined(len(ids), copies)
    return {ids[k]: ids[one] for k, one in enumerate(first) if one != k}
