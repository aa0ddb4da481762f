"""The verb `evaluate`: a checkpoint's numbers on the data it was made for, or on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detr_mini.captions.perturb import altered
from detr_mini.data.module import OF_TRAINING, STAGES
from detr_mini.errors import CheckpointError, ConfigError, UserError
from detr_mini.evaluation.error_report import examine
from detr_mini.evaluation.measure import measure, write_measured
from detr_mini.evaluation.operating_point import with_overlap
from detr_mini.evaluation.same_predictions import alike_notice
from detr_mini.evaluation.subset import chosen
from detr_mini.evaluation.table import table
from detr_mini.formats.coco import CocoSet
from detr_mini.formats.discover import names_used
from detr_mini.inference.detector import from_checkpoint
from detr_mini.models.build import build_part
from detr_mini.pretrained.checkpoints import check_knows, checkpoint_file, read_checkpoint

WORDS = ("as_typed", "shuffled", "foreign", "misspelt")
FROM_TRAINING = ("mean", "std", "stride", "seed", "size", "shorter_side")
"""What the data module is told by the checkpoint, whatever the data's config says."""


def evaluate(config: DictConfig) -> Path:
    """Measure `config.checkpoint` on a split, print the table, write metrics.json, predictions.json and gallery.png.

    They go into a new folder, which is returned, with a config.yaml that says which data these are. Model, image size
    and normalisation are the checkpoint's; the data are, too, unless `config.data` says otherwise. Every detection
    counts, whatever its score. `config.subset`: judge by a part of the data; `config.report`: say why, too (`examine`).
    """
    _check(config)
    checkpoint = read_checkpoint(config.checkpoint)
    file = checkpoint_file(config.checkpoint)
    detector = from_checkpoint(checkpoint, str(file), config.device)
    image = dict(checkpoint["image"])
    image |= {key: config[key] for key in ("size", "shorter_side") if config[key] is not None}
    settings = data_settings(OmegaConf.to_container(config.data, resolve=True), checkpoint["config"].get("data"))
    stride = int(detector.model.stride)  # type: ignore[arg-type]
    data = build_part("data", settings, **image, stride=stride, seed=0)
    _check_split(data, config.split, detector.categories.names)
    data.categories = detector.categories
    if hasattr(data, "tokenizer"):
        data.tokenizer = detector.tokenizer
    data.setup(STAGES[config.split])
    if getattr(data, "tokenizer", None) is not None:
        data.limit_tokens(int(detector.model.text.max_tokens))  # type: ignore[union-attr,arg-type]
    _alter(data, config)
    truth: CocoSet = data.sets[config.split]
    part = chosen(truth.image_ids, detector.categories, config.subset)
    path = file.resolve()  # a run's best.ckpt is called by its run, a file on its own by its own name
    name = path.parent.name if path.suffix == ".ckpt" else path.stem
    output = _new_folder(config.output, f"{name}-{config.split}")
    point = with_overlap(detector.operating_point, config.suppress_iou)
    try:
        loader = data.evaluation_loader(config.split, part.image_ids)
        model = detector.by_names() if config.by == "names" else detector.model
        measured = measure(
            model, loader, truth, detector.categories, detector.device, config.detection_limit,
            threshold=detector.threshold, point=point, part=part, resamples=config.resamples, fast=config.fast,
        )  # fmt: skip
        about = {
            "images_per_second": measured.images_per_second,
            "parameters": sum(parameter.numel() for parameter in detector.model.parameters()),
            "recipe": checkpoint.get("recipe"),
            "seed": checkpoint["config"].get("seed"),
            "split": config.split,
            "by": config.by,
            "checkpoint": str(config.checkpoint),
        }
        write_measured(
            output, measured, about, f"{name} · {config.split}",
            pictures=config.gallery, threshold=point.threshold if config.threshold is None else float(config.threshold),
        )  # fmt: skip
        kept = {
            **OmegaConf.to_container(config),  # type: ignore[dict-item]
            "data": {**settings, "size": image["size"]},
            "categories": detector.categories.to_dict(),
        }
        OmegaConf.save(OmegaConf.create(kept), output / "config.yaml")
        if config.report:
            examine(output, measured, f"{name} · {config.split}", config.detection_limit)
    finally:
        if not any(output.iterdir()):
            output.rmdir()
    table(measured.scores, f"{config.checkpoint} on {config.split}")
    remark = alike_notice([*measured.found.values()])
    if remark is not None:
        print(remark)
    print(f"written to {output}")
    return output


