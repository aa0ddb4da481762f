"""On a GPU: steps whose gradient is not finite are skipped and counted there, so that the host need not wait for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST = 10
"""Skipped steps in a row after which a training ends: it no longer learns."""
HALVINGS = 16
"""More of them in precision 16-mixed, whose scale of the loss starts at 2^16 and halves at each such step."""
_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""A type of whole numbers for each number of bytes."""


class SkippedSteps:
    """Counts on the device: all skipped steps, and those in a row up to the latest."""

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)
        self._seen = 0

    def skip(self, gradients: Sequence[Tensor], norm: Tensor) -> Tensor:
        """Where `norm` is not finite, make all `gradients` zero, so that only the optimizer's momentum acts.

        Returns a norm that is finite.
        """
        bad = ~norm.isfinite()
        # zero times NaN is NaN, so the bits are multiplied, as whole numbers: one operation for all gradients
        by_size: dict[int, list[Tensor]] = {}
        for gradient in gradients:
            by_size.setdefault(gradient.element_size(), []).append(gradient.view(_WHOLE[gradient.element_size()]))
        for bits in by_size.values():
            torch._foreach_mul_(bits, (~bad).to(bits[0].dtype))
        self._counts += bad
        self._counts[1] *= bad
        return norm.masked_fill(bad, 0.0)

    def new(self) -> tuple[int, int]:
        """Steps skipped since the last call, and those in a row up to now. It waits for the device."""
        total, in_a_row = self._counts.tolist()
        since, self._seen = total - self._seen, total
        return since, in_a_row
