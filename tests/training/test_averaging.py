from __future__ import annotations

import torch

from detector_parts import PlainLinear, PlainNorm
from detr_mini.training.averaging import AveragedModel


def test_average_follows_the_formula_with_its_warm_up() -> None:
    model = PlainLinear(3, 2)
    averaged = AveragedModel(model, 0.9)
    expected = model.weight.detach().clone()
    for n in range(200):
        with torch.no_grad():
            model.weight.normal_()
        averaged.update()
        expected.lerp_(model.weight.detach(), 1 - min(0.9, (1 + n) / (10 + n)))
    torch.testing.assert_close(averaged.model.weight, expected)
    assert averaged.updates == 200


def test_counters_of_batch_norm_are_copied_not_averaged() -> None:
    model = PlainNorm(3)
    averaged = AveragedModel(model, 0.5)
    model(torch.randn(4, 3))
    averaged.update()
    assert averaged.model.num_batches_tracked == 1


def test_a_restored_average_continues_in_the_same_bits() -> None:
    model = PlainLinear(3, 2)
    averaged = AveragedModel(model, 0.99)
    averaged.update()
    other = AveragedModel(PlainLinear(3, 2), 0.99)
    other.load(averaged.state())
    other.source = model
    other._pairs()
    for _ in range(3):
        with torch.no_grad():
            model.weight.add_(0.1)
        averaged.update()
        other.update()
    assert torch.equal(averaged.model.weight, other.model.weight)
    assert averaged.updates == other.updates == 4
