"""`detr-mini train`: one training, or with -m a sweep of many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from detr_mini.experiments.launch import Attempt
from detr_mini.experiments.sweep import train_many
from detr_mini.training import run


def train(config: DictConfig) -> Path:
    """Train as `config` describes, measure the best checkpoint, and fill a run folder; the folder."""
    return run.train(config)


def train_sweep(words: Sequence[str], attempt: Attempt) -> int:
    """Train with each combination of the settings in `words`; the exit status. `attempt` runs one training."""
    return train_many(words, attempt)
