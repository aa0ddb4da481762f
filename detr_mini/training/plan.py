"""A training that fits its time: image size, batch, warm-up, averaging and augmentation from this machine's speed.

Large images show small objects but take more time. A detector that has seen too few images is worse than one that has
seen enough smaller ones, so the size is the largest that leaves time for ENOUGH_IMAGES (docs/log/photographs.md).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detr_mini.data.auto_settings import AUTO, SMALLEST, STEP, range_notice
from detr_mini.data.protocol import Data
from detr_mini.formats.load_report import Chosen
from detr_mini.models.protocol import DetectionModel
from detr_mini.structures import Target, pack_targets
from detr_mini.torch_seeding import seeded
from detr_mini.training.device import AUTOCAST, choices
from detr_mini.training.image_growth import ImageGrowth
from detr_mini.training.options import TrainerOptions

ENOUGH_IMAGES = 3500
"""Images a training should see, repeats included, before a larger size is chosen."""
BATCHES, ENOUGH_STEPS = (8, 16), 700
"""Images per step: the larger batch if ENOUGH_STEPS remain, because the optimizer then costs half as much an image."""
WARMUP_SHARE, LONGEST_WARMUP = 0.1, 100
"""Share of the steps, and most steps, of the warm-up."""
AVERAGED_SHARE, LONGEST_AVERAGE = 0.1, 2000
"""Share of the steps, and most steps, that the averaged weights reach back."""
FEW_EPOCHS, MANY_EPOCHS, LONGEST_STRONG = 4, 24, 0.8
"""Strong augmentation helps where images repeat: none up to FEW_EPOCHS passes over the training images, for the share
LONGEST_STRONG of the training from MANY_EPOCHS on, linear between."""
USUAL_EPOCHS = 30
"""Assumed for several processes in a training that only time ends: their speed is not measured."""
KEPT_SPEED = 0.7
"""Share of the speed measured on a CPU that a training has: there, images are loaded on the same cores, and some pixels
are padding. Trainings of one minute had 0.67 to 0.74 of it (docs/log/photographs.md)."""
PROBE_STEPS, PROBE_SECONDS = 3, 4.0
"""Steps that are measured at each image size, and the time after which no further one is: the machine is slow."""


@dataclass(frozen=True)
class Trainable:
    """Everything that a training step computes with."""

    model: DetectionModel
    criterion: Callable[..., Any]
    make_optimizer: Callable[[DetectionModel], torch.optim.Optimizer]


@dataclass(frozen=True)
class Speed:
    """Duration of a training step in seconds: `step` + images * (`image` + `pixel` * pixels of an image)."""

    step: float | int
    image: float | int
    pixel: float | int

    def seconds(self, batch: int, pixels: float | int) -> float:
        """Duration of a step with `batch` images of `pixels` pixels each."""
        return self.step + batch * (self.image + self.pixel * pixels)


@dataclass(frozen=True)
class Plan:
    """Settings that fit the time."""

    size: int
    batch_size: int
    warmup_steps: int
    average: float
    strong_until: float
    images: float
    """How many the training will see, repeats included."""
    images_per_second: float


def plan(
    speed: Speed,
    seconds: float | int,
    *,
    wanted: int,
    shape: float | int,
    train_images: int,
    growth: ImageGrowth,
    fixed: Mapping[str, Any] | None = None,
    accumulate: int = 1,
) -> Plan:
    """The plan for a training of `seconds`.

    `wanted` is the size that suits the boxes; it is never exceeded. `shape` is the images' shorter side divided by the
    longer. `fixed` holds what the user set (`size`, `batch_size`); a step has `accumulate` batches.
    """
    fixed = fixed or {}

    def rate(size: int, batch: int) -> float:
        each = batch * accumulate
        steps = [speed.seconds(each, (size * growth.scale_at((i + 0.5) / 20)) ** 2 * shape) for i in range(20)]
        # a mean over time, not over steps, because images grow with the share of the time that is over
        return sum(each / step for step in steps) / len(steps)

    smallest = min(SMALLEST, wanted)
    size = fixed.get("size")
    if size is None:
        size = smallest
        for candidate in range(wanted, smallest, -STEP):
            if rate(candidate, BATCHES[0]) * seconds >= ENOUGH_IMAGES:
                size = candidate
                break
    batch = fixed.get("batch_size")
    if batch is None:
        large = BATCHES[1]
        batch = large if rate(size, large) * seconds / (large * accumulate) >= ENOUGH_STEPS else BATCHES[0]
    per_second = rate(size, batch)
    images = per_second * seconds
    steps = images / (batch * accumulate)
    return Plan(size, batch, *rhythm(steps), strong_share(images / train_images), images, per_second)


def rhythm(steps: float | int) -> tuple[int, float]:
    """Warm-up steps and decay of the averaged weights for a training of `steps`."""
    warmup = max(1, min(LONGEST_WARMUP, round(WARMUP_SHARE * steps)))
    return warmup, round(1 - 1 / min(max(AVERAGED_SHARE * steps, 10), LONGEST_AVERAGE), 4)


def strong_share(epochs: float | int) -> float:
    """The share of a training of `epochs` that has the strong augmentation."""
    share = (epochs - FEW_EPOCHS) / (MANY_EPOCHS - FEW_EPOCHS)
    return round(LONGEST_STRONG * min(max(share, 0.0), 1.0), 2)


def measure_speed(
    trainable: Trainable, num_classes: int, device: torch.device, dtype: torch.dtype, sides: tuple[int, int]
) -> Speed:
    """The speed of this machine, from a few steps of a copy of the model on random images.

    `sides` of the squares should be those between which the images grow: larger ones leave the processor's caches, so
    their time does not follow from that of smaller ones.
    """
    copied = copy.deepcopy(trainable.model).to(device).train()
    optimizer, criterion = trainable.make_optimizer(copied), trainable.criterion
    with seeded(0):
        steps = [_probe(copied, criterion, optimizer, num_classes, side, device, dtype) for side in sides]
    optimizing = min(seconds for _, seconds in steps)
    kept = KEPT_SPEED if device.type == "cpu" else 1.0
    optimizing /= kept
    small, large = (seconds / BATCHES[0] / kept for seconds, _ in steps)
    pixels = [side * side for side in sides]
    pixel = max(large - small, 0.1 * large) / (pixels[1] - pixels[0])
    return Speed(optimizing, max(0.0, small - pixel * pixels[0]), pixel)


def probe_sides(size: int, shape: float | int, growth: ImageGrowth, stride: int) -> tuple[int, int]:
    """Sides of squares with the pixels of images of this size and shape, as they begin and as they end.

    They are multiples of `stride`. Images that do not grow are measured at half their sides, too.
    """
    side = size * math.sqrt(shape)
    large = max(2, round(side / stride))
    return min(max(1, round(side * min(growth.scale_at(0.0), 0.5) / stride)), large - 1) * stride, large * stride


def _probe(
    model: DetectionModel,
    criterion: Callable[..., Any],
    optimizer: torch.optim.Optimizer,
    num_classes: int,
    side: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[float, float]:
    """Shortest durations in seconds of forward and backward, on a batch of squares, and of the optimizer."""
    images = torch.rand(BATCHES[0], 3, side, side, device=device)
    targets = pack_targets([_target(row, num_classes) for row in range(BATCHES[0])])
    targets = targets.to(device)
    learning, optimizing, started = math.inf, math.inf, now(device)
    for step in range(1 + PROBE_STEPS):
        begun = now(device)
        noised = model.noised_truths(targets, range(BATCHES[0]), seed=0, step=step)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = model(images, None, denoising=noised)
        losses = criterion(output, targets, 0.0)
        (losses.total / max(losses.boxes, 1)).backward()
        middle = now(device)
        optimizer.step()
        optimizer.zero_grad()
        end = now(device)
        if step:  # the first step also builds what is built once
            learning, optimizing = min(learning, middle - begun), min(optimizing, end - middle)
            if end - started > PROBE_SECONDS:
                break
    return learning, optimizing


def _target(image_id: int, num_classes: int) -> Target:
    boxes: Tensor = torch.cat([torch.rand(6, 2) * 0.6 + 0.2, torch.rand(6, 2) * 0.2 + 0.05], 1)
    none = torch.zeros(6)
    return Target(boxes, torch.randint(num_classes, (6,)), image_id, (100, 100), none.bool(), none)


def now(device: torch.device) -> float:
    """The time in seconds, once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def fit_to_time(
    plain: dict[str, Any],
    options: TrainerOptions,
    data: Data,
    growth: ImageGrowth,
    trainable: Trainable,
) -> None:
    """Replace every "auto" in `plain`'s sections `data` and `optim`, and in `data`, by a number; report why."""
    settings, optim = plain["data"], plain["optim"]
    asked = {name for name in ("size", "batch_size", "strong_until") if settings.get(name) == AUTO}
    paced = {name for name in ("warmup_steps", "average") if optim.get(name) == AUTO}
    wanted = data.image["size"]
    settings["size"] = wanted
    if settings.get("tiles") == AUTO:
        settings["tiles"] = data.tiles  # else whoever reads the run folder would choose them by another size
    if not asked | paced:
        return
    images = len(data.train_set)
    alone = options.devices == options.num_nodes == 1
    if alone and options.max_minutes is not None and options.max_steps is None and options.max_epochs is None:
        dtype = AUTOCAST.get(choices(options).precision, torch.float32)
        fixed = {name: settings[name] for name in ("size", "batch_size") if name not in asked}
        sizes = data.train_set.records.sizes.double()
        shape = float((sizes.amin(1) / sizes.amax(1)).median())
        sides = probe_sides(wanted, shape, growth, data.stride)
        speed = measure_speed(trainable, len(data.categories or ()), torch.device(options.device_type), dtype, sides)
        chosen = plan(
            speed, options.max_minutes * 60, wanted=wanted, shape=shape, train_images=images, growth=growth,
            fixed=fixed, accumulate=options.accumulate,
        )  # fmt: skip
        because = _because(chosen, wanted, images, options.max_minutes, options.accumulate)
    else:
        length = options.steps(images, data.batch_size)
        epoch = options.epoch_steps(images, data.batch_size)
        steps = USUAL_EPOCHS * epoch if length is None else length
        seen = images * steps / epoch
        chosen = Plan(wanted, data.batch_size, *rhythm(steps), strong_share(seen / images), seen, 0.0)
        because = dict.fromkeys(("size", "batch_size"), f"the usual value, because {_unmeasured(options)}")
        paced_for = f"for {steps:,.0f} steps of training"
        if length is None:
            paced_for += f", {USUAL_EPOCHS} passes over train: {_unmeasured(options)}"
        because |= dict.fromkeys(("strong_until", "warmup_steps", "average"), paced_for)
    if "size" in asked and chosen.size == wanted:
        asked.remove("size")  # chosen by the boxes; the report already has the reason
    if chosen.images < images:
        data.report.notices.append(
            f"there is time for about {chosen.images:,.0f} images, less than one pass over the {images:,} of train; "
            "expect little. A longer trainer.max_minutes, or init= with another detector's weights, helps most"
        )
    notice = range_notice(data.train_set, chosen.size)
    data.report.notices += [notice] if notice else []
    data.settle({name: Chosen(getattr(chosen, name), because[name]) for name in sorted(asked)})
    for name in sorted(asked):
        settings[name] = getattr(chosen, name)
    for name in sorted(paced):
        optim[name] = getattr(chosen, name)
        if name == "warmup_steps" and optim.get("scaling", "none") != "none":
            optim[name] *= options.devices * options.num_nodes  # settings are those of one process
        data.report.choose(f"optim.{name}", Chosen(optim[name], because[name]))


def _unmeasured(options: TrainerOptions) -> str:
    """Why the speed of this machine does not decide."""
    if options.max_minutes is None:
        return "time does not end the training"
    if options.max_steps is not None or options.max_epochs is not None:
        return "steps or epochs may end the training before its minutes do"
    return "the speed of several processes is not measured"


def _because(chosen: Plan, wanted: int, train_images: int, minutes: float | int, accumulate: int) -> dict[str, str]:
    """The reason for each choice."""
    rate = f"{minutes:g} minutes are enough for {chosen.images:,.0f} images ({chosen.images_per_second:.1f} a second)"
    passes = f"{chosen.images / train_images:.1f} passes over {train_images:,} training images"
    steps = f"for about {chosen.images / (chosen.batch_size * accumulate):,.0f} steps"
    return {
        "size": f"{rate}; the size {wanted}, which suits the boxes, leaves time for fewer than {ENOUGH_IMAGES:,}",
        "batch_size": f"{rate}",
        "strong_until": passes,
        "warmup_steps": steps,
        "average": steps,
    }
