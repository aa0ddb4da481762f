"""A model's detections of every image that a loader gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from detr_mini.inference.unpadded import fastest
from detr_mini.models.heads import suppress
from detr_mini.models.protocol import EvaluatedModel
from detr_mini.progress import track
from detr_mini.structures import Batch, Categories, Detections, DetectorOutput


def detect_batches(
    model: EvaluatedModel,
    loader: Iterable[Batch],
    categories: Categories,
    device: torch.device | str = "cpu",
    limit: int = 100,
    progress: bool = True,
    title: str = "detecting",
    watch: Callable[[Batch, DetectorOutput], None] | None = None,
    suppress_iou: float | int | None = None,
) -> dict[int, Detections]:
    """The `limit` best detections of each image, by image id, on the CPU; no threshold on the score.

    `suppress_iou`: of those, what overlaps a better one of its category by more goes (see `suppress`).

    The model's parameters must lie on `device`. It runs in evaluation mode, without gradients, and is left in the mode
    it was in. `progress`: a bar on the terminal (no other may be active). `watch` sees every batch with captions and
    its output.
    """
    batches = track(loader, title) if progress else loader
    found: dict[int, Detections] = {}
    compute = fastest(model, device)
    with evaluating(model):
        for batch in batches:
            moved = batch.to(device, non_blocking=True)
            each: dict[int, Detections] = {}
            for rows, output in compute(moved):
                if watch is not None and moved.captions is not None:
                    watch(moved, output)
                targets = [batch.targets[row] for row in rows]
                sizes = [target.original_size for target in targets]
                per_image = model.postprocess(output, sizes, categories, limit)
                for target, detections in zip(targets, per_image, strict=True):
                    each[target.image_id] = suppress(detections, suppress_iou)
            found.update((image_id, each[image_id]) for image_id in batch.image_ids)
    return found


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Inside, a GPU computes products in float32 with TF32, or exactly."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = on
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


@contextmanager
def evaluating(model: EvaluatedModel) -> Iterator[None]:
    """Evaluation mode and inference mode inside, the former mode of every submodule afterwards."""
    with evaluation_mode(model), torch.inference_mode():
        yield


@contextmanager
def evaluation_mode(model: EvaluatedModel) -> Iterator[None]:
    """Evaluation mode inside, the former mode of every submodule afterwards."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
