"""What happens besides the steps of a training: checkpoints, history, the progress bar, Ctrl-C."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from rich.console import Console

from detr_mini.config.run_folder import rank, sync, whole
from detr_mini.progress import ShareBar
from detr_mini.training.history import LOGGED, LOSSES, SHOWN, History
from detr_mini.training.requests import Requests
from detr_mini.training.resume import best_becomes_last
from detr_mini.training.run_files import writing
from detr_mini.training.signals import stopping
from detr_mini.training.task import DetectionTask

log = logging.getLogger("detr_mini")


class Interrupted(Exception):
    """The user or the machine's scheduler stopped the training; its state is in last.ckpt."""


class Logging(pl.Callback):
    """A row of history.csv every `every` steps and after each evaluation; the same numbers to the trainer's loggers."""

    def __init__(self, history: History, every: int) -> None:
        self.history, self.every = history, every
        self.latest: dict[str, Any] = {}
        """The latest value of each column, for the progress bar."""
        self._mark = (0.0, 0)
        self._ended, self._waited = 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DetectionTask)
        if trainer.is_global_zero:
            self.history.begin(trainer.global_step)
        self._mark = (pl_module.budget.elapsed, pl_module.images_seen)
        self._ended = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx:  # before the first batch of an epoch there may be an evaluation
            self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._ended = time.perf_counter()
        if stepped(trainer) and trainer.global_step % self.every == 0:
            self._training_row(trainer, pl_module)

    def _training_row(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        assert isinstance(task, DetectionTask)
        task.report_skipped()
        task.report_graphs()
        total, *parts, boxes = task.share_sums().tolist()
        task.sums.zero_()
        seconds, images = task.budget.elapsed, task.images_seen
        speed = (images - self._mark[1]) * trainer.world_size / max(seconds - self._mark[0], 1e-9)
        if not self.latest:
            log.info(pace(trainer.world_size * (images - self._mark[1]), seconds - self._mark[0], self._waited))
        self._mark = (seconds, images)
        row: dict[str, Any] = {"train/loss": total / max(boxes, 1)}
        named = zip(LOGGED, parts, strict=True)
        row |= {f"train/loss_{name}": part / max(boxes, 1) for name, part in named if part or name in LOSSES}
        row |= {"lr": float(trainer.optimizers[0].param_groups[0]["lr"]), "images_per_second": speed}
        self._add(trainer, task, row)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DetectionTask)
        if trainer.sanity_checking or pl_module.validation is None:
            return
        metrics = pl_module.validation.scores.metrics
        row = {f"val/{name}": metrics[name] for name in SHOWN if metrics.get(name) is not None}
        self._add(trainer, pl_module, {"val/loss": pl_module.validation.loss, **row})

    def _add(self, trainer: pl.Trainer, task: DetectionTask, row: dict[str, Any]) -> None:
        self.latest |= row
        if trainer.is_global_zero:
            place = {"step": trainer.global_step, "epoch": trainer.current_epoch}
            with writing(self.history.path):
                self.history.add({**place, "seconds": round(task.budget.elapsed, 2), **row})
            for logger in trainer.loggers:
                logger.log_metrics({k: v for k, v in row.items() if v is not None}, trainer.global_step)


def pace(images: int, seconds: float, waited: float) -> str:
    """The loader's rate beside the step's, where the training took `seconds` and `waited` for images in them."""
    step = images / max(seconds - waited, 1e-9)
    loader = f", the loader {images / waited:.1f}" if waited > 0.05 * seconds else "; the loader is faster"
    more = "" if waited < 0.25 * seconds else ": more data.workers or data.cache_megabytes would help"
    return f"images a second in the first {images}: a step alone does {step:.1f}{loader}{more}"


