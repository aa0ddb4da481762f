"""Notices about a training's settings, at its start and at its end."""

from __future__ import annotations

from detr_mini.formats.split import CocoSet
from detr_mini.training.task import DetectionTask

FEW_STEPS = 200
"""After fewer steps a detector's numbers mean nothing: the learning rate has hardly risen."""
COUNTED = 100
"""Detections per image that COCO's metric counts and that `detect` and `predict` report by default."""


def objects_notice(coco: CocoSet, queries: int) -> str | None:
    """A notice if images have more objects than there are queries, or than are reported."""
    counts = coco.objects
    most = int(counts.max()) if len(counts) else 0
    if most > queries:
        return (
            f"{int((counts > queries).sum())} of {len(coco)} training images have more objects than model.queries="
            f"{queries}, at most {most}; the rest cannot be found. Set model.queries={-(-most * 5 // 40) * 10} "
            "(or auto), or cut the images into tiles"
        )
    if most > COUNTED:
        return (
            f"one training image has {most} objects, but AP counts the best {COUNTED} detections of an image, and "
            f"detect and predict report as many. Set limit={most} there and detection_limit={most} in evaluate"
        )
    return None


def few_steps_notice(steps: int) -> str | None:
    """A notice if `steps` of the optimizer are too few for the numbers to mean anything."""
    if steps >= FEW_STEPS:
        return None
    return (
        f"{steps} steps are too few to say anything about this detector or its data: hundreds are needed, thousands "
        "are usual. Train longer with trainer.max_minutes=..., trainer.max_epochs=... or trainer.max_steps=..."
    )


def pace_remark(task: DetectionTask, batch_size: int, processes: int) -> str:
    """Images of a step over all processes, the learning rate, and the warm-up in images."""
    images = batch_size * processes * task.accumulate
    parts = f"data.batch_size={batch_size} x {processes} process{'' if processes == 1 else 'es'}"
    parts += "" if task.accumulate == 1 else f" x trainer.accumulate={task.accumulate}"
    optimizer = task.metadata["config"]["optim"]["optimizer"]
    rates = [f"{key} {optimizer[key] * task.rate:g}" for key in ("lr", "adamw_lr") if key in optimizer]
    return (
        f"a step has {images:,} images ({parts}); {', '.join(rates) or 'own learning rate'}, after a warm-up of "
        f"{task.warmup_steps:,} steps, {task.warmup_steps * images:,} images"
    )
