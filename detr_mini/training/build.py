"""From a config to the parts of a training: data, model, losses and optimizer in a `DetectionTask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from detr_mini.config.plain import plain_dict
from detr_mini.cpu_runtime import keep_freed_memory
from detr_mini.data.auto_settings import AUTO, choose_queries, choose_size, sizes_of
from detr_mini.data.protocol import Data
from detr_mini.errors import ConfigError
from detr_mini.formats.licences import sources_of
from detr_mini.formats.split import CocoSet
from detr_mini.models.build import build_part, takes
from detr_mini.models.protocol import DetectionModel
from detr_mini.optim.schedule import SCALINGS, scaled
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.pretrained.torchvision_detectors import body_of
from detr_mini.pretrained.transfer import PACKAGED, Start, begin_with_packaged, carry
from detr_mini.shared_cores import share_cores
from detr_mini.text.tokenizers import tokenizer_of
from detr_mini.training.backgrounds import add_backgrounds
from detr_mini.training.begin_published import set_backbone, set_by_weights
from detr_mini.training.budget import Budget
from detr_mini.training.canvases import canvases_for
from detr_mini.training.device import Choices, Device, choices, find_device, usable_precision
from detr_mini.training.image_growth import ImageGrowth
from detr_mini.training.keep_categories import add_kept, find_kept
from detr_mini.training.options import TrainerOptions
from detr_mini.training.plan import Trainable, fit_to_time
from detr_mini.training.processes import ALONE, Ranks
from detr_mini.training.pseudo import add_pseudo
from detr_mini.training.remarks import objects_notice
from detr_mini.training.task import DetectionTask


@dataclass(frozen=True)
class Parts:
    """What a config builds before training starts."""

    task: DetectionTask
    data: Data
    options: TrainerOptions
    device: Device
    used: Choices
    """Of the device."""


def build(config: DictConfig, last: Mapping[str, Any] | None = None, ranks: Ranks = ALONE) -> Parts:
    """Seed everything, then build backbone, data, model, criterion, optimizer and task from `config`.

    The number of classes comes from the annotations, normalisation from the backbone, the stride from the model.
    Settings that are "auto" get their numbers; the checkpoint's metadata holds the config with these.
    `last`: the checkpoint of a run that goes on. Learning rate and warm-up stay those of the number of processes with
    which it was begun, and so do its tokeniser and what detectors found for `keep_categories` and `pseudo`.
    """
    last = last or {}
    settings = plain_dict(config, resolve=True)
    named = settings.get("init") not in (None, AUTO) and settings["resume"] is None
    body = body_of(settings["init"]) if named else None
    if body is not None:
        set_backbone(settings, body)
    start = _start(settings) if body is None else None
    begun = set_by_weights(settings, start) if start is not None and start.get("published") else []
    options, notices = _options(settings)
    _prepare_process(options, config.seed)
    backbone = _backbone(settings, start)
    begun += [] if body is None else [body.put_in(backbone)]
    device = find_device(options)
    if options.device_type == "cuda" and device.kind != "cuda":
        raise ConfigError(f"trainer.accelerator={options.accelerator} cannot be used on this machine: torch finds no "
                          "GPU; use trainer=cpu, or install a torch that is built for CUDA")  # fmt: skip
    used = choices(options, settings["data"], device)
    data = _data(settings, used, backbone, config.seed, last.get("tokeniser"))
    labelled = sources_of(data.root, image_files(data.train_set))
    data.report.notices += [*begun, *notices]
    backgrounds = add_backgrounds(data, settings)
    pseudo, looked_at = add_pseudo(data, settings, options.device_type, last.get("pseudo"), ranks)
    kept = _keep(settings, options, data, start, last.get("kept"), ranks)
    _choose_queries(settings, data)
    model, start = _model(settings, options, used, backbone, data, start)
    data.stride = model.stride  # not always the backbone's: DETR with padding=published takes images of any size
    criterion = build_part("criterion", settings["criterion"])
    optim = settings["optim"]

    def make_optimizer(model: DetectionModel) -> Any:
        return build_part("optim.optimizer", optim["optimizer"], model=model)

    growth = ImageGrowth(options.coarse_scale, options.coarse_until, options.coarse_grow)
    fit_to_time(settings, options, data, growth, Trainable(model, criterion, make_optimizer))
    processes = last.get("processes") or options.devices * options.num_nodes
    rate, warmup_steps = _scaled(optim, processes)
    seconds = None if options.max_minutes is None else options.max_minutes * 60
    canvases = None
    if options.compile:
        most = int(data.train_set.objects.max()) if len(data.train_set) else 0
        canvases = canvases_for(data.image["size"], data.image["shorter_side"], model.stride, most)
    task = DetectionTask(
        model=model,
        criterion=criterion,
        make_optimizer=make_optimizer,
        categories=data.categories,
        budget=Budget(steps=options.steps(len(data.train_set), data.batch_size), seconds=seconds),
        seed=config.seed,
        truth=data.sets.get("val"),
        warmup_steps=warmup_steps,
        rate=rate,
        clip=optim["clip"],
        average=optim["average"],
        accumulate=options.accumulate,
        canvases=canvases,
        validations=options.validations,
        operating_point=settings.get("operating_point"),
        metadata={
            **_metadata(settings, data, start, [*labelled, *backgrounds, *looked_at]),
            "processes": processes,
            "kept": kept,
            "pseudo": pseudo,
        },
    )
    data.follow(
        lambda: task.epoch_began,
        lambda batches: growth.scale_at(
            task.budget.agreed_progress(options.step_of(batches, len(data.train_set), data.batch_size))
        ),
    )
    return Parts(task, data, options, device, used)


def _scaled(optim: Mapping[str, Any], processes: int) -> tuple[float, int]:
    """`schedule.scaled` by the settings; runs of earlier versions have no rule, so nothing changes for them."""
    rule = optim.get("scaling", "none")
    try:
        return scaled(rule, processes, optim["warmup_steps"])
    except ValueError:
        raise ConfigError(f"optim.scaling is {rule!r}; choose one of {', '.join(SCALINGS)}") from None


def _options(settings: dict[str, Any]) -> tuple[TrainerOptions, list[str]]:
    """The trainer's options, with a precision that the device has, and a notice if that is not the one asked for."""
    options = TrainerOptions.of(settings["trainer"])
    usable, notice = usable_precision(options.precision, options.accelerator)
    if notice is None:
        return options, []
    settings["trainer"]["precision"] = usable
    return replace(options, precision=usable), [notice]


