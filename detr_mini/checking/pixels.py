"""What only the pixels of images say: whether they can be decoded, and which pictures are alike."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from detr_mini.checking import duplicates
from detr_mini.checking.pictures import KEPT, LIKE, Picture, digest_of_file
from detr_mini.checking.scene_names import scenes
from detr_mini.errors import DataError
from detr_mini.images import decoding
from detr_mini.images.decoding import room_for
from detr_mini.images.encoded import ImageFile
from detr_mini.images.header import is_huge, opened, orientation_of
from detr_mini.images.load import load_image, needed_for
from detr_mini.images.windows import open_windows, reduced

WHOLE, RUNS = 5, 20
"""A video or a large picture of a fifth of all images is kept together; a longer one in runs of a twentieth."""
REDUCED = 2048
"""Pixels of the longer side, about, to which a TIFF is reduced that is too large to be decoded at once."""


def decoded(path: Path, keep: bool) -> Picture:
    """What the pixels of a file say; DataError where it is no image, or cut off. `keep`: the small grey copy, too."""
    return replace(_picture(path, keep), orientation=orientation_of(path))


def _picture(path: ImageFile, keep: bool) -> Picture:
    size, digest, small = _seen(path)
    return Picture(size, 1, digest, path, duplicates.mark_of(small), small if keep else None)


def _seen(path: ImageFile) -> tuple[tuple[int, int], bytes, UInt8[np.ndarray, "s s"]]:
    """(height, width), digest and small grey copy of an image. A TIFF of any size is usable: tiles are read by windows.

    DataError where it cannot be decoded.
    """
    large = _needs_windows(path)
    # until the picture is gone: eight threads look at eight of them
    with room_for(decoding.BUDGET if large else needed_for(path), path):
        if large:
            with open_windows(path) as windows:
                return windows.size, digest_of_file(path), small_grey(reduced(windows, REDUCED))
        image = load_image(path)
        digest = hashlib.blake2b(image.numpy().data, digest_size=16)
        digest.update(repr(tuple(image.shape)).encode())
        return (image.shape[1], image.shape[2]), digest.digest(), small_grey(image)


def _needs_windows(path: ImageFile) -> bool:
    """Whether a file is a TIFF that is too large to be decoded at once. DataError where it is no image."""
    with opened(path, any_tiff=True) as image:
        return image.format == "TIFF" and (is_huge(image.size) or needed_for(path) > decoding.BUDGET)


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
    return _seen(picture.path)[2] if picture.small is None else picture.small


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
            pictures.append(_picture(path, len(pictures) < KEPT))
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
