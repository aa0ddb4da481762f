"""Going on in a run folder: what is there, whether the settings fit it, and `best` in agreement with `last`.

docs/run-folder.md says in which order a run's files are written, and so what a killed process can have left.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from detr_mini.config.changed_settings import HARMLESS, is_among, refuse_changes
from detr_mini.config.run_folder import remove_unfinished, whole
from detr_mini.data.module import DetectionData
from detr_mini.errors import CheckpointError, ConfigError
from detr_mini.pretrained.checkpoints import check_categories, read_checkpoint
from detr_mini.structures import Categories
from detr_mini.training.task import DetectionTask

LOST_BEST = (
    "best.ckpt of step {step} is missing, and last.ckpt is from a later step, so it cannot be made again; the best is "
    "chosen again from the next evaluation on, and best.ckpt is a copy of last.ckpt until then"
)


def read_last(folder: Path) -> dict[str, Any] | None:
    """The content of a run's last.ckpt; None where the run was killed before it had saved one.

    CheckpointError where `folder` is no run.
    """
    if (folder / "last.ckpt").is_file():
        return read_checkpoint(folder / "last.ckpt")
    if (folder / "config.yaml").is_file() or (folder / ".start.yaml").is_file():
        return None
    raise CheckpointError(f"there is no {folder / 'last.ckpt'}; resume=RUN takes the folder of a run")


def check_fits(
    folder: Path, checkpoint: Mapping[str, Any], task: DetectionTask, data: DetectionData
) -> dict[str, tuple[Any, Any]]:
    """What resuming with this task and these data changes in the run's settings, see `refuse_changes`.

    UserError where the checkpoint cannot go on with them. Nothing is written.
    """
    made = refuse_changes(folder, checkpoint["config"], task.metadata["config"])
    check_categories(Categories.from_dict(checkpoint["categories"]), task.categories)
    images, before = len(data.train_set), checkpoint.get("train_images")
    if before is not None and images != before:
        raise ConfigError(
            f"resume={folder}: the run was trained on {before} images, and train has {images} of them now, so its "
            f"epochs cannot go on; give it the data that it had, or start a run of its own: init={folder}"
        )
    _check_weights(folder, checkpoint["state_dict"], task)
    _check_optimizer(folder, checkpoint, task.make_optimizer(task.model))
    over = budget_is_over(task, checkpoint)
    vain = [key for key in made if over and not is_among(key, HARMLESS)]
    if vain:
        raise ConfigError(
            f"resume={folder}: the run has been trained to its end, step {checkpoint['global_step']}, and "
            f"{vain[0]}={made[vain[0]][1]} would change nothing; give it more to train, such as "
            f"trainer.max_steps={2 * checkpoint['global_step']}, or leave it out"
        )
    return made


def budget_is_over(task: DetectionTask, checkpoint: Mapping[str, Any]) -> bool:
    """Whether a run that stands at this checkpoint has nothing left to train; its budget's clock is set."""
    task.budget.set_elapsed(checkpoint["progress"]["elapsed"])
    return task.budget.over(int(checkpoint["global_step"]))


def _check_weights(folder: Path, state: Mapping[str, Any], task: nn.Module) -> None:
    wanted = task.state_dict()
    for name in sorted({*wanted, *state}):
        here, there = (tuple(part[name].shape) if name in part else None for part in (wanted, state))
        if here != there:
            raise CheckpointError(
                f"{folder / 'last.ckpt'} does not fit the model of its own settings: {name} is "
                f"{_shape(there)} in the file and {_shape(here)} in the model; resume with the version of detr-mini "
                f"that trained it, or start a run of its own: init={folder}"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a number"


def _check_optimizer(folder: Path, checkpoint: Mapping[str, Any], optimizer: Any) -> None:
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    before, now = ([(group.get("rule"), len(group["params"])) for group in found]
                   for found in (groups, optimizer.param_groups))  # fmt: skip
    if before != now:
        raise ConfigError(
            f"resume={folder}: optim.optimizer divides the parameters into {len(now)} groups, others than the "
            f"{len(before)} of the run, whose moments would be mixed up; leave backbone_scale, text_scale and "
            f"embedding_scale as they were, or start a run of its own: init={folder}"
        )


def best_becomes_last(folder: Path) -> None:
    """Make best.ckpt a copy of last.ckpt. A hard link would cost nothing, but whoever changed one would change both."""
    with whole(folder / "best.ckpt") as temporary:
        shutil.copyfile(folder / "last.ckpt", temporary)


def repair(folder: Path, last: Mapping[str, Any], has_val: bool) -> str | None:
    """Finish what a killed process began: best.ckpt is made what last.ckpt says that it is.

    A sentence where that cannot be done any more; the best must then be chosen again.
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


def move_to(checkpoint: Mapping[str, Any], task: DetectionTask, data: DetectionData) -> None:
    """Set the data to the epoch and batch after `checkpoint`; Lightning restores the rest."""
    loop = checkpoint["loops"]["fit_loop"]
    epoch = loop["epoch_progress"]["current"]
    inside = epoch["processed"] < epoch["started"]
    data.resume_at(epoch["processed"], loop["epoch_loop.batch_progress"]["current"]["ready"] if inside else 0)
    task.images_seen = checkpoint["progress"]["images_seen"]
