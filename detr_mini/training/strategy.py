"""How several processes share a step: Lightning's DDP, with what this project knows of its models."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from jaxtyping import Float
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detr_mini.training.options import TrainerOptions

OURS = ("detr_mini", "torch", "torchvision", "timm", "transformers")
"""Packages whose modules change no buffer in a step, apart from norms that track statistics."""


def chosen_strategy(options: TrainerOptions, model: nn.Module) -> DDPStrategy | str:
    """The strategy of a training of several processes; of one process, the word in the config as it is.

    Gradients are views of the buckets that are sent, which saves a copy of all of them. Buffers are broadcast before
    every step only where a step changes them. A static graph would save the search for unused parameters, which is off.

    DDP sends the first gradients in another order than all later ones, and the sum of three numbers depends on their
    order. A resumed training of three or more processes therefore agrees with an uninterrupted one to rounding only.
    The search for unused parameters keeps the order, but warns on every terminal that it costs time.
    """
    if options.devices * options.num_nodes == 1 or options.strategy not in ("auto", "ddp"):
        return options.strategy
    settings: dict[str, Any] = {} if changes_buffers(model) else _no_broadcast()
    timeout = timedelta(minutes=options.timeout_minutes)
    return DDPStrategy(timeout=timeout, gradient_as_bucket_view=True, **settings)


def changes_buffers(model: nn.Module) -> bool:
    """Whether a training step of `model` may change its buffers: the statistics of norms that are not frozen.

    A module of another package that has buffers counts as one that does.
    """
    return any(_tracks(module) for module in model.modules())


def with_gradients(total: Float[Tensor, ""], left_out: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """The loss, with gradients of zero for the parameters that its batch does not use.

    DDP waits in every process for a gradient of each parameter, and fails in the next step where one has none. To
    search for them (`find_unused_parameters`) costs time in every step; few batches leave any out.
    """
    for parameter in left_out:
        total = total + 0.0 * parameter.flatten()[0]
    return total


def _tracks(module: nn.Module) -> bool:
    foreign = type(module).__module__.partition(".")[0] not in OURS
    if foreign and next(module.buffers(recurse=False), None) is not None:
        return True
    norms = nn.modules.batchnorm._NormBase
    return isinstance(module, norms) and module.track_running_stats and module.running_mean is not None


def _no_broadcast() -> dict[str, bool]:
    """torch 2.14 names the setting for the steps alone; before, it also covers the start, where all are equal."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
