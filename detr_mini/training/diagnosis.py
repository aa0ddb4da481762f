"""Finds the layer that computed the first non-finite value, and whether the precision is to blame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from detr_mini.errors import NonFiniteError
from detr_mini.models.protocol import DetectionModel
from detr_mini.structures import Batch
from detr_mini.training.device import AUTOCAST


def explain(
    model: DetectionModel, batch: Batch, step: int, precision: str, what: str, rows: Sequence[int] | None = None
) -> NonFiniteError:
    """The error for a step in which `what` was not finite: names the images, the first such layer, and a remedy.

    `rows` of the batch are at fault; None if they are not known. The forward pass runs again, unchanged and in float32.
    """
    ids = ", ".join(str(batch.image_ids[row]) for row in (range(len(batch)) if rows is None else rows))
    story = f"{what} is not finite at step {step}, images [{ids}]"
    bad = [name for name, tensor in model.named_parameters() if not _finite(tensor)]
    if bad:
        return NonFiniteError(f"{story}: the weights '{bad[0]}' already were not, since the step before; {REMEDY}")
    if not _finite(batch.images):
        return NonFiniteError(f"{story}: the images contain non-finite values; check the augmentation")
    dtype = AUTOCAST.get(precision, torch.float32)
    with torch.autocast(batch.images.device.type, dtype, enabled=dtype != torch.float32):
        layer = first_bad_layer(model, batch)
    grads = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    if layer is None and not grads:
        return NonFiniteError(f"{story}, though every layer's output is finite: the loss itself overflowed; {REMEDY}")
    where = f"layer '{layer}'" if layer is not None else f"the gradient of '{grads[-1]}'"
    story = f"{story}: the first non-finite value came from {where}"
    if layer is not None and precision != "32-true":
        with torch.autocast(batch.images.device.type, enabled=False):
            clean = first_bad_layer(model, batch) is None
        if clean:
            return NonFiniteError(
                f"{story}; in float32 it is finite, so precision '{precision}' is the cause: "
                "set trainer.precision=32-true"
            )
    return NonFiniteError(f"{story}; {REMEDY}")


REMEDY = "lower the learning rate (optim.optimizer.lr) or check the boxes of these images"


@torch.no_grad()
def first_bad_layer(model: DetectionModel, batch: Batch) -> str | None:
    """The name of the first layer, in order of computation, whose output is not finite; None if all are finite."""
    found: list[str] = []
    with _watching(model, found):
        model(batch.images, batch.mask(), **batch.with_captions)
    return found[0] if found else None


@contextmanager
def _watching(model: DetectionModel, found: list[str]) -> Iterator[None]:
    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not all(_finite(t) for t in pytree.tree_leaves(output) if isinstance(t, Tensor)):
                found.append(name)

        return hook

    leaves = [(n, m) for n, m in model.named_modules() if n and not any(True for _ in m.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
