"""The learning rate as a function of step and progress, so a checkpoint holds no scheduler."""

from __future__ import annotations

import math


def warmup_cosine(step: int, progress: float, *, warmup_steps: int = 100, final: float = 0.0) -> float:
    """Factor on the learning rate: linear over the first `warmup_steps`, cosine from 1 to `final` over `progress`.

    `progress` in [0, 1] is the share of the training that is done, by steps or by time.
    """
    cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return cosine * min(1.0, (step + 1) / max(warmup_steps, 1))


SCALINGS = {"none": 0.0, "warmup": 0.0, "sqrt": 0.5, "linear": 1.0}
"""Rules for several processes: the power of their number by which the learning rate grows."""


def scaled(rule: str, processes: int, warmup_steps: int) -> tuple[float, int]:
    """Factor on the learning rate, and steps of the warm-up, when `processes` share a step of that many batches.

    Settings are those of one process. All rules but "none" keep the warm-up's number of images. The learning rate stays
    as it is, or grows with the batch: by its root, for AdamW and its like (Malladi et al. 2022), or linearly, for SGD
    (Goyal et al. 2017). ValueError for an unknown rule.
    """
    if rule not in SCALINGS:
        raise ValueError(f"there is no rule '{rule}'")
    steps = warmup_steps if rule == "none" else -(-warmup_steps // processes)
    return float(processes) ** SCALINGS[rule], steps
