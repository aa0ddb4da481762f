"""What the verbs of labelling check of their settings."""

from __future__ import annotations

from omegaconf import DictConfig

from detr_mini.errors import ConfigError
from detr_mini.formats.writing import free_place
from detr_mini.labelling.prelabels import check_form


def check_new_labels(config: DictConfig) -> None:
    """ConfigError where a number is impossible; UserError where the output is there, or cannot be written."""
    if config.get("batch_size") is not None and config.batch_size < 1:
        raise ConfigError(f"batch_size is {config.batch_size}; it must be at least 1")
    free_place(config.output)


def check_doubt(config: DictConfig) -> None:
    """ConfigError for settings of `data doubt` that are impossible."""
    check_form(config.format, config.images)
    if config.shown < 1:
        raise ConfigError(f"shown is {config.shown}; it must be at least 1")
    if config.checkpoint is None and config.split != "train":
        raise ConfigError(f"split={config.split} needs checkpoint=..., a detector that was trained without it; folds "
                          "are made of train")  # fmt: skip
    if config.data.get("tiles") is not None:
        raise ConfigError("data.tiles cuts large images into windows, and data doubt looks at whole images; cut them "
                          "into images of their own first, or leave it out")  # fmt: skip
    if config.resume is not None or config.run_folder is not None:
        raise ConfigError("resume and run_folder are for one training; run the same command again to go on with "
                          "unfinished folds in output")  # fmt: skip
