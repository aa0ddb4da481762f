"""What `detr-mini evaluate` measures a checkpoint on, and the folder that it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from detr_mini.captions.perturb import perturbed
from detr_mini.data.auto_settings import AUTO
from detr_mini.data.module import STAGES
from detr_mini.data.stored_settings import data_settings
from detr_mini.deploy.detector import ExportedDetector, is_exported
from detr_mini.deploy.load import load
from detr_mini.errors import CheckpointError, ConfigError, UserError, some_of
from detr_mini.evaluation.metrics.subset import Subset
from detr_mini.evaluation.report.caption_file import measure_caption_file
from detr_mini.evaluation.report.measure import Measured, measure, measure_detector
from detr_mini.formats.discover import names_used, read_tree
from detr_mini.images.tiling import check_tiles
from detr_mini.inference.detect_tiles import tile_side
from detr_mini.inference.detector import Detector, from_checkpoint
from detr_mini.inference.requests import DetectorLike
from detr_mini.models.build import build_part, parameter_count
from detr_mini.pretrained.checkpoints import check_knows, checkpoint_file, read_checkpoint
from detr_mini.pretrained.coco_categories import UNNAMED, mapped
from detr_mini.structures import Categories, OperatingPoint

WORDS = ("as_typed", "shuffled", "foreign", "misspelt")
"""How the captions of a split may be changed (`alter_captions`)."""


class Shared(NamedTuple):
    """The categories to measure: all of a detector that was trained here, of a published one those of the data."""

    categories: Categories
    said: str = ""
    """A sentence about the others."""


def data_of_checkpoint(
    detector: Detector | ExportedDetector,
    checkpoint: Mapping[str, Any],
    given: Any,
    split: str,
    size: Mapping[str, int],
    whole: bool = False,
) -> tuple[Any, dict[str, Any], Shared]:
    """The data module to measure `detector` on, with `split` read, its settings (config.yaml keeps them), and what of
    its categories is measured. A published detector gets the names of the data's categories.

    Normalisation, image size and categories are the checkpoint's; `size` (keys "size", "shorter_side") replaces its
    image size. `whole`: images are not cut, where the training cut them into tiles. `given`: the user's data settings,
    as for `data_settings`. ConfigError where there is no such split, CheckpointError where it has objects of
    categories that the checkpoint does not know.
    """
    settings = data_settings(given, checkpoint["config"].get("data"))
    if whole:
        settings["tiles"] = None
    elif settings.get("tiles") == AUTO:
        settings["tiles"] = checkpoint.get("tiles")
    image = {**checkpoint["image"], **size}
    tokenizer = detector.tokenizer
    stride = 1 if isinstance(detector, ExportedDetector) else detector.model.stride
    data = build_part("data", settings, **image, stride=stride, seed=0)
    if checkpoint.get("published"):
        detector.categories, shared = _shared_with_data(checkpoint, data, split, detector.categories)
    else:
        _check_split(data, split, detector.categories.names)
        shared = Shared(detector.categories)
    data.evaluate_as(detector.categories, tokenizer)
    data.setup(STAGES[split])
    if isinstance(detector, ExportedDetector):
        if detector.reader is not None:
            data.limit_tokens(detector.reader.max_tokens)
    elif tokenizer is not None:
        data.limit_tokens(detector.model.max_tokens)
    return data, {**settings, "size": image["size"]}, shared


def _check_split(data: Any, split: str, names: Sequence[str]) -> None:
    if data.make is not None and not data.root.exists():
        return
    where = data.splits[split]
    if not where:
        raise ConfigError(f"the data have no {split} split; set data.{split}.images and data.{split}.annotations")
    check_knows(names, names_used(data.root, where, split, data.format))


def _shared_with_data(
    checkpoint: Mapping[str, Any], data: Any, split: str, theirs: Categories
) -> tuple[Categories, Shared]:
    """A published detector's categories under the data's names, with those that only the data have behind them.

    CheckpointError where the detector knows none of the data's.
    """
    where = data.splits[split]
    if not where:
        raise ConfigError(f"the data have no {split} split; set data.{split}.images and data.{split}.annotations")
    records = read_tree(data.root, where, split, data.format).content["categories"]
    ours = {record["name"]: record["id"] for record in records if isinstance(record.get("name"), str)}
    joint, known = mapped(theirs, ours)
    if not known and all(name.startswith(UNNAMED) for name in theirs.names):
        raise CheckpointError(f"{checkpoint['published']['source']}: its {len(theirs)} categories have no names, and "
                              "no id of the data's is one of its labels; name them in the id2label of its config.json, "
                              "or train")  # fmt: skip
    if not known:
        raise CheckpointError(f"{checkpoint['published']['source']} knows none of the data's categories "
                              f"({some_of(sorted(ours), 8)}); measure it on other data, or train")  # fmt: skip
    kept = [k for k, name in enumerate(joint.names) if name in known]
    shared = Categories(tuple(joint.ids[k] for k in kept), tuple(joint.names[k] for k in kept))
    lacking = [name for name in ours if name not in known]
    said = f"measured on the {len(shared)} of {len(ours)} categories of the data that the detector knows"
    return joint, Shared(shared, said + (f"; not on {some_of(lacking, 8)}" if lacking else ""))


def alter_captions(data: Any, split: str, words: str) -> None:
    """Change the captions of a split: one of WORDS. ConfigError where it has none."""
    if words == "as_typed":
        return
    captions = getattr(data, "sentences", {}).get(split)
    if captions is None:
        raise ConfigError(f"words={words} needs captions, and the {split} split of the data has none")
    target, ids = data.sets[split].target, data.sets[split].image_ids
    change = perturbed(words, len(ids), 0, lambda index: captions(index, 0, target(ids[index])))
    data.sentences[split] = lambda index, epoch, target: list(change(index))


def check_tiling(config: Any) -> None:
    """ConfigError where `config.tiles` and `config.overlap` are impossible, or do not go with the other settings."""
    check_tiles(config.tiles, config.overlap)
    if config.tiles is not None and (config.by != "classes" or config.words != "as_typed"):
        raise ConfigError("tiles=... works with by=classes and without captions only; leave the other settings out")


def about_tiles(config: Any, detector: DetectorLike, cut: int | None) -> str | None:
    """Which limit counted where images were looked at in tiles. `cut`: the side of those that the data is cut into."""
    if config.tiles is None and cut is not None:
        return (f"measured on tiles of {cut} pixels, as in training (data.tiles), each with its part of the boxes; "
                "tiles=auto measures whole images")  # fmt: skip
    if config.tiles is None:
        return None
    return (f"looked at in tiles of {tile_side(detector, config.tiles)} pixels: the {config.detection_limit} best "
            "detections of each image and category count; detection_limit=... changes that")  # fmt: skip


def about(detector: Detector | ExportedDetector, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What metrics.json says of the checkpoint beside its scores."""
    return {
        "parameters": detector.description.parameters
        if isinstance(detector, ExportedDetector)
        else parameter_count(detector.model),
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
    loaded = load(config.checkpoint, config.device)
    assert isinstance(loaded, ExportedDetector)
    fixed: list[tuple[str, str | None]] = [("size", None), ("shorter_side", None)]
    fixed += [("by", "classes"), ("words", "as_typed")] if loaded.reader is None else []
    for key, usual in fixed:
        if config[key] != usual:
            raise ConfigError(
                f"{key}={config[key]} does not work with {config.checkpoint}: an exported file keeps its image size "
                "and takes no captions where its checkpoint takes none; leave it out or evaluate the checkpoint"
            )
    most, wanted = loaded.most, config.detection_limit
    if wanted > most and loaded.reader is None and config.tiles is None:  # captions and tiles give more
        raise ConfigError(
            f"detection_limit is {wanted}, and {config.checkpoint} gives {most} detections of an image at most; "
            f"evaluate it (and what it is compared with) with detection_limit={most}, or export it again with "
            f"limit={wanted}"
        )
    described = loaded.description
    about_training = {"config": {}, "image": loaded.image, "recipe": described.recipe}
    return loaded, about_training, Path(config.checkpoint).expanduser()


def measured_of(
    detector: Detector | ExportedDetector, data: Any, config: Any, subset: Subset, point: OperatingPoint
) -> Measured:
    """What `detector` finds in the split `config.split` of `data`, measured."""
    truth, limit = data.sets[config.split], config.detection_limit
    settings: dict[str, Any] = {"subset": subset, "resamples": config.resamples, "fast": config.fast}
    if isinstance(detector, ExportedDetector) and detector.reader is not None and config.tiles is None:
        detector.operating_point = point
        sentences = getattr(data, "sentences", {}).get(config.split)
        return measure_caption_file(detector, truth, sentences, limit, by_names=config.by == "names", **settings)
    if isinstance(detector, ExportedDetector) or config.tiles is not None:
        detector.operating_point = point
        detector.image = {**detector.image, "size": data.image["size"], "shorter_side": data.image["shorter_side"]}
        return measure_detector(detector, truth, limit, tiles=config.tiles, overlap=config.overlap, **settings)
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
