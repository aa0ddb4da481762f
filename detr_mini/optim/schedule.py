"""The learning rate as a function of step and progress, so a checkpoint holds no scheduler."""

from __future__ import annotations

import math


def warmup_cosine(step: int, progress: float, *, warmup_steps: int = 100, final: float = 0.0) -> float:
    """Factor on the learning rate: linear over the first `warmup_steps`, cosine from 1 to `final` over `progress`.

    `progress` in [0, 1] is the share of the training that is done, by steps or by time.
    """
    cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return cosine * min(1.0, (step + 1) / max(warmup_steps, 1))
