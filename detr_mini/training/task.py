"""A detector, its losses and its optimizer as one LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from detr_mini.convert import to_coco_records
from detr_mini.evaluation.coco import Scores, score
from detr_mini.evaluation.doubles import without_overlaps
from detr_mini.evaluation.grounding import Answer, answers, best_threshold, grounding_metrics
from detr_mini.evaluation.operating_point import choose, settled
from detr_mini.formats.coco import CocoSet
from detr_mini.losses.criterion import Losses
from detr_mini.losses.matcher import NonFiniteCostError
from detr_mini.models.denoising import mix_numbers
from detr_mini.optim.schedule import warmup_cosine
from detr_mini.structures import Batch, Categories, OperatingPoint
from detr_mini.training.averaging import AveragedModel
from detr_mini.training.budget import Budget
from detr_mini.training.diagnosis import explain
from detr_mini.training.history import LOGGED
from detr_mini.training.image_growth import Coarse, coarsened

HEADLINES = ("grounding/accuracy", "AP")
"""What the best checkpoint is chosen by: the first that is measured."""
NEVER = 2**31
"""Epochs between two evaluations, where something else says when there is one."""


class DetectionTask(pl.LightningModule):
    """Training: losses are sums, the gradient is divided once by the boxes of the whole window and of all processes.

    `make_optimizer(model)`; `budget`: the training's length, over which the learning rate falls along a cosine to zero
    after `warmup_steps`; `clip`: largest norm of the gradient; `average`: decay of the averaged weights, which are what
    is evaluated; `seed`: of dropout and denoising; `coarse`: smaller images at first; `validations`: so many, evenly
    over the training, or as the trainer says; `operating_point`: `threshold` and `suppress_iou`, or "auto" for what
    does best on val; `card`: what a checkpoint says besides (image, config, recipe, ...).
    Validation measures the averaged weights, in float32 whatever the training's precision.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        criterion: Callable[..., Losses],
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        categories: Categories,
        budget: Budget,
        seed: int,
        warmup_steps: int = 100,
        clip: float | int = 5.0,
        average: float | int = 0.998,
        accumulate: int = 1,
        coarse: Coarse | None = None,
        validations: int | None = None,
        operating_point: Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.criterion, self.make_optimizer = model, criterion, make_optimizer
        self.categories, self.budget, self.seed = categories, budget, seed
        self.warmup_steps, self.clip, self.accumulate, self.card = warmup_steps, clip, accumulate, dict(card or {})
        self.coarse = coarse or Coarse()
        self.validations, self.point_settings = validations, dict(operating_point or {})
        self.point: OperatingPoint = settled(operating_point)
        """Which detections are reported, as the latest validation found best."""
        self.epoch_began = 0.0
        """The share of the training that was done when the present epoch began."""
        self.averaged = AveragedModel(model, average)
        self.truth: CocoSet | None = None
        """The val split, for its metric."""
        self.scores: Scores | None = None
        """Of the latest validation."""
        self.val_loss: float | None = None
        self.best: dict[str, Any] = {"score": None, "epoch": None}
        self.images_seen = 0
        self.sums = torch.zeros(len(LOGGED) + 2, dtype=torch.float64)
        """Since the last logged row: the loss, its parts, and the boxes they are divided by."""
        self._window_boxes = 0
        self._records: dict[int, list[dict[str, Any]]] = {}
        self._answers: dict[int, list[Answer]] = {}
        self._val_sums = (0.0, 0)
        self.threshold: float | None = None
        """Of a phrase's score, with captions: the one that the latest validation found best."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """No scheduler: the learning rate is a function of the step (`on_before_optimizer_step`)."""
        optimizer = self.make_optimizer(self.model)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return optimizer

    def on_fit_start(self) -> None:
        self.averaged.to(self.device)
        self.sums = self.sums.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        step = self.global_step
        progress = self.budget.progress(step)
        scale = self.coarse.scale_at(progress)
        if scale < 1:
            batch = coarsened(batch, scale, self.model.stride)  # type: ignore[arg-type]
        torch.manual_seed(mix_numbers(self.seed, step, batch_idx, self.global_rank))  # dropout: f(seed, step)
        try:
            losses = self.losses(batch, step)
        except NonFiniteCostError as error:
            raise explain(self.model, batch, step, self._precision, "a matching cost", error.rows) from None
        total = losses.total.detach()
        parts = [losses.terms.get(name, total.new_zeros(())) for name in LOGGED]
        self.sums += torch.stack([total, *parts, total.new_tensor(losses.boxes)])
        self._window_boxes += losses.boxes
        self.images_seen += len(batch)
        self._batch = batch
        return losses.total * self.accumulate  # Lightning divides by it, and the boxes of the window do already

    def losses(self, batch: Batch, step: int) -> Losses:
        """The losses of one batch, as sums over its boxes."""
        noised = getattr(self.model, "noised_truths", None)
        denoising = noised(batch.packed, batch.image_ids, seed=self.seed, step=step) if noised else None
        output = self.model(batch.images, batch.mask(), denoising, **batch.with_captions)
        with torch.autocast(self.device.type, enabled=False):
            return self.criterion(output, batch.packed, self.budget.progress(step), **batch.with_captions)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradient by the boxes of the window and of all processes, clip it, set the learning rate."""
        boxes, world = float(self._window_boxes), self.trainer.world_size
        if world > 1:
            # the processes also agree on the time, so that a training by minutes ends everywhere at the same step
            shared = torch.tensor([boxes, self.budget.elapsed], dtype=torch.float64, device=self.device)
            torch.distributed.all_reduce(shared)
            boxes, elapsed = shared.tolist()
            self.budget.agree(elapsed / world)
        self._window_boxes = 0
        scale = world / max(boxes, 1.0)  # DDP has divided by the number of processes
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads) * scale
        if self.device.type == "cpu":  # elsewhere asking would hold the device up: the next matching cost tells
            self._check(norm)
        torch._foreach_mul_(grads, scale * (self.clip / norm.clamp(min=self.clip)))
        step = self.global_step
        factor = warmup_cosine(step, self.budget.progress(step), warmup_steps=self.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _check(self, norm: Tensor) -> None:
        if not norm.isfinite():
            raise explain(self.model, self._batch, self.global_step, self._precision, "the gradient")

    @property
    def _precision(self) -> str:
        return str(self.trainer.precision)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.averaged.update()

    def on_train_start(self) -> None:
        for group, given in zip(self.trainer.optimizers[0].param_groups, self._groups, strict=True):
            group.update(given)  # a resumed run's own settings, not those that its checkpoint brought back
        self.budget.start()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        progress = self.budget.agreed_progress(self.global_step)
        if self.validations is not None and self.trainer.is_last_batch:
            due = int(progress * self.validations) > int(self.epoch_began * self.validations)
            self.trainer.check_val_every_n_epoch = 1 if due else NEVER
        if self.trainer.is_last_batch:
            self.epoch_began = progress
        if progress >= 1:
            self.trainer.should_stop = True
            self.trainer.check_val_every_n_epoch = 1  # the end is measured, whatever the rhythm was

    def on_validation_start(self) -> None:
        self.budget.pause()
        self._records, self._answers, self._val_sums = {}, {}, (0.0, 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.autocast(self.device.type, enabled=False):
            output = self.averaged.model(batch.images, batch.mask(), **batch.with_captions)
            try:
                losses = self.criterion(output, batch.packed, 1.0, **batch.with_captions)
            except NonFiniteCostError as error:
                what = "a matching cost on val"
                raise explain(self.averaged.model, batch, self.global_step, "32-true", what, error.rows) from None
        self._val_sums = (self._val_sums[0] + float(losses.total), self._val_sums[1] + losses.boxes)
        sizes = [target.original_size for target in batch.targets]
        detections = self.averaged.model.postprocess(output, sizes, self.categories)  # type: ignore[operator]
        for image_id, found in zip(batch.image_ids, detections, strict=True):
            self._records[image_id] = to_coco_records(found.to("cpu"), image_id)
        if batch.captions is not None:
            read = self.averaged.model.read(output, batch.captions, sizes)  # type: ignore[operator]
            for answer, row in zip(
                answers(read, batch.captions, batch.targets), batch.captions.caption_image.tolist(), strict=True
            ):
                self._answers.setdefault(batch.image_ids[row], []).append(answer)

    def on_validation_epoch_end(self) -> None:
        """All processes' detections together, by image id: the numbers do not depend on how many there were."""
        own = self._records, self._val_sums, self._answers
        shares: list[Any] = [own]
        if self.trainer.world_size > 1:
            shares = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(shares, own)
        records = {image_id: found for share, *_ in shares for image_id, found in share.items()}
        boxes = sum(sums[1] for _, sums, _ in shares)
        self.val_loss = sum(sums[0] for _, sums, _ in shares) / max(boxes, 1)
        assert self.truth is not None
        # a sanity pass sees part of the images only: it is measured on those
        ids = [image_id for image_id in self.truth.image_ids if image_id in records]
        found = [r for i in ids for r in records[i]]
        self.point = choose(self.truth.truth, found, ids, self.categories, **self.point_settings)
        if self.point.suppress_iou is not None:
            found = without_overlaps(found, self.point.suppress_iou)
        self.scores = score(self.truth.truth, found, self.categories, None if len(ids) == len(self.truth) else ids)
        said = {image_id: found for *_, share in shares for image_id, found in share.items()}
        if said:
            in_order = [answer for image_id in sorted(said) for answer in said[image_id]]
            self.threshold = best_threshold(in_order)
            self.scores.metrics.update(grounding_metrics(in_order, self.threshold))
        for name in ("AP", "AP50", "AP75"):
            if self.scores.metrics[name] is not None:
                self.log(f"val/{name}", self.scores.metrics[name], rank_zero_only=True)

    def on_validation_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.budget.start()

    @property
    def headline(self) -> float | None:
        """The latest validation's figure that the best checkpoint is chosen by."""
        assert self.scores is not None
        return next(self.scores.metrics[name] for name in HEADLINES if name in self.scores.metrics)

    def share_sums(self) -> Tensor:
        """The running sums over all processes, on rank 0; zeros elsewhere. All processes call it at the same step."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(self.sums)
            if not self.trainer.is_global_zero:
                self.sums.zero_()
        return self.sums

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {
            "averaged": self.averaged.state(),
            "best": dict(self.best),
            "categories": self.categories.to_dict(),
            "threshold": self.threshold,
            "operating_point": asdict(self.point),
            "random_state": {"torch": torch.get_rng_state()},
            "progress": {
                "elapsed": self.budget.elapsed,
                "epoch_began": self.epoch_began,
                "images_seen": self.images_seen,
                "sums": self.share_sums().tolist(),
                "scores": None if self.scores is None else dict(self.scores.metrics),
            },
            **self.card,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.averaged.load(checkpoint["averaged"])
        self.best = dict(checkpoint["best"])
        torch.set_rng_state(checkpoint["random_state"]["torch"])
        progress = checkpoint["progress"]
        self.budget.set_elapsed(progress["elapsed"])
        self.epoch_began = progress.get("epoch_began", 0.0)
        self.images_seen = progress["images_seen"]
        if self.trainer.is_global_zero:
            sums = torch.tensor(progress["sums"], dtype=torch.float64)
            self.sums = sums if sums.shape == self.sums.shape else self.sums  # a file of an earlier version has fewer
