"""Averaged weights: the model that is evaluated and saved."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detr_mini.models.protocol import DetectionModel


class AveragedModel:
    """A copy of a model whose weights follow it slowly: w_avg += (1 - decay) (w - w_avg) after each step.

    Early on the decay is smaller, (1 + n) / (10 + n) at update n, so that the first weights are soon forgotten (as in
    TensorFlow's ExponentialMovingAverage). It is not a submodule, so nothing trains or wraps it. Frozen parameters are
    shared with the model, so a checkpoint holds them once.
    """

    def __init__(self, model: DetectionModel, decay: float | int) -> None:
        self.source, self.decay, self.updates = model, decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs()

    def _pairs(self) -> None:
        frozen = {name: p.data for name, p in self.source.named_parameters() if not p.requires_grad}
        for name, parameter in self.model.named_parameters():
            parameter.data = frozen.get(name, parameter.data)
        own, new = self.model.state_dict(), self.source.state_dict()
        first = {tensor.data_ptr(): name for name, tensor in reversed(own.items())}  # one tensor may have two names
        own = {n: tensor for n, tensor in own.items() if n not in frozen and first[tensor.data_ptr()] == n}
        self._floats = [(own[n], new[n]) for n in own if own[n].is_floating_point()]
        self._counters = [(own[n], new[n]) for n in own if not own[n].is_floating_point()]

    def to(self, device: torch.device) -> None:
        """Move the average to `device`, where the model is."""
        self.model.to(device)
        self._pairs()

    @torch.no_grad()
    def update(self) -> None:
        """Add the model's current weights to the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages, news = zip(*self._floats, strict=True)
        torch._foreach_lerp_(averages, news, 1 - decay)
        for counter, new in self._counters:
            counter.copy_(new)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the weights by name, and the number of updates."""
        return {"weights": self.model.state_dict(), "updates": self.updates}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        weights: dict[str, Tensor] = dict(state["weights"])
        self.model.load_state_dict(weights)
        self.updates = int(state["updates"])
