"""The end of a run: measure best.ckpt once, and write metrics, pictures and the table."""

from __future__ import annotations

import logging
import math
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from detr_mini.data.module import STAGES
from detr_mini.drawing.curves import curves
from detr_mini.evaluation.metrics.coco import has_fast_library
from detr_mini.evaluation.report.measure import Measured, measure, score_found, write_measured
from detr_mini.evaluation.report.same_predictions import same_predictions_warning
from detr_mini.evaluation.report.table import table
from detr_mini.models.build import parameter_count
from detr_mini.models.heads import suppress
from detr_mini.pretrained.checkpoints import averaged_weights, operating_point, read_checkpoint
from detr_mini.structures import OperatingPoint
from detr_mini.training.build import Parts
from detr_mini.training.remarks import few_steps_notice
from detr_mini.training.run_files import write_settings, writing

log = logging.getLogger("detr_mini")


def measure_best(parts: Parts, folder: Path, console: Console, config: DictConfig, world_size: int) -> None:
    """Measure best.ckpt on test, or on val for data without test, and write the remaining files of the run folder.

    `weights` in metrics.json names what was measured: "best on val", or "last" for data without val.
    """
    task, data = parts.task, parts.data
    with writing(folder / "curves.png"):
        curves(folder / "history.csv", folder / "curves.png", folder.name)
    best = read_checkpoint(folder / "best.ckpt")
    split = next((name for name in ("test", "val") if data.splits[name]), None)
    if split is None:
        log.info("the data have neither val nor test: nothing is measured")
        return
    about = _about(best, parts, config, world_size, split)
    if about["weights"] == "last":
        console.print("the data have no val to choose the best checkpoint by: the last averaged weights are measured")
    data.setup(STAGES[split])
    point = operating_point(best)
    write_settings(folder, task.metadata["config"], f"# chosen on val, and kept in best.ckpt: {asdict(point)}\n")
    measured = _measured(parts, best, split, point)
    title = f"{folder.name} · {split}"
    write_measured(folder, measured, about, title, threshold=point.threshold)
    table(measured.scores, f"{folder} on {split}", console)
    few = few_steps_notice(best["global_step"] if task.global_step == 0 else task.global_step)
    notice = few or same_predictions_warning([*measured.found.values()])
    if notice is not None:
        console.print(notice, markup=False)
        log.warning(notice)
    console.print(f"written to {folder}", markup=False)
    log.info("augmentation cut %d boxes away", data.boxes_cropped_away)
    log.info("AP %s, AP50 %s on %s", measured.scores.metrics["AP"], measured.scores.metrics["AP50"], split)


def _measured(parts: Parts, best: dict[str, Any], split: str, point: OperatingPoint) -> Measured:
    """The best checkpoint on a split. On val its detections are there already, unless the run was resumed after it."""
    task, data, fast, threshold = parts.task, parts.data, has_fast_library(), best.get("threshold")
    truth, seen = data.sets[split], None if task.best_validation is None else task.best_validation.collected
    is_that = split == "val" and best["best"].get("step") == best["global_step"] == task.best.get("step")
    if is_that and seen is not None and len(seen.found) == len(truth):
        found = {image_id: suppress(seen.found[image_id], point.suppress_iou) for image_id in truth.image_ids}
        return score_found(found, math.inf, truth, task.categories, threshold=threshold, point=point, fast=fast,
                           given=seen.answers_in_order)  # fmt: skip
    model = task.averaged.model
    model.load_state_dict(averaged_weights(best))
    loader = data.evaluation_loader(split, shared=False)  # the other processes are done
    device = parts.device.kind
    model.to(device)  # it is on the CPU where a finished run is resumed only to be measured
    return measure(model, loader, truth, task.categories, device, point=point, progress=parts.options.progress,
                   threshold=threshold, fast=fast)  # fmt: skip


def _about(best: dict[str, Any], parts: Parts, config: DictConfig, world_size: int, split: str) -> dict[str, Any]:
    """What metrics.json holds about the run besides scores."""
    task = parts.task
    return {
        "split": split,
        "weights": "best on val" if best["best"].get("step") == best["global_step"] else "last",
        "val/AP": best["best"]["score"],
        "best_epoch": best["best"]["epoch"],
        "train_seconds": round(task.budget.elapsed, 2),
        "images_per_second": task.images_seen * world_size / max(task.budget.elapsed, 1e-9),
        "parameters": parameter_count(task.model),
        "seed": config.seed,
        "recipe": config.recipe,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit of the code, if it lies in its own git checkout: an installed package may lie in anybody's."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