def _prepare_process(options: TrainerOptions, seed: int) -> None:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    share_cores()
    pl.seed_everything(seed, verbose=False)


def _start(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint that the training begins with, if there is one; of `init=auto` the package's own."""
    if settings.get("init") is None or settings["resume"] is not None:
        return None
    return read_checkpoint(PACKAGED if settings["init"] == AUTO else settings["init"])


def _backbone(settings: Mapping[str, Any], start: Mapping[str, Any] | None) -> Any:
    """The backbone, without published weights if a checkpoint's weights (`init`) will replace them anyway."""
    section = settings["backbone"]
    replaced = start is not None and settings["init"] != AUTO and "weights" in section
    return build_part("backbone", {**section, **({"weights": "none"} if replaced else {})})


def _data(
    settings: dict[str, Any], used: Choices, backbone: Any, seed: int, tokeniser: Mapping[str, Any] | None
) -> Data:
    """The data, read and checked. `tokeniser`: of a run that goes on; its words keep their rows in the weights."""
    said = settings["data"]  # of published weights: their own normalisation
    said = {**said, **{name: getattr(used, name) for name in ("pin_memory", "uint8") if name in said}}
    data: Data = build_part(
        "data", said, mean=said.get("mean") or backbone.mean, std=said.get("std") or backbone.std,
        stride=backbone.strides[-1], seed=seed,
    )  # fmt: skip
    if tokeniser is not None:
        data.tokenizer = tokenizer_of(tokeniser, "last.ckpt")
    data.setup("fit")
    return data


def image_files(train: CocoSet) -> int:
    """The image files of a set; several tiles come from one."""
    if train.records.corners is None:
        return len(train)
    names, ends = train.records.names.numpy().tobytes(), train.records.ends.tolist()
    return len({names[begin:end] for begin, end in pairwise(ends)})


def _keep(
    settings: Mapping[str, Any],
    options: TrainerOptions,
    data: Data,
    start: dict[str, Any] | None,
    kept: Any,
    ranks: Ranks,
) -> Mapping[str, Any] | None:
    """With `keep_categories`, add to the data what the detector of `init` finds (or has found, `kept`); that."""
    if not settings.get("keep_categories"):
        return None
    if start is not None and settings["init"] != AUTO:
        kept = find_kept(data, start, str(settings["init"]), options.device_type, ranks)
    if kept is None:
        raise ConfigError("keep_categories=true keeps the categories of another detector; add init=CHECKPOINT")
    add_kept(data, kept)
    if settings["data"].get("size") == AUTO:  # kept objects may be smaller than labelled ones
        data.settle({"size": choose_size(data.train_set)})
    return dict(kept)


def _choose_queries(settings: dict[str, Any], data: Data) -> None:
    """A number of queries that is "auto", from the boxes of the data."""
    if settings["model"].get("queries") == AUTO:
        chosen = choose_queries(data.train_set)
        settings["model"]["queries"] = chosen.value
        data.report.choose("model.queries", chosen)


def _model(
    settings: dict[str, Any],
    options: TrainerOptions,
    used: Choices,
    backbone: Any,
    data: Data,
    start: dict[str, Any] | None,
) -> tuple[Any, dict[str, Any] | None]:
    """The model for the data's categories and captions, with the weights of `start`; and `start`, where it was used."""
    tokenizer = data.tokenizer
    parts = {"backbone": backbone, "num_classes": len(data.categories)}
    if tokenizer is not None:
        if not takes(settings["model"], "vocabulary"):
            raise ConfigError("the data have captions, but this model does not read any; choose model=mini_grounded, "
                              "or data without captions")  # fmt: skip
        parts |= {"vocabulary": len(tokenizer), "attributes": len(data.attributes)}
    model = build_part("model", settings["model"], **parts)
    data.report.notices += model.start(data.categories.names)
    settings |= model.settled(settings)
    if start is not None:
        ours = Start(settings, data.categories, tokenizer)
        if settings["init"] == AUTO:
            fits, notices = begin_with_packaged(model, start, ours)
            start = start if fits else None
        else:
            notices = carry(model, start, str(settings["init"]), ours)
        data.report.notices += notices
    if tokenizer is not None:
        data.limit_tokens(model.max_tokens)
    if used.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if options.compile:
        model.compile(dynamic=False)  # a shape, a graph: there are few (`canvases`)
    queries = settings["model"].get("queries")
    notice = objects_notice(data.train_set, queries) if isinstance(queries, int) else None
    data.report.notices += [notice] if notice is not None else []
    return model, start


def _metadata(
    settings: dict[str, Any], data: Data, start: Mapping[str, Any] | None, sources: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What a checkpoint holds beside weights and the training's state. `start`: the checkpoint of `init`; `sources`:
    of all training images."""
    earlier = (start or {}).get("sources") or []
    own = [source for source in sources if source not in earlier]
    seen = sizes_of(data.train_set)
    return {
        "sources": [*earlier, *own],
        "image": data.image,
        "box_sizes": None if seen is None else asdict(seen),
        "tiles": data.tiles,
        "tokeniser": None if data.tokenizer is None else data.tokenizer.state(),
        "attributes": list(data.attributes),
        "recipe": settings["recipe"],
        "train_images": len(data.train_set),
        "config": settings,
    }
