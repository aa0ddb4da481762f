"""Section G of the faults: what a step computes, and what it does not wait for."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from detr_mini.errors import NonFiniteError
from detr_mini.training.build import build
from detr_mini.training.skipping import MOST, SkippedSteps
from detr_mini.vision.fast_depthwise import fold_frozen_norms
from training_parts import small_config


class Counted(TorchDispatchMode):
    """Counts the operations that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.name()] += 1
        return func(*args, **(kwargs or {}))


# G-12


def test_g12_constants_of_frozen_norms_are_computed_once_until_weights_load_or_move() -> None:
    layers = pytest.importorskip("timm.layers", reason="the extra 'timm' is not installed")
    norm = layers.FrozenBatchNormAct2d(8)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 1.5)
    plain = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), norm)
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    x = torch.randn(2, 8, 6, 7)

    def count() -> int:
        with Counted() as counted:
            y = folded(x)
        torch.testing.assert_close(y, plain(x), rtol=1e-4, atol=1e-5)
        return counted.names["aten::rsqrt"]

    with torch.inference_mode():
        assert count() == 1  # an evaluation may come first
    assert count() == 0
    folded(x).sum().backward()
    state = {name: value * 1.5 for name, value in plain.state_dict().items()}
    for network in (plain, folded):
        network.load_state_dict(state)
    assert (count(), count()) == (1, 0)
    for network in (plain, folded):
        network.double()
    x = x.double()
    assert (count(), count()) == (1, 0)


# G-18


def test_g18_a_gradient_that_is_not_finite_is_skipped_and_counted_without_a_look_at_it() -> None:
    skipped = SkippedSteps(torch.device("cpu"))
    for value, expected in ((1.0, (0, 0)), (float("nan"), (1, 1)), (float("inf"), (1, 2)), (2.0, (0, 0))):
        gradients = [torch.full((3,), value), torch.ones(2, 2)]
        norm = torch.nn.utils.get_total_norm(gradients)
        with Counted() as counted:
            found = skipped.skip(gradients, norm)
        assert not {"aten::_local_scalar_dense", "aten::item"} & set(counted.names), "nothing waits for the device"
        assert found.isfinite()
        finite = expected == (0, 0)
        assert all(bool(gradient.any()) == finite and gradient.isfinite().all() for gradient in gradients)
        assert skipped.new() == expected


def test_g18_a_training_ends_after_many_skipped_steps_in_a_row(
    scenes_root: Any, caplog: pytest.LogCaptureFixture
) -> None:
    task = build(small_config(scenes_root, "trainer.max_steps=2")).task
    task.report_skipped()  # on a CPU nothing is skipped
    task.skipped = SkippedSteps(torch.device("cpu"))
    task.skipped.skip([], torch.tensor(float("nan")))
    with caplog.at_level(logging.WARNING, "detr_mini"):
        task.report_skipped()
    assert "1 steps were skipped up to step 0: their gradient was not finite" in caplog.text
    for _ in range(MOST - 1):
        task.skipped.skip([], torch.tensor(float("nan")))
    task.trainer = type("Trainer", (), {"precision": "32-true", "global_step": 0})()
    task._batch = None
    found = pytest.MonkeyPatch()
    with found.context() as patched:
        patched.setattr("detr_mini.training.task.explain", lambda *words: NonFiniteError(str(words[-1])))
        with pytest.raises(NonFiniteError, match=f"the gradient of {MOST} steps"):
            task.report_skipped()
