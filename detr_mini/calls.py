"""`detr_mini.train(...)`, `evaluate(...)`, `export(...)`: the verbs of the command line, called from Python.

Settings are keyword arguments with the command line's keys. A dotted key is a mapping, `data={"root": "photos"}`, or is
given as it is: `**{"data.root": "photos"}`. Mistakes are exceptions (`detr_mini.errors.UserError`), never exits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_mini.config.compose import compose
from detr_mini.config.required import check_required
from detr_mini.config.words import words_of
from detr_mini.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def train(**settings: Any) -> Path:
    """Train a detector and measure it; the run folder. The settings are those of `detr-mini train`.

    `train(experiment="finetune", data={"root": "photos"}, trainer={"max_minutes": 10})`. UserError for settings or data
    that cannot be used, KeyboardInterrupt after an interrupt, once the state is written (`train(resume=FOLDER)`).
    """
    from detr_mini.verbs.train import train as verb

    config = compose("train", words_of(settings))
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if devices * nodes > 1 and "RANK" not in os.environ:
        raise ConfigError(f"trainer.devices={devices} with trainer.num_nodes={nodes} needs several processes, which "
                          "start from the command line; run 'detr-mini train' or torchrun")  # fmt: skip
    return verb(config)


def evaluate(**settings: Any) -> Path:
    """Measure a checkpoint by COCO's metrics; the folder with metrics.json. The settings are those of `evaluate`.

    `evaluate(checkpoint=run, split="test", report=True)`. UserError for a checkpoint or data that cannot be used.
    """
    from detr_mini.verbs.evaluate import evaluate as verb

    return verb(_config("evaluate", settings))


def export(**settings: Any) -> Path:
    """Write a checkpoint as one file; its path. The settings are those of `detr-mini export`.

    `export(checkpoint=run, output="cells.onnx")`. UserError for a checkpoint or an output that cannot be used.
    """
    from detr_mini.verbs.export import export as verb

    return verb(_config("export", settings))


def _config(name: str, settings: Mapping[str, Any]) -> DictConfig:
    config = compose(name, words_of(settings))
    check_required(config, name, name)
    return config
