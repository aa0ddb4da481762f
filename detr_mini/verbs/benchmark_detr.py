"""`detr-mini benchmark detr`: our DETR beside transformers', with the same weights."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from detr_mini.benchmarks import peer_detr


def benchmark_detr(config: DictConfig) -> Path:
    """Time a training step and inference of both in turn; write and print the table; the folder."""
    return peer_detr.benchmark_detr(config)
