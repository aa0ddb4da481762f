"""Lightning's Trainer with the callbacks of this project, and its errors as sentences."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from rich.console import Console

from detr_mini.cpu_runtime import tiny_numbers_as_zero
from detr_mini.data.workers import lost_worker
from detr_mini.errors import ConfigError, UserError
from detr_mini.inference.batches import tf32
from detr_mini.training.build import Parts
from detr_mini.training.callbacks import Bar, CheckpointFiles, Checkpoints, Interrupted, Logging
from detr_mini.training.device import ExactValidation
from detr_mini.training.history import History
from detr_mini.training.launch import GivenPlace
from detr_mini.training.loggers import loggers
from detr_mini.training.processes import Ranks, Stopped
from detr_mini.training.strategy import chosen_strategy
from detr_mini.training.task import NEVER
from detr_mini.training.watch import how_to_continue, lost_peer

QUESTION = "_broadcast_sigterm_tensor"
"""Lightning's name for what its processes send each other before every batch; older versions have none."""


def make_trainer(
    parts: Parts, folder: Path, console: Console, config: DictConfig, ranks: Ranks
) -> tuple[pl.Trainer, Checkpoints]:
    """The trainer of a run in `folder`, and its checkpoints. ConfigError for settings this machine cannot run."""
    options = parts.options
    logging_callback = Logging(History(folder / "history.csv"), options.log_every_steps)
    checkpoints = Checkpoints(folder, options.save_every_minutes)
    callbacks: list[pl.Callback] = [ExactValidation(), logging_callback, checkpoints]
    if options.progress:
        callbacks.append(Bar(logging_callback, console))
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    precision = ranks.of_first(lambda: parts.used.precision)  # measured, so it may differ between machines
    try:
        trainer = pl.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=chosen_strategy(options, parts.task),
            precision=precision,  # type: ignore[arg-type]  # a literal there
            max_epochs=-1,  # the task's budget ends the training
            accumulate_grad_batches=options.accumulate,
            check_val_every_n_epoch=options.validate_every_epochs if options.validations is None else NEVER,
            num_sanity_val_steps=0,  # `build` has read the data already, and a part of val measures nothing
            use_distributed_sampler=False,  # the data module shares the batches between processes
            logger=loggers(config.logger, folder, config.name) or False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
            plugins=[CheckpointFiles(), GivenPlace(ranks.launch)],
            default_root_dir=folder,
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the trainer section cannot be used on this machine: {reason}") from error
    # Lightning's handlers enter collectives between any two instructions; `Checkpoints` has its own
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    # nor do the processes ask each other before every batch whether a handler was called: that waits for the GPU
    loop = trainer.fit_loop.epoch_loop
    if hasattr(loop, QUESTION):
        setattr(loop, QUESTION, lambda: None)
    return trainer, checkpoints


def fit(trainer: pl.Trainer, parts: Parts, checkpoint: Path | None, ranks: Ranks) -> None:
    """Train, from `checkpoint` if there is one.

    Stopped after Ctrl-C, once the state is written. UserError for a worker or another process of the training that has
    died.
    """
    try:
        with tiny_numbers_as_zero(), tf32(parts.used.tf32):
            trainer.fit(parts.task, parts.data, ckpt_path=checkpoint, weights_only=True)
    except Interrupted:
        raise Stopped from None
    except SystemExit as stop:
        if stop.code == 1:  # Lightning's answer to a second Ctrl-C
            raise KeyboardInterrupt from None
        raise
    except RuntimeError as error:
        sentence = lost_worker(error) or (lost_peer(error, ranks.watch) if ranks.world > 1 else None)
        if sentence is None:
            raise
        raise UserError(f"{sentence}; {how_to_continue(Path(trainer.default_root_dir))}") from error
