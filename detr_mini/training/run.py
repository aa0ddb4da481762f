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

from detr_mini.config.plain import plain_dict
from detr_mini.config.run_folder import locked, new_run_folder, release_locks
from detr_mini.training.build import Parts, build
from detr_mini.training.final_scores import measure_best
from detr_mini.training.options import TrainerOptions
from detr_mini.training.processes import joined
from detr_mini.training.remarks import pace_remark
from detr_mini.training.resume import (
    AUTO,
    Begun,
    begun_run,
    budget_is_over,
    check_fits,
    continued,
    move_to,
    read_last,
    repair,
    same_last,
)  # fmt: skip
from detr_mini.training.run_files import logging_to, write_data_report, write_given_settings, write_settings, writing
from detr_mini.training.same_data import check_same_data
from detr_mini.training.signals import stopping_at_once
from detr_mini.training.trainer import fit, make_trainer

log = logging.getLogger("detr_mini")


def train(config: DictConfig) -> Path:
    """Train as `config` says (configs/train.yaml), measure the best checkpoint, fill the run folder, and return it.

    The best checkpoint is the best on val; for data without val it is the last one. Its averaged weights are measured.

    `config.resume` continues the run in that folder from its last.ckpt, or from the start if the run was killed before
    it had one; "auto" continues what `config.run_folder` holds, or starts there. UserError if another process works
    there, or the settings do not fit; the folder is then unchanged. KeyboardInterrupt after Ctrl-C, once last.ckpt is
    written. Of several processes the first one decides about the folder, and only it writes.
    """
    console = Console()
    with ExitStack() as stack:
        stack.enter_context(stopping_at_once())
        settings = plain_dict(config, resolve=True)
        ranks = stack.enter_context(joined(TrainerOptions.of(settings["trainer"]), settings))

        # Find out where an earlier run stopped
        begun = ranks.of_first(lambda: _open_begun(config, stack))
        checkpoint, changed, given = None, {}, settings
        if begun is not None and begun.step is not None:
            checkpoint = same_last(begun.folder, begun.step)
            if config.resume == AUTO:
                config = continued(checkpoint, config, begun.folder)
            else:
                given = checkpoint.get("given", {})
        else:
            config = cast(DictConfig, OmegaConf.merge(config, {"resume": None}))

        # Build and plan; an error in the config leaves no folder behind
        parts = build(config, checkpoint, ranks)
        check_same_data(ranks, parts.data)
        parts.task.metadata["given"] = given
        if begun is not None and checkpoint is not None:
            changed = check_fits(begun.folder, checkpoint, parts.task, parts.data)
        parts.data.divide(ranks.launch.local_rank, ranks.launch.local_world)
        over = checkpoint is not None and budget_is_over(parts.task, checkpoint)

        # Open the run folder
        folder = begun.folder if begun is not None else ranks.of_first(lambda: _open_new(config, stack))
        ranks.watch.folder = folder
        trainer, checkpoints = make_trainer(parts, folder, console, config, ranks)
        if ranks.first:
            if checkpoint is not None:
                checkpoints.forget = _finish_writing(parts, folder, checkpoint, over)
            else:
                write_given_settings(folder, config)
            write_settings(folder, parts.task.metadata["config"])
            stack.enter_context(logging_to(folder / "run.log"))
            write_data_report(folder, parts.data.report)
            console.print(parts.data.report.table())
            _log_start(folder, changed)
            pace = pace_remark(parts.task, parts.data.batch_size, ranks.world)
            console.print(pace, markup=False, highlight=False)
            log.info(pace)
            on = parts.used.sentence(parts.device)
            console.print(on, markup=False, highlight=False)
            log.info(on)
            ranks.watch.at_end += [lambda sentence: log.error("ended: %s", sentence), lambda _: release_locks()]

        # Train, then measure
        if checkpoint is not None:
            move_to(checkpoint, parts.task, parts.data, ranks.world)
        if not over:
            fit(trainer, parts, None if checkpoint is None else folder / "last.ckpt", ranks)
        ranks.watch.done()
        if ranks.first:
            measure_best(parts, folder, console, config, ranks.world)
    return checkpoints.folder


def _open_begun(config: DictConfig, stack: ExitStack) -> Begun | None:
    """Lock the folder of the run to go on with, and see how far it is; None for a new run."""
    folder = begun_run(config)
    if folder is None:
        return None
    stack.enter_context(locked(folder))
    checkpoint = read_last(folder)
    return Begun(folder, None if checkpoint is None else int(checkpoint["global_step"]))


def _open_new(config: DictConfig, stack: ExitStack) -> Path:
    """Make and lock the folder of a new run."""
    folder = new_run_folder("outputs", config.name, config.run_folder)
    stack.callback(_remove_if_empty, folder)  # nor does a trainer that this machine cannot run
    stack.enter_context(locked(folder))
    return folder


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
