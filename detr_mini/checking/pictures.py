"""What is found in an image file, and which files are copies of others. `pixels` adds what needs decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detr_mini.images.encoded import ImageFile, binary

KEPT = 2048
"""Small copies of this many pictures are kept; further ones are made again when two must be compared."""
SAME, AGAIN, LIKE = "the very same pixels", "the same, saved again", "nearly the same view"
"""How two pictures are alike; the first two are copies beyond doubt."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What was found in an image file."""

    size: tuple[int, int]
    """(height, width) upright."""
    orientation: int
    digest: bytes
    """Of the pixels; of the file's bytes where pixels are not looked at, or are too many to be decoded at once."""
    path: ImageFile
    mark: np.ndarray | None = None
    """See `duplicates.mark_of`; None where pixels are not looked at."""
    small: np.ndarray | None = None
    """A small grey copy; None where it is not kept."""


def digest_of_file(path: ImageFile) -> bytes:
    """The digest of a file's bytes, which are read a part at a time."""
    digest = hashlib.blake2b(digest_size=16)
    with binary(path) as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.digest()


def same_digests(digests: Sequence[bytes]) -> list[tuple[int, int, str, bool]]:
    """Each picture with the digest of an earlier one, in the form of `pixels.same_pictures`."""
    first: dict[bytes, int] = {}
    pairs = []
    for index, digest in enumerate(digests):
        if digest in first:
            pairs.append((first[digest], index, SAME, False))
        first.setdefault(digest, index)
    return pairs