def _alter(data: Any, config: DictConfig) -> None:
    """Have the split's captions read as `config.words` says."""
    if config.words == "as_typed":
        return
    told = getattr(data, "sentences", {}).get(config.split)
    if told is None:
        raise ConfigError(f"words={config.words} is about captions, and the data's {config.split} split has none")
    target = data.sets[config.split].target
    ids = data.sets[config.split].image_ids
    change = altered(config.words, len(ids), 0, lambda index: told(index, 0, target(ids[index])))
    data.sentences[config.split] = lambda index, epoch, target: list(change(index))


def data_settings(given: Any, trained: Mapping[str, Any] | None) -> dict[str, Any]:
    """The data module's settings: those of training, with what is `given` (not None) in their place.

    Where `given` names a kind of data (`_target_`), it stands for itself. Other images than those of training are
    never made (`make`). Augmentation and what the model decides are left out.
    """
    said = {key: _said(value) for key, value in (given or {}).items()}
    said = {key: value for key, value in said.items() if value is not None}
    if "_target_" in said:
        settings = {"train": None, "val": None, **said}
    elif trained is None:
        raise CheckpointError("the checkpoint holds no data config; choose the data with data=coco data.root=...")
    else:
        settings = {**trained}
        for key, value in said.items():
            old = settings.get(key)
            settings[key] = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value
        root = Path(str(settings.get("root")))
        if "root" in said or root.is_absolute() or ".." in root.parts:  # a stranger's file draws nothing elsewhere
            settings["make"] = None
    return {key: value for key, value in settings.items() if key not in (*FROM_TRAINING, *OF_TRAINING)}


def _said(value: Any) -> Any:
    """`value` without the Nones in it; None where nothing is left."""
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if v is not None} or None
    return value


def _check(config: DictConfig) -> None:
    if OmegaConf.is_missing(config, "checkpoint") or config.checkpoint is None:
        raise ConfigError("checkpoint is not set; say checkpoint=outputs/RUN (see 'detr-mini evaluate --help')")
    if config.split not in STAGES:
        raise ConfigError(f"split is '{config.split}'; choose one of {', '.join(STAGES)}")
    if config.by not in ("classes", "names"):
        raise ConfigError(f"by is '{config.by}'; choose classes (the head for categories) or names (as a caption)")
    if config.words not in WORDS:
        raise ConfigError(f"words is '{config.words}'; choose one of {', '.join(WORDS)}")
    for key, least in (("detection_limit", 1), ("resamples", 0)):
        if config[key] < least:
            raise ConfigError(f"{key} is {config[key]}; it must be at least {least}")
    if config.output is not None and Path(config.output).expanduser().exists():
        raise UserError(f"the output {config.output} exists already; choose a new folder")


def _check_split(data: Any, split: str, names: Sequence[str]) -> None:
    """CheckpointError where the split has objects of categories that the checkpoint does not know."""
    if data.make is not None and not data.root.exists():
        return
    where = data.splits[split]
    if not where:
        raise ConfigError(f"the data have no {split} split; set data.{split}.images and data.{split}.annotations")
    check_knows(names, names_used(data.root, where, split, data.format))


def _new_folder(wanted: str | None, name: str) -> Path:
    """A folder that did not exist before: `wanted`, or a free one in outputs/evaluate."""
    count = 1
    while True:
        free = Path("outputs") / "evaluate" / (name if count == 1 else f"{name}-{count}")
        folder = free if wanted is None else Path(wanted).expanduser()
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if wanted is not None:
                raise UserError(f"the output {wanted} exists already; choose a new folder") from None
            count += 1
        except OSError as error:
            raise UserError(f"cannot make the folder {folder} ({error.strerror or error})") from error
