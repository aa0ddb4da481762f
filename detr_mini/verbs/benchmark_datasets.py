"""`detr-mini benchmark datasets`: one recipe on every dataset below a folder."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from detr_mini.experiments import datasets


def benchmark_datasets(config: DictConfig) -> Path:
    """Train on every dataset below `config.root` with every seed, print one table of all; the folder of results."""
    return datasets.benchmark_datasets(config)
