"""What `detr-mini evaluate` measures a checkpoint on, and the folder that it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detr_mini.captions.perturb import perturbed
from detr_mini.data.module import OF_TRAINING, STAGES
from detr_mini.deploy.detector import ExportedDetector, is_exported
from detr_mini.deploy.load import load
from detr_mini.errors import CheckpointError, ConfigError, UserError
from detr_mini.evaluation.metrics.subset import Subset
from detr_mini.evaluation.report.measure import Measured, measure, measure_detector
from detr_mini.formats.discover import names_used
from detr_mini.inference.detector import Detector, from_checkpoint
from detr_mini.models.build import build_part
from detr_mini.pretrained.checkpoints import check_knows, checkpoint_file, read_checkpoint
from detr_mini.structures import OperatingPoint

WORDS = ("as_typed", "shuffled", "foreign", "misspelt")
"""How the captions of a split may be changed (`alter_captions`)."""
FROM_TRAINING = ("mean", "std", "stride", "seed", "size", "shorter_side")
"""Settings of the data module that the checkpoint decides, whatever the data's config says."""


def data_of_checkpoint(
    detector: Detector | ExportedDetector,
    checkpoint: Mapping[str, Any],
    given: Any,
    split: str,
    size: Mapping[str, int],
) -> tuple[Any, dict[str, Any]]:
    """The data module to measure `detector` on, with `split` read, and its settings (config.yaml keeps them).

    Normalisation, image size and categories are the checkpoint's; `size` (keys "size", "shorter_side") replaces its
    image size. `given`: the user's data settings, as for `data_settings`. ConfigError where there is no such split,
    CheckpointError where it has objects of categories that the checkpoint does not know.
    """
    settings = data_settings(given, checkpoint["config"].get("data"))
    image = {**checkpoint["image"], **size}
    tokenizer = None if isinstance(detector, ExportedDetector) else detector.tokenizer
    stride = 1 if isinstance(detector, ExportedDetector) else detector.model.stride
    data = build_part("data", settings, **image, stride=stride, seed=0)
    _check_split(data, split, detector.categories.names)
    data.evaluate_as(detector.categories, tokenizer)
    data.setup(STAGES[split])
    if isinstance(detector, Detector) and tokenizer is not None:
        data.limit_tokens(detector.model.max_tokens)
    return data, {**settings, "size": image["size"]}


def data_settings(given: Any, trained: Mapping[str, Any] | None) -> dict[str, Any]:
    """The data module's settings: those of training (`trained`), replaced where `given` has a value other than None.

    Where `given` names a kind of data (`_target_`), the settings of training do not count. Images are made (`make`)
    only where training made them. Augmentation and what the model decides are left out.
    """
    chosen = {key: _without_none(value) for key, value in (given or {}).items()}
    chosen = {key: value for key, value in chosen.items() if value is not None}
    if "_target_" in chosen:
        settings = {"train": None, "val": None, **chosen}
    elif trained is None:
        raise CheckpointError("the checkpoint holds no data config; choose the data with data=coco data.root=...")
    else:
        settings = {**trained}
        for key, value in chosen.items():
            old = settings.get(key)
            settings[key] = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value
        root = Path(str(settings.get("root")))
        if "root" in chosen or root.is_absolute() or ".." in root.parts:  # a stranger's file writes nothing elsewhere
            settings["make"] = None
    return {key: value for key, value in settings.items() if key not in (*FROM_TRAINING, *OF_TRAINING)}


def _without_none(value: Any) -> Any:
    """`value` without the Nones in it; None where nothing is left."""
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if v is not None} or None
    return value


def _check_split(data: Any, split: str, names: Sequence[str]) -> None:
    if data.make is not None and not data.root.exists():
        return
    where = data.splits[split]
    if not where:
        raise ConfigError(f"the data have no {split} split; set data.{split}.images and data.{split}.annotations")
    check_knows(names, names_used(data.root, where, split, data.format))


def alter_captions(data: Any, split: str, words: str) -> None:
    """Change the captions of a split: one of WORDS. ConfigError where it has none."""
    if words == "as_typed":
        return
    captions = getattr(data, "sentences", {}).get(split)
    if captions is None:
        raise ConfigError(f"words={words} is about captions, and the data's {split} split has none")
    target, ids = data.sets[split].target, data.sets[split].image_ids
    change = perturbed(words, len(ids), 0, lambda index: captions(index, 0, target(ids[index])))
    data.sentences[split] = lambda index, epoch, target: list(change(index))


def about(detector: Detector | ExportedDetector, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What metrics.json says of the checkpoint beside its scores."""
    return {
        "parameters": detector.description.parameters
        if isinstance(detector, ExportedDetector)
        else sum(parameter.numel() for parameter in detector.model.parameters()),
        "recipe": checkpoint.get("recipe"),
        "seed": checkpoint["config"].get("seed"),
    }


def opened(config: Any) -> tuple[Detector | ExportedDetector, Mapping[str, Any], Path]:
    """The detector in `config.checkpoint`, what its file says of its training, and the file.

    Of an exported file it says as little as metrics.json needs. ConfigError for settings that an exported file cannot
    follow.
    """
    if not is_exported(config.checkpoint):
        file = checkpoint_file(config.checkpoint)
        checkpoint = read_checkpoint(config.checkpoint)
        return from_checkpoint(checkpoint, str(file), config.device), checkpoint, file
    for key, usual in (("size", None), ("shorter_side", None), ("by", "classes"), ("words", "as_typed")):
        if config[key] != usual:
            raise ConfigError(
                f"{key}={config[key]} does not work with {config.checkpoint}: an exported file keeps its image size "
                "and takes no captions; leave the setting out or evaluate the checkpoint"
            )
    loaded = load(config.checkpoint, config.device)
    assert isinstance(loaded, ExportedDetector)
    described = loaded.description
    about_training = {"config": {}, "image": loaded.image, "recipe": described.recipe}
    return loaded, about_training, Path(config.checkpoint).expanduser()


def measured_of(
    detector: Detector | ExportedDetector, data: Any, config: Any, subset: Subset, point: OperatingPoint
) -> Measured:
    """What `detector` finds in the split `config.split` of `data`, measured."""
    truth, limit = data.sets[config.split], config.detection_limit
    settings = {"subset": subset, "resamples": config.resamples, "fast": config.fast}
    if isinstance(detector, ExportedDetector):
        detector.operating_point = point
        return measure_detector(detector, truth, limit, **settings)
    return measure(
        detector.by_names() if config.by == "names" else detector.model,
        data.evaluation_loader(config.split, subset.image_ids), truth, detector.categories, detector.device, limit,
        threshold=detector.threshold, point=point, **settings,
    )  # fmt: skip


@contextmanager
def evaluation_folder(wanted: str | None, name: str) -> Iterator[Path]:
    """A new folder, `wanted` or a free one in outputs/evaluate; it is removed where nothing is written into it."""
    folder = _new_folder(wanted, name)
    try:
        yield folder
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def _new_folder(wanted: str | None, name: str) -> Path:
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
