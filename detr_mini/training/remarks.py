"""What a user should know of a training's settings, at its start and at its end."""

from __future__ import annotations

from detr_mini.formats.split import CocoSet

FEW_STEPS = 200
"""Fewer say nothing about a detector: the learning rate has hardly risen."""
COUNTED = 100
"""Detections of an image that COCO's metric counts, and that `detect` and `predict` report by default."""


def objects_notice(coco: CocoSet, queries: int) -> str | None:
    """A sentence where images have more objects than there are queries, or than are reported; else None."""
    counts = coco.objects
    most = int(counts.max()) if len(counts) else 0
    if most > queries:
        return (
            f"{int((counts > queries).sum())} of {len(coco)} training images have more objects than model.queries="
            f"{queries}, the fullest {most}: the others cannot be found. Set model.queries={-(-most * 5 // 40) * 10} "
            "(or auto), or cut the images into tiles"
        )
    if most > COUNTED:
        return (
            f"the fullest training image has {most} objects; AP counts the best {COUNTED} detections of an image, and "
            f"detect and predict report as many: limit={most} there, and detection_limit={most} in evaluate, count all"
        )
    return None


def few_steps_notice(steps: int) -> str | None:
    """A sentence where so many steps of the optimizer are too few to say anything; else None."""
    if steps >= FEW_STEPS:
        return None
    return (
        f"{steps} steps are too few to say anything about this detector or its data (some hundred are needed, some "
        "thousand are usual); train longer: trainer.max_minutes=..., trainer.max_epochs=... or trainer.max_steps=..."
    )
