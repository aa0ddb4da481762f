"""The verb `benchmark detr`: our DETR beside transformers', with the same weights, in turn in one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from detr_mini.benchmarks.output import show
from detr_mini.cpu_runtime import keep_freed_memory, threads, tiny_numbers_as_zero
from detr_mini.drawing.plotting import legend, new_figure, panel, write
from detr_mini.errors import ConfigError, nearest
from detr_mini.evaluation.report.table import markdown
from detr_mini.losses.set_criterion import SetCriterion
from detr_mini.models.detr import DETR
from detr_mini.peers.kinds import library
from detr_mini.pretrained.detr_keys import from_library
from detr_mini.progress import track
from detr_mini.structures import PackedTargets, Target, pack_targets
from detr_mini.training.plan import now
from detr_mini.vision.backbone import resnet

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PARTS = {"training": "training step", "inference": "inference"}
CLASSES, OBJECTS = 91, 7
"""COCO's, and boxes of a picture, as many as it has on average."""
_LOSS = {"no_object_weight": 0.1, "cost_class": 1.0, "cost_l1": 5.0, "cost_giou": 2.0, "weight_class": 1.0,
         "weight_l1": 5.0, "weight_giou": 2.0}  # fmt: skip
Call = Callable[[], object]


def benchmark_detr(config: DictConfig) -> Path:
    """Time a training step and inference of both, each in turn; write and print the table; the folder.

    It holds detr.json, detr.md and detr.png. Times are medians in milliseconds; the ratio is that of the medians of
    neighbouring calls, ours divided by transformers'. Both have the same weights, images, boxes, memory format and
    trained parameters; the largest difference of their logits and boxes in float32 stands in the table, too.
    """
    _check(config)
    device = torch.device("cuda" if config.device == "gpu" else str(config.device))
    with threads(config.threads or torch.get_num_threads()), tiny_numbers_as_zero():
        keep_freed_memory()
        ours, theirs = same_detectors(config.depth, config.dilation)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        models: list[Any] = [model.to(device).to(memory_format=layout) for model in (ours, theirs)]
        images = torch.randn(config.batch, 3, config.size, config.size, generator=torch.Generator().manual_seed(0))
        images = images.to(device=device, memory_format=layout)
        targets = _targets(config.batch).to(device)
        difference = _difference(models[0], models[1], images)
        rows = {}
        for part in PARTS:
            for precision in config.precisions:
                calls = _calls(part, models, images, targets, PRECISIONS[precision], config.compile)
                rows[f"{PARTS[part]}, {precision}"] = _in_turn(calls, config, device)
    result = {
        "rows": rows, "largest_difference": difference, "threads": torch.get_num_threads(), "size": config.size,
        "batch": config.batch, "depth": config.depth, "dilation": bool(config.dilation), "device": str(device),
        "compile": bool(config.compile), "channels_last": bool(config.channels_last),
    }  # fmt: skip
    return show(config.output, "detr", result, _markdown(result), partial(_plot, rows))


def same_detectors(depth: int, dilation: bool) -> tuple[DETR, Any]:
    """Ours and transformers' DETR with the same random weights, both without dropout, the first stage fixed in both.

    ConfigError where transformers is not installed, or too old.
    """
    transformers: Any = library()
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "num_labels": CLASSES, "dropout": 0.0, "use_timm_backbone": True, "backbone": f"resnet{depth}",
        "dilation": dilation, "use_pretrained_backbone": False, "auxiliary_loss": True,
    }  # fmt: skip
    theirs: Any = transformers.DetrForObjectDetection(transformers.DetrConfig(**settings))
    backbone: Any = resnet(
        depth=depth, weights="none", strides=[16 if dilation else 32], dilation=dilation, frozen_stride=4
    )
    ours = DETR(backbone=backbone, num_classes=CLASSES, dropout=0.0, padding="published")
    ours.load_state_dict(from_library(theirs.state_dict()))
    fixed = {name for name, parameter in ours.named_parameters() if not parameter.requires_grad}
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(next(iter(from_library({name: parameter}))) not in fixed)
    return ours, theirs


def _check(config: DictConfig) -> None:
    for precision in config.precisions:
        if precision not in PRECISIONS:
            raise ConfigError(f"precision '{precision}' does not exist{nearest(precision, PRECISIONS)}; choose of "
                              f"{', '.join(PRECISIONS)}")  # fmt: skip
    for key in ("repeats", "batch", "size"):
        if config[key] < 1:
            raise ConfigError(f"{key} is {config[key]}; it must be 1 or more")
    if config.device not in ("cpu", "gpu", "cuda"):
        raise ConfigError(f"device is '{config.device}'; choose cpu or gpu")
    if config.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError("device=gpu, but torch finds no GPU here; say device=cpu")


