"""Pictures without labels as weak truth: what a detector is sure of there counts as labels, once, before the training.

Self-training with a fixed teacher and a high threshold (Sohn et al. 2020, "A simple semi-supervised learning framework
for object detection"). What the teacher is unsure of is neither an object nor background (`losses.unjudged`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detr_mini.boxes import xyxy_to_xywh
from detr_mini.data.auto_settings import AUTO
from detr_mini.data.protocol import Data
from detr_mini.errors import CheckpointError, ConfigError, DataError, some_of
from detr_mini.formats.split import CocoSet
from detr_mini.images.load import load_image
from detr_mini.inference.detector import Detector, load
from detr_mini.inference.requests import found_in_each, ignored
from detr_mini.inference.sources import find_pictures, without_copies
from detr_mini.progress import track
from detr_mini.structures import Detections
from detr_mini.torch_seeding import seeded

UNSURE_SHARE = 0.5
"""Of the detector's own threshold: below it, what is found is background."""


def add_pseudo(data: Data, settings: Mapping[str, Any], device: str) -> dict[str, Any] | None:
    """With `pseudo`, join its pictures to the training set of `data`; what was joined, for the checkpoint.

    Pictures that are in train, val or test already, or in which the detector is sure of nothing, stay out. ConfigError
    where no detector is named, CheckpointError for one that knows none of the data's categories, DataError where no
    picture is left.
    """
    if settings.get("pseudo") is None:
        return None
    name = settings.get("pseudo_checkpoint") or settings.get("init")
    if name in (None, AUTO):
        raise ConfigError("pseudo=FOLDER needs a detector that looks at the pictures; add init=... or "
                          "pseudo_checkpoint=...")  # fmt: skip
    if data.tokenizer is not None:
        raise ConfigError("pseudo=FOLDER works with boxes, not with captions; leave it out")
    with seeded(0):
        detector = load(name, device)
    own = detector.operating_point.threshold
    sure = (1 + own) / 2 if settings.get("pseudo_threshold") is None else float(settings["pseudo_threshold"])
    if not 0 < sure <= 1:
        raise ConfigError(f"pseudo_threshold is {sure:g}; it must be a score above 0 and at most 1")
    labels = {row: data.categories.names.index(n) for row, n in enumerate(detector.categories.names)
              if n in data.categories.names}  # fmt: skip
    if not labels:
        raise CheckpointError(f"{name} knows none of the data's categories ({some_of(data.categories.names, 8)}); name "
                              "another pseudo_checkpoint, or leave pseudo out")  # fmt: skip
    found = _look(
        detector, new_pictures(data, str(settings["pseudo"]), "pseudo"), UNSURE_SHARE * min(own, sure), labels
    )
    kept = {path: one for path, one in found.items() if bool((one.scores >= sure).any())}
    if not kept:
        raise DataError(f"{name} finds nothing with a score of at least {sure:g} in the {len(found)} new pictures of "
                        f"{settings['pseudo']}; set a lower pseudo_threshold, or leave pseudo out")  # fmt: skip
    data.sets["train"], boxes, unsure = joined(data.train_set, kept, sure, labels)
    data.report.notices.append(
        f"pseudo: {len(kept)} of {len(found)} new pictures in {settings['pseudo']} are trained on, with {boxes} boxes "
        f"that {name} finds with a score of at least {sure:.2f}; {unsure} less certain ones count neither as objects "
        "nor as background"
    )
    return {"pictures": len(kept), "boxes": boxes, "unsure": unsure, "threshold": sure, "checkpoint": str(name)}


def new_pictures(data: Data, folder: str, setting: str) -> list[Path]:
    """The pictures of `folder` that no split has, test included. DataError where none is left; it names `setting`."""
    if data.splits.get("test"):
        data.setup("test")
    known = [path for coco in data.sets.values() for path in coco.records.paths]
    sources = find_pictures(folder)
    new, _ = without_copies(sources, known)
    if not new:
        raise DataError(f"all {len(sources)} pictures of {folder} are in the dataset already; leave {setting} out")
    return [source.path for source in new]


def _look(detector: Detector, paths: list[Path], least: float, labels: Mapping[int, int]) -> dict[Path, Detections]:
    """What is found of the data's categories in each readable picture."""
    known = torch.tensor([row in labels for row in range(len(detector.categories))])
    looked_at = track(paths, "looking at pictures without labels")
    each = ((path, one.to("cpu")) for path, one in found_in_each(detector, looked_at, load_image, ignored, least))
    return {path: one[known[one.labels] & _large(one)] for path, one in each}


def _large(found: Detections) -> Any:
    return ((found.boxes[:, 2:] - found.boxes[:, :2]) >= 1).all(1)


def joined(
    train: CocoSet, found: Mapping[Path, Detections], sure: float, labels: Mapping[int, int]
) -> tuple[CocoSet, int, int]:
    """The training set with these pictures behind its own; the boxes that count, and those that count as nothing."""
    wider = train.with_images([str(path.resolve()) for path in found], [one.image_size for one in found.values()])
    boxes = xyxy_to_xywh(torch.cat([one.boxes for one in found.values()]).double())
    rows = torch.cat([one.labels for one in found.values()]).tolist()
    unsure = torch.cat([one.scores for one in found.values()]) < sure
    counts = torch.tensor([len(one) for one in found.values()])
    owner = torch.arange(len(train), len(wider)).repeat_interleave(counts)
    both = wider.plus(owner, boxes, torch.tensor([labels[row] for row in rows], dtype=train.labels.dtype), unsure)
    return both, int((~unsure).sum()), int(unsure.sum())
