"""The operations of a training step as a GPU would be given them, counted without a GPU.

    python docs/count_operations.py experiment=quickstart data.batch_size=4

Takes the settings of `detr-mini benchmark step` and prints what that prints. Where the package computes something else
on a CPU than on a GPU, the GPU's form is taken here. So the times mean nothing, but the number of operations does.
"""

from __future__ import annotations

import sys
from typing import Any

from detr_mini.benchmarks.step import benchmark_step
from detr_mini.config.compose import compose
from detr_mini.models import box_attention, grounded
from detr_mini.optim import muon
from detr_mini.vision import fast_depthwise
from detr_mini.vision.padding import PaddingGuard


def counted(words: list[str], precision: str = "32-true") -> dict[str, Any]:
    """What `benchmark step` returns for one step in a GPU's form: `operations`, `flops` and `bytes` have a meaning."""
    fast_depthwise.depthwise = fast_depthwise.depthwise_plain
    box_attention.sample_plain = box_attention.sample_products
    grounded.length_buckets = lambda captions, device: 1
    muon.fast_bfloat16 = lambda: True
    together = muon.orthogonalise_together
    muon.orthogonalise_together = lambda stacks, steps, _: together(stacks, steps, muon.PADDED)
    PaddingGuard._hide_border = lambda self, layer, args: self._hide(layer, args)  # type: ignore[method-assign]
    few = ["steps=1", "warmup=1", "matrix=64", f"trainer.precision={precision}", "data.workers=0"]
    return benchmark_step(compose("benchmark_step", [*words, *few]))


if __name__ == "__main__":
    counted(sys.argv[1:])
