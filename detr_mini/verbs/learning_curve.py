"""`detr-mini benchmark learning_curve`: the same training on growing shares of the data."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from detr_mini.experiments import learning_curve as experiment


def learning_curve(config: DictConfig) -> Path:
    """Train on each of `config.shares`, print the table, and draw the curve into `config.output`; the folder."""
    return experiment.learning_curve(config)
