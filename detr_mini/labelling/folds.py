"""Detectors that were trained without a picture look at it: folds of the training set, each left out once."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from detr_mini.checking.pixels import alike
from detr_mini.config.run_folder import write_text
from detr_mini.data.splits import split_ids
from detr_mini.data.tree_parts import owned_names, part
from detr_mini.deploy.detector import is_exported
from detr_mini.deploy.load import load
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.discover import Source as DataSource
from detr_mini.formats.tree import Tree
from detr_mini.inference.requests import DetectorLike
from detr_mini.inference.sources import Source
from detr_mini.labelling.doubts import Boxes
from detr_mini.labelling.prelabels import find_in
from detr_mini.models.build import build_part
from detr_mini.models.heads import nms, suppress
from detr_mini.pretrained.checkpoints import check_knows, read_checkpoint
from detr_mini.progress import BAR_FROM, track
from detr_mini.training.run import train

FOLDS = "folds.sha256"
"""A digest of the labels and the folds that the runs in a folder have learned."""
LEAST_SCORE = 0.05
SUPPRESS = 0.7
"""IoU of two detections of one name that are one object."""


def folds_of(tree: Tree, count: int) -> list[list[int]]:
    """The image ids of each fold: every category in its share, like pictures in one fold; the same every time.

    DataError where a fold would be empty.
    """
    owned, files, _ = owned_names(tree)
    paths = [(i, tree.folder / name) for i, name in files.items()]
    together = alike(track(paths, "looking for similar images", at_least=BAR_FROM), skip_broken=True, names=files)
    names = ["train", *map(str, range(1, count))]  # `split_ids` calls its first part train
    parts = split_ids(owned, files, dict.fromkeys(names, 1 / count), 0, together)
    if not all(parts.values()):
        raise DataError(f"{len(owned)} images do not fill {count} folds with different pictures; use fewer folds")
    return [parts[name] for name in names]


def read_as_trained_on(settings: Mapping[str, Any], source: DataSource, split: str, tree: Tree) -> Tree:
    """`tree`, a split of `source`, with the images alone that a training with the data `settings` would take.

    DataError where it would be refused: images that are not there, cannot be read or have another size.
    """
    given = {**settings, "train": dict(source.splits[split]), "format": source.format, "val": None, "test": None,
             "hold_out": None}  # fmt: skip
    data = build_part("data", given, mean=[0.5] * 3, std=[0.25] * 3, stride=1, seed=0)
    data.setup("fit")
    names = {record.file_name for record in data.train_set.records}
    return part(tree, [image["id"] for image in tree.content["images"] if image["file_name"] in names])


def find_by_folds(settings: Mapping[str, Any], tree: Tree, count: int, output: Path) -> dict[int, Boxes]:
    """Train `count` detectors, each without one fold, and let it look at that fold; by image id.

    `settings`: of `train`. The runs are `output`/fold-1 and so on; finished ones are kept, a broken one goes on.
    DataError where they have learned other labels than `tree`.
    """
    if count < 2:
        raise ConfigError(f"folds is {count}; it must be at least 2")
    folds = folds_of(tree, count)
    _claim(output, tree, folds)
    files = {image["id"]: image["file_name"] for image in tree.content["images"]}
    found: dict[int, Boxes] = {}
    for number, held_out in enumerate(folds, start=1):
        others = sorted(set(files) - set(held_out))
        print(f"fold {number} of {count}: trained on {len(others)} images, to look at {len(held_out)}", flush=True)
        run = output / f"fold-{number}"
        train(OmegaConf.create(_fold_settings(settings, [files[i] for i in others], run)))
        found |= find_boxes(load(run), tree, held_out)
    return found


def _claim(output: Path, tree: Tree, folds: Sequence[Sequence[int]]) -> None:
    """Keep in `output` which labels and folds its runs learn. DataError where its runs have learned others."""
    content = tree.content
    labels = [[a["image_id"], a["category_id"], a["bbox"], a.get("iscrowd")] for a in content["annotations"]]
    names = [[[row["id"], row[key]] for row in content[part]]
             for part, key in (("images", "file_name"), ("categories", "name"))]  # fmt: skip
    digest = hashlib.sha256(json.dumps([names, labels, folds], default=str).encode()).hexdigest()
    file = output / FOLDS
    known = file.read_text(encoding="utf-8") if file.is_file() else None
    if known is None and not (output / "fold-1").exists():
        output.mkdir(parents=True, exist_ok=True)
        write_text(file, digest)
    elif known != digest:
        raise DataError(f"{output} holds folds of other labels; choose another output, or remove it to train on the "
                        "labels as they are now")  # fmt: skip


def _fold_settings(settings: Mapping[str, Any], names: Sequence[str], run: Path) -> dict[str, Any]:
    """A training on these pictures alone, all of them; nothing is measured or chosen on others."""
    data = {**settings["data"], "val": None, "test": None, "hold_out": None, "limit_train": None,
            "subset": {"ids": list(names)}}  # fmt: skip
    return {**settings, "data": data, "run_folder": str(run), "resume": "auto"}


def find_boxes(detector: DetectorLike, tree: Tree, ids: Sequence[int]) -> dict[int, Boxes]:
    """What a detector finds in these images, by id; an image that cannot be read is not there."""
    files = {image["id"]: image["file_name"] for image in tree.content["images"]}
    sources = [Source(tree.folder / files[i], str(i)) for i in ids]
    found = find_in(detector, sources, LEAST_SCORE)
    boxes = {}
    for source, detections in zip(found.sources, found.detections, strict=True):
        kept = suppress(detections, SUPPRESS)
        boxes[int(source.name)] = Boxes(kept.boxes, kept.names, kept.scores)
    return boxes


def find_by_checkpoints(paths: Sequence[str], tree: Tree, root: Path, split: str) -> dict[int, Boxes]:
    """What given detectors find in all images, by id; of several the detections are joined.

    CheckpointError for one that does not know a category of the labels. A detector that was trained on this very split
    is a warning: it has learned these labels, the wrong ones included.
    """
    used = {a["category_id"] for a in tree.content["annotations"]}
    names = {c["name"] for c in tree.content["categories"] if c["id"] in used}
    detectors = []
    for path in paths:
        detector = load(path)
        check_knows(detector.categories.names, names)
        detectors.append(detector)
        if split == "train" and not is_exported(path) and _trained_on(read_checkpoint(path), root):
            warnings.warn(f"{path} was trained on these labels, so it repeats their faults; leave checkpoint= out to "
                          "train without them, fold by fold", stacklevel=2)  # fmt: skip
    ids = [image["id"] for image in tree.content["images"]]
    each = [find_boxes(detector, tree, ids) for detector in detectors]
    return {i: _joined([found[i] for found in each]) for i in ids if all(i in found for found in each)}


def _trained_on(checkpoint: Mapping[str, Any], root: Path) -> bool:
    there = (checkpoint["config"].get("data") or {}).get("root")
    return isinstance(there, str) and Path(there).expanduser().resolve() == root.resolve()


def _joined(several: Sequence[Boxes]) -> Boxes:
    """The detections of several detectors as one list; of those of one name and place the best stays."""
    names = tuple(name for one in several for name in one.names)
    boxes, scores = torch.cat([one.xyxy for one in several]), torch.cat([one.scores for one in several])
    numbers = {name: k for k, name in enumerate(sorted(set(names)))}
    labels = torch.tensor([numbers[name] for name in names], dtype=torch.long)
    kept = nms(boxes, scores, labels, SUPPRESS)
    return Boxes(boxes[kept], tuple(names[row] for row in kept.tolist()), scores[kept])
