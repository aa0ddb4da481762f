"""`detr-mini benchmark latency`: how long each form of a detector takes on this machine."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from detr_mini.benchmarks import latency


def benchmark_latency(config: DictConfig) -> Path:
    """Time the forms of `config.checkpoint` in turn; write and print the table; the folder."""
    return latency.benchmark_latency(config)
