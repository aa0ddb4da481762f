"""Seeds and random generators. Every draw is a function of a few numbers, so it repeats in any process and order.

Those of torch are in `torch_seeding`: what only reads and writes annotations starts without torch.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np

ORDER, EVERY_IMAGE = -1, -2
"""In place of an image's id in `image_seed`: for the order of an epoch, and for what all its images share."""


def image_seed(seed: int, epoch: int, image_id: int) -> int:
    """A seed in [0, 2^63) for one image of one epoch."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{image_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def drawing_order(seed: int, name: str) -> bytes:
    """A sort key: names sorted by it are in an order that depends on `seed` and on no other name."""
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def text_generator(*parts: object) -> random.Random:
    """Python's generator, seeded by all of `parts` as text."""
    return random.Random(" ".join(map(str, parts)))


def image_generator(seed: int, epoch: int, image_id: int) -> random.Random:
    """Python's generator for one image of one epoch."""
    return random.Random(image_seed(seed, epoch, image_id))


def number_generator(*numbers: int) -> np.random.Generator:
    """NumPy's generator, seeded by all of `numbers`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))
