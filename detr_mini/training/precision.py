"""Which precision a training computes in: what the device has, and what is faster on it."""

from __future__ import annotations

import torch

from detr_mini.cpu_runtime import fast_bfloat16
from detr_mini.training.options import TrainerOptions

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""The dtype that layers compute in, for mixed precisions."""


def usable_precision(precision: str, accelerator: str) -> tuple[str, str | None]:
    """The precision to use in place of `precision`, and a notice if it is a different one."""
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if precision == "16-mixed" and on_cpu:
        return "bf16-mixed", (
            "trainer.precision=16-mixed needs a GPU; this CPU uses bf16-mixed instead, and config.yaml says so"
        )
    return precision, None


def resolved_precision(options: TrainerOptions) -> str:
    """`options.precision` with "auto" resolved: bf16-mixed on devices that are faster in bfloat16, else 32-true."""
    if options.precision != "auto":
        return options.precision
    if options.accelerator == "cpu":
        fast = fast_bfloat16()
    else:
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if fast else "32-true"
