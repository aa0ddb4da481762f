"""Resuming a run: what its folder holds, whether the settings fit it, and making best.ckpt agree with last.ckpt.

docs/run-folder.md has the order in which a run's files are written, so what a killed process can leave behind.
"""

from __future__ import annotations

import copy
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from detr_mini.config.changed_settings import HARMLESS, changes, is_among, refuse_changes
from detr_mini.config.plain import plain_dict
from detr_mini.config.run_folder import is_unused, remove_unfinished, whole
from detr_mini.data.protocol import Data
from detr_mini.errors import CheckpointError, ConfigError, UserError
from detr_mini.pretrained.checkpoints import check_categories, read_checkpoint
from detr_mini.structures import Categories
from detr_mini.training.task import DetectionTask, open_epoch, own_images

AUTO = "auto"
LATE = 60.0
"""Seconds in which a shared folder must show a file on all machines. NFS may take 30."""
LOST_BEST = (
    "best.ckpt of step {step} is missing and cannot be restored, because last.ckpt is from a later step. The best "
    "checkpoint is chosen again from the next evaluation on; until then best.ckpt is a copy of last.ckpt"
)


def read_last(folder: Path) -> dict[str, Any] | None:
    """The content of a run's last.ckpt; None if the run was killed before it saved one.

    CheckpointError if `folder` is not a run.
    """
    if (folder / "last.ckpt").is_file():
        return read_checkpoint(folder / "last.ckpt")
    if (folder / "config.yaml").is_file() or (folder / ".start.yaml").is_file():
        return None
    raise CheckpointError(f"there is no {folder / 'last.ckpt'}; resume=RUN takes the folder of a run")


@dataclass(frozen=True)
class Begun:
    """A run that this training goes on with."""

    folder: Path
    step: int | None
    """Of its last.ckpt; None if it was killed before it saved one."""


def begun_run(config: Any) -> Path | None:
    """The folder that `config.resume` names; None for a new run.

    "auto" means `config.run_folder` where that has been begun, so that one command starts a run and goes on with it.
    """
    if config.resume is None:
        return None
    if config.resume != AUTO:
        folder = Path(config.resume).expanduser()
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {folder}; resume=RUN takes the folder of a run")
        return folder
    if config.run_folder is None:
        raise ConfigError("resume=auto needs the folder in which the run starts or goes on; add run_folder=...")
    folder = Path(config.run_folder).expanduser()
    return folder if folder.is_dir() and not is_unused(folder) else None


def same_last(folder: Path, step: int) -> dict[str, Any]:
    """last.ckpt as the first process has read it. A shared folder may show it later on other machines, or an older one.

    UserError where it is not there within a minute.
    """
    deadline = time.monotonic() + LATE
    while True:
        with suppress(CheckpointError):
            checkpoint = read_last(folder)
            if checkpoint is not None and checkpoint["global_step"] == step:
                return checkpoint
        if time.monotonic() > deadline:
            raise UserError(
                f"{folder / 'last.ckpt'} of step {step}, which the first process has read, is not on "
                f"{socket.gethostname()} after {LATE:.0f} seconds; the run folder must be shared by all machines"
            )
        time.sleep(0.5)


def continued(checkpoint: Mapping[str, Any], config: DictConfig, folder: Path) -> DictConfig:
    """For resume=auto: the settings of the run, changed as the command has changed since the run was started with it.

    Settings that were chosen at the start (`data.size=auto`) stay as they were chosen.
    """
    given, now = checkpoint.get("given"), plain_dict(config)
    if not given:
        raise CheckpointError(
            f"{folder} was trained by a version of detr-mini that resume=auto does not know; use resume={folder}"
        )
    settings = copy.deepcopy(dict(checkpoint["config"]))
    for key, (_, value) in changes(given, now).items():
        if key not in ("resume", "run_folder") and not key.startswith("modules"):
            *sections, name = key.split(".")
            section = settings
            for each in sections:
                if not isinstance(section.get(each), dict):
                    section[each] = {}
                section = section[each]
            if value is None and name not in _at(now, sections):
                section.pop(name, None)
            else:
                section[name] = value
    merged = OmegaConf.create(settings)
    merged.resume, merged.run_folder, merged.modules = str(folder), config.run_folder, config.modules
    return merged


def _at(settings: Any, sections: Sequence[str]) -> Mapping[str, Any]:
    for each in sections:
        settings = settings.get(each) if isinstance(settings, Mapping) else None
    return settings if isinstance(settings, Mapping) else {}