class Checkpoints(pl.Callback):
    """Writes last.ckpt after each evaluation, `minutes` after the last save, and at the end; and the best as best.ckpt.

    The best has the highest AP on val, or the highest exact accuracy for data with captions; without val it is the
    last. last.ckpt is written first and names the step of the best, so `resume.repair` can finish for a killed process.
    The first process chooses the folder and sends it to the others. `forget`: the best so far is lost.
    After Ctrl-C, SIGTERM or SIGUSR1 the current step (or evaluation) is finished, the state is written and
    `Interrupted` is raised; a second Ctrl-C stops at once and leaves what was written before. Of several processes all
    save and stop at the step at which they have agreed to (`task.requests`).
    """

    def __init__(self, folder: Path, minutes: float | int, forget: bool = False) -> None:
        self.folder, self.seconds, self.forget = folder, minutes * 60, forget
        self._requests = Requests()
        self._saved = time.monotonic()
        self._better = self._measured = False
        """Since the last save."""
        self._former: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, DetectionTask)
        self.folder = trainer.strategy.broadcast(self.folder)
        self._requests = pl_module.requests
        self._requests.alone = trainer.world_size == 1
        if trainer.is_global_zero:
            self._requests.save_is_due = self._is_due

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DetectionTask)
        if self.forget:
            pl_module.best = {"score": None, "epoch": None}
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._ask) for number in stopping()}
            self._owner = os.getpid()

    def _is_due(self) -> bool:
        return time.monotonic() - self._saved > self.seconds

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a process that loads images, which ends with this one
            return
        if self._requests.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._requests.stop and rank() == 0:
            print("\nstopping after this step; its state is then written. Ctrl-C again stops at once", flush=True)
        self._requests.stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DetectionTask)
        if trainer.sanity_checking or pl_module.validation is None:
            return
        self._measured = True
        score, best = pl_module.headline, pl_module.best["score"]
        if best is None or (score is not None and score >= best):
            pl_module.best = {"score": score, "epoch": trainer.current_epoch, "step": trainer.global_step}
            pl_module.best_validation = pl_module.validation
            self._better = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DetectionTask)
        # only inside an epoch: its last batch, and the last of the training, are followed by the evaluation, then by
        # on_train_epoch_end. A run that was killed between a save here and that evaluation would never make it
        at_the_end = pl_module.budget.agreed_progress(pl_module.global_step) >= 1
        if not stepped(trainer) or at_the_end or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        if self._requests.saves:
            self.save(trainer)
            self._stop_if_asked()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # equal in all processes: they evaluate and end together, and have agreed on the requests at the last step
        if self._measured or trainer.should_stop or self._requests.saves:
            self.save(trainer)
            self._stop_if_asked()

    def save(self, trainer: pl.Trainer) -> None:
        """Write last.ckpt, and best.ckpt if it is the best so far."""
        if trainer.is_global_zero:
            with writing(self.folder / "last.ckpt"):
                self._write(trainer)
        else:
            trainer.save_checkpoint(self.folder / "last.ckpt")  # writes nothing, but takes part in the collectives
        self._better = self._measured = False
        self._saved = time.monotonic()

    def _write(self, trainer: pl.Trainer) -> None:
        task = trainer.lightning_module
        assert isinstance(task, DetectionTask)
        if (self.folder / "history.csv").is_file():
            sync(self.folder / "history.csv")  # so that it is never behind the checkpoint, even after a power cut
        with whole(self.folder / "last.ckpt") as temporary:
            trainer.save_checkpoint(temporary)
        if self._better or task.truth is None:
            with writing(self.folder / "best.ckpt"):
                best_becomes_last(self.folder)
        (self.folder / ".start.yaml").unlink(missing_ok=True)

    def _stop_if_asked(self) -> None:
        if self._requests.stops:
            raise Interrupted

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # Lightning does not call it after an exception


class Bar(pl.Callback):
    """One bar for the whole training: images a second, loss, the last AP, the time left. It prints each validation."""

    def __init__(self, logging: Logging, console: Console) -> None:
        self.logging, self.console = logging, console
        self.bar: ShareBar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.bar = ShareBar("training", self.console)
            self._show(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._show(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.bar is not None:
            self.bar.rename("measuring")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.bar is None:
            return
        self.bar.rename("training")
        latest = self.logging.latest
        shown = ", ".join(f"{name[4:]} {latest[name]:.3f}" for name in ("val/AP", "val/AP50") if name in latest)
        self.console.print(
            f"step {trainer.global_step:6d}  epoch {trainer.current_epoch + 1:3d}  val: {shown or 'n/a'}"
        )

    def _show(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.bar is None:
            return
        assert isinstance(task, DetectionTask)
        done, latest = task.budget.progress(trainer.global_step), self.logging.latest
        seconds = task.budget.elapsed
        parts = [f"step {trainer.global_step}"]
        if "images_per_second" in latest:
            parts.append(f"{latest['images_per_second']:.0f} images/s")
        if "train/loss" in latest:
            parts.append(f"loss {latest['train/loss']:.2f}")
        if "val/AP" in latest:
            parts.append(f"AP {latest['val/AP']:.3f}")
        if done > 0:
            left = seconds / done * (1 - done)
            parts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
        self.bar.show(done, "  ".join(parts))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")


def stepped(trainer: pl.Trainer) -> bool:
    """Whether the batch that has just ended made an optimizer step, and did not only add to the gradient."""
    return not trainer.fit_loop._should_accumulate()


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint directly to its path; Lightning's own way goes through /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).write_bytes(content.getbuffer())
