"""`detr-mini train`: one training. With -m, `experiments.sweep` calls it for each of many."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from detr_mini.training import run


def train(config: DictConfig) -> Path:
    """Train as `config` describes, measure the best checkpoint, and fill a run folder; the folder."""
    return run.train(config)
