"""Torch's generator from a seed, and noise on tensors that is a function of numbers alone; see `seeding`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Word = TypeVar("Word", int, np.ndarray)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's CPU generator starts from `seed`; afterwards it is where it was before."""
    state = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.default_generator.set_state(state)


def mix_numbers(*numbers: int) -> int:
    """A seed in [0, 2^32) that depends on all of `numbers` and on their order."""
    value = 0
    for number in numbers:
        value = _scramble((value * 0x9E3779B1 + number) & 0xFFFFFFFF)
    return value


def counter_noise(
    seed: int, step: int, image_ids: Sequence[int], count: int, device: torch.device
) -> Float[Tensor, "b n"]:
    """Uniform noise in [0, 1) that is a function of (seed, step, image id, index): no generator, no state.

    Computed on the host, in less time than it takes to launch thirty small operations on a GPU.
    """
    ids = np.array([i & 0x7FFFFFFF for i in image_ids], np.int64)[:, None]
    value = _scramble(ids ^ mix_numbers(seed, step)) + np.arange(count) * 0x9E3779B1 & 0xFFFFFFFF
    noise = (_scramble(value) * 2.0**-32).astype(np.float32).clip(max=1 - 2**-24)
    return torch.from_numpy(noise).to(device, non_blocking=True)


def _scramble(value: Word) -> Word:
    """The finaliser of MurmurHash3 (Appleby 2011): 32 bits, in 64-bit integers where `value` is an array."""
    value = (value ^ (value >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ (value >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ (value >> 16)
