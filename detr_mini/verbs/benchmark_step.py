"""`detr-mini benchmark step`: how long each part of a training step takes."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from detr_mini.benchmarks import step


def benchmark_step(config: DictConfig) -> dict[str, Any]:
    """Time `config.steps` steps of the training that `config` describes; print and return the table."""
    return step.benchmark_step(config)
