"""`detr-mini benchmark attention`: time and memory of every kind of attention over the number of elements."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from detr_mini.benchmarks import attention


def benchmark_attention(config: DictConfig) -> Path:
    """Measure `config.kinds` at `config.sizes`, print the table, write table and picture; the folder."""
    return attention.benchmark_attention(config)
