"""Seeds: the same numbers in every version, and no draw that moves another stream."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.seeding import drawing_order, image_seed, number_generator, text_generator
from detr_mini.torch_seeding import mix_numbers, seeded


def test_every_seed_gives_the_numbers_that_it_has_always_given() -> None:
    assert image_seed(0, 3, 17) == 4867070600646581868
    assert mix_numbers(0, 5, 2, 1) == 2446980793
    assert drawing_order(0, "a.jpg").hex()[:16] == "62b31384fe56f298"
    assert text_generator(0, "train", 5).getrandbits(32) == 546384586
    assert int(number_generator(0, 1, 5).integers(2**32)) == 3553645985


@given(st.integers(0, 2**63 - 1))
def test_inside_it_draws_depend_on_the_seed_alone_and_afterwards_the_stream_continues(seed: int) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = torch.rand(1)
    with seeded(seed):
        drawn = torch.rand(2)
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
    with seeded(seed):
        assert torch.equal(torch.rand(2), drawn)


def test_an_error_inside_restores_the_stream_too() -> None:
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="inside"), seeded(1):
        raise ValueError("inside")
    assert torch.equal(torch.get_rng_state(), state)
