"""The verb `train`: from a config to a run folder with everything in it."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from detr_mini.config.run_folder import locked, new_run_folder, rank
from detr_mini.errors import CheckpointError
from detr_mini.training.build import Parts, build
from detr_mini.training.final_scores import measure_best
from detr_mini.training.resume import budget_is_over, check_fits, move_to, read_last, repair
from detr_mini.training.run_files import logging_to, write_data_report, write_given_settings, write_settings, writing
from detr_mini.training.trainer import fit, make_trainer

log = logging.getLogger("detr_mini")


def train(config: DictConfig) -> Path:
    """Train as `config` says (configs/train.yaml), measure the best checkpoint, fill the run folder, and return it.

    The best checkpoint is the best on val; for data without val it is the last one. Its averaged weights are measured.

    `config.resume` continues the run in that folder from its last.ckpt, or from the start if the run was killed before
    it had one. UserError if another process works there, or the settings do not fit; the folder is then unchanged.
    KeyboardInterrupt after Ctrl-C, once last.ckpt is written. Only the first process writes.
    """
    console = Console()
    resumed = None if config.resume is None else Path(config.resume).expanduser()
    with ExitStack() as stack:
        # Find out where an earlier run stopped
        checkpoint, changed = None, {}
        if resumed is not None:
            if not resumed.is_dir():
                raise CheckpointError(f"there is no folder {resumed}; resume=RUN takes the folder of a run")
            stack.enter_context(locked(resumed))
            checkpoint = read_last(resumed)
            if checkpoint is None:
                config = cast(DictConfig, OmegaConf.merge(config, {"resume": None}))

        # Build and plan; an error in the config leaves no folder behind
        parts = build(config)
        if resumed is not None and checkpoint is not None:
            changed = check_fits(resumed, checkpoint, parts.task, parts.data)
        over = checkpoint is not None and budget_is_over(parts.task, checkpoint)

        # Open the run folder
        folder = resumed or new_run_folder("outputs", config.name, config.run_folder)
        if resumed is None:
            stack.callback(_remove_if_empty, folder)  # nor does a trainer that this machine cannot run
            stack.enter_context(locked(folder))
        trainer, checkpoints = make_trainer(parts, folder, console, config)
        if rank() == 0:
            if checkpoint is not None:
                checkpoints.forget = _finish_writing(parts, folder, checkpoint, over)
            else:
                write_given_settings(folder, config)
            write_settings(folder, parts.task.metadata["config"])
            stack.enter_context(logging_to(folder / "run.log"))
            write_data_report(folder, parts.data.report)
            console.print(parts.data.report.table())
            _log_start(folder, changed)

        # Train, then measure
        if checkpoint is not None:
            move_to(checkpoint, parts.task, parts.data)
        if not over:
            fit(trainer, parts, None if checkpoint is None else folder / "last.ckpt")
        if trainer.is_global_zero:
            measure_best(parts, folder, console, config, trainer.world_size)
    return checkpoints.folder


def _finish_writing(parts: Parts, folder: Path, checkpoint: dict[str, Any], over: bool) -> bool:
    """Finish what a killed process had begun to write. True if the best checkpoint so far is lost."""
    with writing(folder / "best.ckpt"):
        lost = repair(folder, checkpoint, parts.task.truth is not None)
    parts.data.report.notices += [] if lost is None else [lost]
    if not over:  # metrics.json exists if, and only if, the run is finished and best.ckpt was measured
        (folder / "metrics.json").unlink(missing_ok=True)
    return lost is not None


def _log_start(folder: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
    log.info("%s, torch %s, run folder %s", platform.platform(), torch.__version__, folder)
    for key, (before, now) in changed.items():
        log.info("resumed with %s=%s (it was %s)", key, now, before)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