def check_fits(
    folder: Path, checkpoint: Mapping[str, Any], task: DetectionTask, data: Data
) -> dict[str, tuple[Any, Any]]:
    """What resuming with this task and these data changes in the run's settings (see `refuse_changes`).

    UserError if the checkpoint cannot continue with them. Nothing is written.
    """
    made = refuse_changes(folder, checkpoint["config"], task.metadata["config"])
    check_categories(Categories.from_dict(checkpoint["categories"]), task.categories)
    images, before = len(data.train_set), checkpoint.get("train_images")
    if before is not None and images != before:
        raise ConfigError(
            f"resume={folder}: the run was trained on {before} images, but train has {images} now. Give it the data "
            f"that it had, or start a new run from its weights: init={folder}"
        )
    _check_weights(folder, checkpoint["state_dict"], task)
    _check_optimizer(folder, checkpoint, task.make_optimizer(task.model))
    over = budget_is_over(task, checkpoint)
    vain = [key for key in made if over and not is_among(key, HARMLESS)]
    if vain:
        raise ConfigError(
            f"resume={folder}: the run has been trained to its end, step {checkpoint['global_step']}, so "
            f"{vain[0]}={made[vain[0]][1]} would change nothing. Leave it out, or train longer, for example with "
            f"trainer.max_steps={2 * checkpoint['global_step']}"
        )
    return made


def budget_is_over(task: DetectionTask, checkpoint: Mapping[str, Any]) -> bool:
    """Whether a run at this checkpoint has nothing left to train. Sets the clock of the task's budget."""
    task.budget.set_elapsed(checkpoint["progress"]["elapsed"])
    return task.budget.over(int(checkpoint["global_step"]))


def _check_weights(folder: Path, state: Mapping[str, Any], task: nn.Module) -> None:
    wanted = task.state_dict()
    for name in sorted({*wanted, *state}):
        here, there = (tuple(part[name].shape) if name in part else None for part in (wanted, state))
        if here != there:
            raise CheckpointError(
                f"{folder / 'last.ckpt'} does not fit the model that its settings build: {name} is "
                f"{_shape(there)} in the file and {_shape(here)} in the model. Resume with the version of detr-mini "
                f"that trained it, or start a new run from its weights: init={folder}"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a number"


def _check_optimizer(folder: Path, checkpoint: Mapping[str, Any], optimizer: Any) -> None:
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    before, now = ([(group.get("rule"), len(group["params"])) for group in found]
                   for found in (groups, optimizer.param_groups))  # fmt: skip
    if before != now:
        raise ConfigError(
            f"resume={folder}: optim.optimizer divides the parameters into {len(now)} groups, which differ from the "
            f"{len(before)} of the run, so the optimizer's state does not fit. Keep backbone_scale, text_scale and "
            f"embedding_scale, or start a new run from its weights: init={folder}"
        )


def best_becomes_last(folder: Path) -> None:
    """Make best.ckpt a copy of last.ckpt. Not a hard link: changing one file would then change the other."""
    with whole(folder / "best.ckpt") as temporary:
        shutil.copyfile(folder / "last.ckpt", temporary)


def repair(folder: Path, last: Mapping[str, Any], has_val: bool) -> str | None:
    """Finish what a killed process began: make best.ckpt the checkpoint of the step that last.ckpt names.

    A notice if that is no longer possible; the best checkpoint must then be chosen again.
    """
    remove_unfinished(folder)
    step = last["best"].get("step") if has_val else last["global_step"]
    if step is None or step == _step_of(folder / "best.ckpt"):
        return None
    best_becomes_last(folder)
    return None if step == last["global_step"] else LOST_BEST.format(step=step)


def _step_of(file: Path) -> int | None:
    try:
        return int(read_checkpoint(file)["global_step"])
    except (CheckpointError, KeyError):
        return None


def move_to(checkpoint: Mapping[str, Any], task: DetectionTask, data: Data, processes: int) -> None:
    """Set the data to the epoch and batch after `checkpoint`; Lightning restores the rest."""
    loop = checkpoint["loops"]["fit_loop"]
    open_epoch(loop)
    epoch = loop["epoch_progress"]["current"]
    inside = epoch["processed"] < epoch["started"]
    data.resume_at(epoch["processed"], loop["epoch_loop.batch_progress"]["current"]["ready"] if inside else 0)
    task.images_seen = own_images(checkpoint["progress"], processes)
