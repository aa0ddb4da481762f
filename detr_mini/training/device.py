"""What a training uses of its device: precision, TF32, memory layout, pinned memory, images as bytes.

`chosen_for` is the one place that decides wherever the config says `auto`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch

from detr_mini.cpu_runtime import fast_bfloat16
from detr_mini.data.auto_settings import AUTO
from detr_mini.environment import own_cores
from detr_mini.inference.batches import tf32
from detr_mini.training.options import TrainerOptions

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""The dtype that layers compute in, for mixed precisions."""


@dataclass(frozen=True)
class Device:
    """What is known of a device before anything computes on it."""

    kind: str
    """cpu, cuda or mps."""
    capability: tuple[int, int] | None = None
    """Of a CUDA device: 7.5 is Turing (T4), 8.0 Ampere (A100), 9.0 Hopper (H100)."""
    bfloat16: bool = False
    """Whether it computes in bfloat16; of a CPU, whether it is faster in it than in float32."""
    cores: int = 1
    """Of the processor, for each process of this machine."""
    name: str = "CPU"


@dataclass(frozen=True)
class Choices:
    """What a training uses of its device; the fields are named like their settings."""

    precision: str
    tf32: bool
    """Matrix products and convolutions in float32 take TF32, with a mantissa of 10 bits."""
    channels_last: bool
    pin_memory: bool
    """Batches lie in page-locked memory, from which a copy to the device overlaps with computing."""
    uint8: bool
    """Images travel to the device as bytes and become float32 there."""

    def sentence(self, device: Device) -> str:
        """For the report at the start."""
        used = [name for name in ("tf32", "channels_last", "pin_memory", "uint8") if getattr(self, name)]
        cores = f"{device.cores} core{'' if device.cores == 1 else 's'} for each process"
        return f"computes on {device.name} ({cores}): precision {self.precision}{''.join(f', {name}' for name in used)}"


def chosen_for(device: Device) -> Choices:
    """What suits the device.

    channels_last: measured faster on a CPU. On a GPU it was slower with our own backbone (143 beside 171 images a
    second on an H100, docs/log/speed.md); with other backbones it was not measured there.
    """
    gpu = device.kind == "cuda"
    generation = device.capability or (0, 0)
    half = "16-mixed" if gpu and generation >= (7, 0) else "32-true"  # Volta and Turing are fast in float16 alone
    return Choices(
        precision="bf16-mixed" if device.bfloat16 else half,
        tf32=gpu and generation >= (8, 0),
        channels_last=device.kind == "cpu",
        pin_memory=gpu,
        uint8=device.kind != "cpu",
    )


def find_device(options: TrainerOptions) -> Device:
    """The device that `options.accelerator` names, as one process of a training has it."""
    cores = own_cores(options.devices)
    if options.accelerator in ("gpu", "cuda", AUTO) and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Device("cuda", capability, bfloat16, cores, torch.cuda.get_device_name())
    if options.accelerator == "mps":
        return Device("mps", None, False, cores, "Apple GPU")
    return Device("cpu", None, fast_bfloat16(), cores)


def choices(options: TrainerOptions, data: Mapping[str, Any] | None = None, device: Device | None = None) -> Choices:
    """What a training uses: the settings in `options` and in the section `data`, where they are not "auto"."""
    chosen = chosen_for(device or find_device(options))
    said = {name: getattr(options, name) for name in ("precision", "tf32", "channels_last")}
    said |= {name: (data or {}).get(name, AUTO) for name in ("pin_memory", "uint8")}
    return replace(chosen, **{name: value for name, value in said.items() if value != AUTO})


def usable_precision(precision: str, accelerator: str) -> tuple[str, str | None]:
    """The precision to use in place of `precision`, and a notice if it is a different one."""
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if precision == "16-mixed" and on_cpu:
        return "bf16-mixed", (
            "trainer.precision=16-mixed needs a GPU; this CPU uses bf16-mixed instead, and config.yaml says so"
        )
    return precision, None


class ExactValidation(pl.Callback):
    """Validation computes without TF32, like `evaluate`, whatever the training does."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._inside = tf32(False)
        self._inside.__enter__()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._inside.__exit__(None, None, None)