def _targets(batch: int) -> PackedTargets:
    draw = torch.Generator().manual_seed(1)
    none = torch.zeros(OBJECTS)
    targets = []
    for image_id in range(batch):
        boxes = torch.cat([torch.rand(OBJECTS, 2, generator=draw) * 0.6 + 0.2,
                           torch.rand(OBJECTS, 2, generator=draw) * 0.3 + 0.05], 1)  # fmt: skip
        labels = torch.randint(CLASSES, (OBJECTS,), generator=draw)
        targets.append(Target(boxes, labels, image_id, (100, 100), none.bool(), none))
    return pack_targets(targets)


@torch.no_grad()
def _difference(ours: DETR, theirs: Any, images: Tensor) -> float:
    """The largest of logits and boxes, in float32 and without training."""
    found, expected = ours.eval()(images), theirs.eval()(pixel_values=images)
    pairs = ((found.logits, expected.logits), (found.boxes, expected.pred_boxes))
    return max(float((a - b).abs().max()) for a, b in pairs)


def _calls(
    part: str, models: Sequence[Any], images: Tensor, targets: PackedTargets, dtype: torch.dtype, compiled: bool
) -> list[Call]:
    """A training step or an inference of ours and of transformers'."""
    around = partial(torch.autocast, images.device.type, dtype, enabled=dtype != torch.float32)
    forms = [torch.compile(model) if compiled else model for model in models]
    for model in models:
        model.train(part == "training")
    if part == "inference":
        return [_inference(forms[0], (images,), {}, around), _inference(forms[1], (), {"pixel_values": images}, around)]
    criterion = SetCriterion(**_LOSS)
    labels = [{"class_labels": its, "boxes": boxes} for boxes, its in map(targets.of, range(len(images)))]

    def of_ours() -> Tensor:
        with around():
            output = forms[0](images, None)
        losses = criterion(output, targets)
        return losses.total / max(losses.boxes, 1)

    def of_theirs() -> Tensor:
        with around():
            loss: Tensor = forms[1](pixel_values=images, labels=labels).loss
        return loss

    return [_step(models[0], of_ours), _step(models[1], of_theirs)]


def _inference(model: Any, given: Sequence[Any], named: Mapping[str, Any], around: Callable[[], Any]) -> Call:
    def call() -> object:
        with torch.inference_mode(), around():
            return model(*given, **named)

    return call


def _step(model: Any, loss_of: Callable[[], Tensor]) -> Call:
    """Forward, loss, backward, clipping and AdamW, the same optimizer for both."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, weight_decay=1e-4, foreach=True)

    def call() -> object:
        loss_of().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.1, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        return None

    return call


def _in_turn(calls: Sequence[Call], config: DictConfig, device: torch.device) -> dict[str, Any]:
    """Milliseconds of both, one call after the other's, so that a busy machine slows both."""
    times: list[list[float]] = [[], []]
    for call in [*calls] * config.warmup:
        call()
    for _ in track(range(config.repeats), "timing"):
        for call, seen in zip(calls, times, strict=True):
            begun = now(device)
            call()
            seen.append(1e3 * (now(device) - begun))
    ours, theirs = (statistics.median(seen) for seen in times)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    return {"ours": ours, "transformers": theirs, "ratio": statistics.median(ratios),
            "ratio_of_least": min(times[0]) / min(times[1])}  # fmt: skip


def _markdown(result: Mapping[str, Any]) -> str:
    cells = [[name, *(f"{row[key]:,.0f}" for key in ("ours", "transformers")), f"{row['ratio']:.2f}",
              f"{row['ratio_of_least']:.2f}"] for name, row in result["rows"].items()]  # fmt: skip
    lines = markdown(["DETR", "ours, ms", "transformers, ms", "ratio", "ratio of the shortest"], cells)
    dilated = ", DC5" if result["dilation"] else ""
    return (
        f"{lines}\nResNet-{result['depth']}{dilated}, {result['batch']} images of {result['size']} pixels, "
        f"{result['threads']} threads, {result['device']}{', compiled' if result['compile'] else ''}; outputs "
        f"differ by {result['largest_difference']:.0e} at most"
    )


def _plot(rows: Mapping[str, Mapping[str, float]], path: Path) -> None:
    figure = new_figure(8, 3.6)
    (axes,) = figure.subplots(1, 1, squeeze=False)[0]
    places = range(len(rows))
    for shift, key in ((-0.2, "ours"), (0.2, "transformers")):
        axes.bar([place + shift for place in places], [row[key] for row in rows.values()], 0.38, label=key)
    for place, row in zip(places, rows.values(), strict=True):
        axes.annotate(f"{row['ratio']:.2f}", (place, max(row["ours"], row["transformers"])), ha="center", va="bottom")
    axes.set_xticks([*places], [*rows], fontsize=8)
    axes.set_ylabel("milliseconds")
    panel(axes, "Our DETR beside transformers', with the same weights")
    legend(axes)
    write(figure, path)
