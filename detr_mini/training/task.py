"""A detector, its losses and its optimizer as one LightningModule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from detr_mini.evaluation.metrics.grounding import answers
from detr_mini.evaluation.metrics.operating_point import settled
from detr_mini.formats.split import CocoSet
from detr_mini.losses.criterion import Losses
from detr_mini.losses.matcher import NonFiniteCostError
from detr_mini.losses.unjudged import without_unjudged
from detr_mini.models.protocol import DetectionModel
from detr_mini.optim.schedule import warmup_cosine
from detr_mini.structures import Batch, Categories
from detr_mini.torch_seeding import mix_numbers
from detr_mini.training.averaging import AveragedModel
from detr_mini.training.budget import Budget
from detr_mini.training.canvases import Canvases, graphs_warning, on_canvas
from detr_mini.training.diagnosis import explain
from detr_mini.training.history import LOGGED
from detr_mini.training.requests import Requests
from detr_mini.training.skipping import HALVINGS, MOST, SkippedSteps
from detr_mini.training.strategy import with_gradients
from detr_mini.training.validation import Collected, Measured, Validation

log = logging.getLogger("detr_mini")

HEADLINES = ("grounding/accuracy", "AP")
"""The metric that chooses the best checkpoint: the first of these that was measured."""
NEVER = 2**31
"""`check_val_every_n_epoch` while no validation is due."""


class DetectionTask(pl.LightningModule):
    """Losses are sums over boxes; the gradient is divided once, by the boxes of all batches and processes of a step.

    `make_optimizer(model)` builds the optimizer; `rate` multiplies its learning rates. `budget` is the training's
    length; over it the learning rate falls along a cosine to zero, after `warmup_steps`. `clip` is the largest gradient
    norm, `average` the decay of the averaged weights, `seed` that of dropout and denoising. `truth` is val's ground
    truth, None for data without val.
    `validations` is a number of validations, spread evenly over the training; None leaves it to the trainer.
    `operating_point` has `threshold` and `suppress_iou`, each a number or "auto", which means the best on val.
    `metadata` goes into every checkpoint (image, config, recipe, ...).
    Validation measures the averaged weights, in float32 whatever the precision of the training.
    """

    def __init__(
        self,
        *,
        model: DetectionModel,
        criterion: Callable[..., Losses],
        make_optimizer: Callable[[DetectionModel], torch.optim.Optimizer],
        categories: Categories,
        budget: Budget,
        seed: int,
        truth: CocoSet | None = None,
        warmup_steps: int = 100,
        rate: float = 1.0,
        clip: float | int = 5.0,
        average: float | int = 0.998,
        accumulate: int = 1,
        canvases: Canvases | None = None,
        validations: int | None = None,
        operating_point: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.criterion, self.make_optimizer = model, criterion, make_optimizer
        self.categories, self.budget, self.seed, self.truth = categories, budget, seed, truth
        self.warmup_steps, self.rate, self.clip, self.accumulate = warmup_steps, rate, clip, accumulate
        self.canvases = canvases
        self.validations, self.point_settings = validations, dict(operating_point or {})
        self._before = Measured(settled(operating_point))
        """Before the first validation of this process: the settings, or what the checkpoint holds."""
        self.metadata = dict(metadata or {})
        self.averaged = AveragedModel(model, average)
        self.epoch_began = 0.0
        """The share of the training that was done when the current epoch began."""
        self.images_seen = 0
        self.sums = torch.zeros(len(LOGGED) + 2, dtype=torch.float64)
        """Since the last row of history.csv: the loss, its parts, and the boxes to divide them by."""
        self.validation: Validation | None = None
        """The latest one."""
        self.best_validation: Validation | None = None
        """That of the best checkpoint, where this process was there."""
        self.best: dict[str, Any] = {"score": None, "epoch": None}
        self.requests = Requests()
        self.skipped: SkippedSteps | None = None
        """Of a training on a GPU."""
        self._boxes = 0
        """Boxes since the last step of the optimizer."""
        self._captions = 0
        """Captions since then."""
        self._collected = Collected()
        self._warned = False

    # One training step, in the order in which Lightning calls these hooks

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        if self.canvases is not None:
            batch = on_canvas(batch, self.canvases)
        seed = mix_numbers(self.seed, self.global_step, batch_idx, self.global_rank)
        torch.default_generator.manual_seed(seed)  # dropout; torch.manual_seed takes a millisecond more
        if self.device.type != "cpu":
            getattr(torch, self.device.type).manual_seed(seed)
        with self._explaining("a matching cost", self.model, batch):
            losses = self.losses(batch, self.global_step)
        self._count(batch, losses)
        total = losses.total
        if self.trainer.world_size > 1:
            total = with_gradients(total, self.model.left_out(batch.captions))
        return total * self.accumulate  # Lightning divides by it, but `_boxes` counts all batches of the step

    def losses(self, batch: Batch, step: int) -> Losses:
        """The losses of one batch, as sums over its boxes."""
        denoising = self.model.noised_truths(batch.packed, batch.image_ids, seed=self.seed, step=step)
        output = self.model(batch.images, batch.mask(), denoising=denoising, **batch.with_captions)
        with torch.autocast(self.device.type, enabled=False):
            if any(self.metadata.get(key) is not None for key in ("kept", "pseudo")):
                output = without_unjudged(output, batch.targets)
            return self.criterion(output, batch.packed, self.budget.agreed_progress(step), **batch.with_captions)

    # ... Lightning computes the gradient, once or `accumulate` times ...

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._scale_and_clip_gradient(self._boxes_of_all_processes())
        self._set_learning_rate(optimizer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.averaged.update()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        progress = self.budget.agreed_progress(self.global_step)
        if self.trainer.is_last_batch:
            self._schedule_validation(progress)
            self.epoch_began = progress
        if progress >= 1:
            self._end_with_a_validation()

    # What these hooks do

    def _count(self, batch: Batch, losses: Losses) -> None:
        """Add a batch to the running sums."""
        total = losses.total.detach()
        none = total.new_zeros(())
        parts = [losses.terms.get(name, none) for name in LOGGED]
        self.sums += torch.stack([total, *parts, total.new_full((), losses.boxes)])
        self._boxes += losses.boxes
        self._captions += 0 if batch.captions is None else len(batch.captions.token_ids)
        self.images_seen += len(batch)
        self._batch = batch

    def _boxes_of_all_processes(self) -> float:
        """Boxes of this step. With the same sum the processes agree on the time, and on whether to save or to stop.

        The numbers go from host to host (gloo), so that no process waits for its GPU.
        """
        boxes, captions = float(self._boxes), float(self._captions)
        self._boxes = self._captions = 0
        if self.trainer.world_size > 1:
            own = [boxes, captions, self.budget.elapsed, *self.requests.as_numbers()]
            shared = torch.tensor(own, dtype=torch.float64)
            torch.distributed.all_reduce(shared)
            boxes, captions, elapsed, *asked = shared.tolist()
            self.budget.agree(elapsed / self.trainer.world_size)
            self.requests.agree(asked)
            if not captions:  # the optimizer then leaves them as they are, as in a training of one process
                for parameter in self.model.left_out(None):
                    parameter.grad = None
        return boxes

    def _scale_and_clip_gradient(self, boxes: float) -> None:
        """Divide the summed gradient by `boxes`, then limit its norm to `clip`."""
        scale = self.trainer.world_size / max(boxes, 1.0)  # DDP has divided by the number of processes
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads) * scale
        if self.skipped is not None:  # a GPU would have to be waited for
            norm = self.skipped.skip(grads, norm)
        elif not norm.isfinite():
            raise explain(self.model, self._batch, self.global_step, self._precision, "the gradient")
        torch._foreach_mul_(grads, scale * (self.clip / norm.clamp(min=self.clip)))

    def report_skipped(self) -> None:
        """Log how many steps were skipped since the last call; NonFiniteError where too many were, up to now."""
        new, in_a_row = (0, 0) if self.skipped is None else self.skipped.new()
        if in_a_row >= MOST and (in_a_row >= MOST + HALVINGS or self._precision != "16-mixed"):
            raise explain(
                self.model, self._batch, self.global_step, self._precision, f"the gradient of {in_a_row} steps"
            )
        if new:
            log.warning("%d steps were skipped up to step %d: their gradient was not finite", new, self.global_step)

    def report_graphs(self) -> None:
        """Warn once where torch no longer compiles."""
        warning = None if self.canvases is None or self._warned else graphs_warning()
        if warning is not None:
            self._warned = True
            log.warning(warning)

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer) -> None:
        progress = self.budget.agreed_progress(self.global_step)
        factor = warmup_cosine(self.global_step, progress, warmup_steps=self.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _schedule_validation(self, progress: float) -> None:
        """At the end of an epoch: validate now if one of `validations` was due during it."""
        if self.validations is not None:
            due = int(progress * self.validations) > int(self.epoch_began * self.validations)
            self.trainer.check_val_every_n_epoch = 1 if due else NEVER

    def _end_with_a_validation(self) -> None:
        self.trainer.should_stop = True
        self.trainer.check_val_every_n_epoch = 1

    @contextmanager
    def _explaining(
        self, what: str, model: DetectionModel, batch: Batch, precision: str | None = None
    ) -> Iterator[None]:
        """Turn a matching cost that is not finite into an error that names the images and the layer."""
        try:
            yield
        except NonFiniteCostError as error:
            raise explain(model, batch, self.global_step, precision or self._precision, what, error.rows) from None

    @property
    def _precision(self) -> str:
        return str(self.trainer.precision)

    # Before the first step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """No scheduler: `_set_learning_rate` computes the learning rate from the step."""
        optimizer = self.make_optimizer(self.model)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"] * self.rate)
        self._groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return optimizer

    def on_fit_start(self) -> None:
        self.averaged.to(self.device)
        self.sums = self.sums.to(self.device)
        self.skipped = None if self.device.type == "cpu" else SkippedSteps(self.device)

    def on_train_start(self) -> None:
        for group, given in zip(self.trainer.optimizers[0].param_groups, self._groups, strict=True):
            group.update(given)  # a resumed run uses its own settings, not those in its checkpoint
        if self.trainer.world_size > 1:
            self.budget.agree(self.budget.elapsed)  # zero, or that of the checkpoint
        self.budget.start()

    # Validation

    def on_validation_start(self) -> None:
        self.budget.pause()
        self._collected = Collected()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        model = self.averaged.model
        with torch.autocast(self.device.type, enabled=False):
            output = model(batch.images, batch.mask(), **batch.with_captions)
            with self._explaining("a matching cost on val", model, batch, precision="32-true"):
                losses = self.criterion(output, batch.packed, 1.0, **batch.with_captions)
        self._collected.loss += float(losses.total)
        self._collected.boxes += losses.boxes
        sizes = [target.original_size for target in batch.targets]
        detections = model.postprocess(output, sizes, self.categories)
        for image_id, found in zip(batch.image_ids, detections, strict=True):
            self._collected.found[image_id] = found.to("cpu")
        if batch.captions is not None:
            read = model.read(output, batch.captions, sizes)
            rows = batch.captions.caption_image.tolist()
            for row, answer in zip(rows, answers(read, batch.captions, batch.targets), strict=True):
                self._collected.answers.setdefault(batch.image_ids[row], []).append(answer)

    def on_validation_epoch_end(self) -> None:
        assert self.truth is not None
        self.validation = Validation.of_all(
            self._collected, self.truth, self.categories, self.point_settings, self.trainer.world_size, self.global_rank
        )
        for name in ("AP", "AP50", "AP75"):
            if self.validation.scores.metrics[name] is not None:
                self.log(f"val/{name}", self.validation.scores.metrics[name], rank_zero_only=True)

    def on_validation_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.budget.start()

    @property
    def headline(self) -> float | None:
        """The metric of the latest validation that chooses the best checkpoint."""
        assert self.validation is not None
        metrics = self.validation.scores.metrics
        return next(metrics[name] for name in HEADLINES if name in metrics)

    # Checkpoints

    def share_sums(self) -> Tensor:
        """The running sums over all processes, on rank 0; zeros elsewhere. All processes call it at the same step.

        It also agrees on `requests`: at the end of an epoch no step does.
        """
        if self.trainer.world_size > 1:
            asked = self.requests.as_numbers()
            shared = torch.cat([self.sums, self.sums.new_tensor(asked)])
            torch.distributed.all_reduce(shared)
            self.requests.agree(shared[-len(asked) :].tolist())
            self.sums.copy_(shared[: -len(asked)])
            if not self.trainer.is_global_zero:
                self.sums.zero_()
        return self.sums

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        measured = self._before if self.validation is None else Measured.by(self.validation)
        checkpoint |= {
            "averaged": self.averaged.state(),
            "best": dict(self.best),
            "categories": self.categories.to_dict(),
            "threshold": measured.threshold,
            "operating_point": asdict(measured.point),
            "random_state": {"torch": torch.get_rng_state()},
            "progress": {
                "elapsed": self.budget.elapsed,
                "epoch_began": self.epoch_began,
                "images_seen": self.images_seen,
                "processes": self.trainer.world_size,
                "sums": self.share_sums().tolist(),
                "scores": measured.scores,
            },
            **self.metadata,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        loop = checkpoint["loops"]["fit_loop"]
        open_epoch(loop)
        self.averaged.load(checkpoint["averaged"])
        if checkpoint.get("sources"):  # with those of the checkpoint that the run began from
            self.metadata = {**self.metadata, "sources": checkpoint["sources"]}
        self.best = dict(checkpoint["best"])
        torch.set_rng_state(checkpoint["random_state"]["torch"])
        progress = checkpoint["progress"]
        self._before = self._before.restored(checkpoint, self.point_settings)
        self.budget.set_elapsed(progress["elapsed"])
        done = self.budget.progress(checkpoint["global_step"])  # by today's length, which may be another
        self.epoch_began = done if epoch_ended(loop) else min(progress.get("epoch_began", 0.0), done)
        self.images_seen = own_images(progress, self.trainer.world_size)
        if self.trainer.is_global_zero:
            sums = torch.tensor(progress["sums"], dtype=torch.float64)
            self.sums = sums if sums.shape == self.sums.shape else self.sums  # older checkpoints have fewer sums


def epoch_ended(loop: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, of which this is Lightning's `fit_loop`, was made after the last batch of an epoch."""
    return bool(loop["epoch_loop.batch_progress"]["is_last_batch"])


def open_epoch(loop: Mapping[str, Any]) -> None:
    """Let an epoch in which the training ended go on with its next batch. Lightning counts it as processed."""
    if not epoch_ended(loop):
        for progress in loop["epoch_progress"].values():  # total, current
            progress["processed"] = progress["completed"]


def own_images(progress: Mapping[str, Any], processes: int) -> int:
    """Images that each of `processes` has seen at a checkpoint, which holds those of each process it was made by."""
    return int(progress["images_seen"] * progress.get("processes", processes) // processes)
