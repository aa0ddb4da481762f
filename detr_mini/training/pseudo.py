"""Pictures without labels as weak truth: what a detector is sure of there counts as labels, once, before the training.

Self-training with a fixed teacher and a high threshold (Sohn et al. 2020, "A simple semi-supervised learning framework
for object detection"). What the teacher is unsure of is neither an object nor background (`losses.unjudged`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detr_mini.boxes import xyxy_to_xywh
from detr_mini.data.auto_settings import AUTO
from detr_mini.data.protocol import Data
from detr_mini.errors import CheckpointError, ConfigError, DataError, some_of
from detr_mini.formats.licences import sources_of
from detr_mini.formats.split import CocoSet, ImageRecord, ImageRecords
from detr_mini.images.header import image_size
from detr_mini.inference.detector import Detector, load
from detr_mini.inference.requests import found_in_each, ignored, readable
from detr_mini.inference.sources import find_pictures, without_copies
from detr_mini.progress import track
from detr_mini.structures import Detections
from detr_mini.torch_seeding import seeded
from detr_mini.training.keep_categories import once_each
from detr_mini.training.processes import ALONE, Ranks

UNSURE_SHARE = 0.5
"""Of the detector's own threshold: below it, what is found is background."""


def add_pseudo(
    data: Data,
    settings: Mapping[str, Any],
    device: str,
    before: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """With `pseudo`, join its pictures to the training set of `data`.

    Returns what was joined, as plain values and tensors for the checkpoint, and its sources (`sources_of`). A run that
    is resumed joins what its checkpoint holds (`before`), and does not look again.
    Pictures that are in train, val or test already, or in which the detector is sure of nothing, stay out. ConfigError
    where no detector is named, CheckpointError for one that knows none of the data's categories, DataError where no
    picture is left.
    """
    if settings.get("pseudo") is None:
        return None, []
    if data.tokenizer is not None:
        raise ConfigError("pseudo=FOLDER works with boxes, not with captions; leave it out")
    folder = str(settings["pseudo"])
    pseudo = dict(before) if before is not None and "names" in before else find_pseudo(data, settings, device, ranks)
    paths = [_path(folder, name) for name in pseudo["names"]]
    files = dict.fromkeys(paths)
    gone = [path for path in files if not path.is_file()]
    if gone:
        raise DataError(f"pseudo={folder}: {len(gone)} of {len(files)} pictures of this run are not there (the first: "
                        f"{gone[0]}); put them back, or start a new run from its weights")  # fmt: skip
    data.sets["train"] = joined(data.train_set, paths, pseudo)
    data.report.notices.append(str(pseudo["said"]))
    return pseudo, sources_of(Path(folder).expanduser(), len(files))


def find_pseudo(data: Data, settings: Mapping[str, Any], device: str, ranks: Ranks) -> dict[str, Any]:
    """The new pictures in which the detector is sure of something, and what it finds there.

    The processes share the pictures, those that the first one sees.
    """
    name = settings.get("pseudo_checkpoint") or settings.get("init")
    if name in (None, AUTO):
        raise ConfigError("pseudo=FOLDER needs a detector that looks at the pictures; add init=... or "
                          "pseudo_checkpoint=...")  # fmt: skip
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
    folder = str(settings["pseudo"])
    paths = ranks.of_first(lambda: new_pictures(data, folder, "pseudo"))
    read = list(readable(paths, lambda path: image_size(path)[0], ignored))
    records = list(data.records_of([path for path, _ in read], [size for _, size in read]))
    looked = ranks.of_all(_look(detector, ranks.share(records), UNSURE_SHARE * min(own, sure), sure, labels))
    seen = {record: one for each in looked for record, one in each.items()}
    kept = {record: seen[record] for record in records if record in seen and bool((seen[record].scores >= sure).any())}
    if not kept:
        raise DataError(f"{name} finds nothing with a score of at least {sure:g} in the {len(read)} new pictures of "
                        f"{folder}; set a lower pseudo_threshold, or leave pseudo out")  # fmt: skip
    found = as_labels(kept, folder, sure, labels)
    boxes, unsure = int(found["sure"].sum()), int((~found["sure"]).sum())
    what = "new pictures" if data.tiles is None else f"tiles of {len(read)} new pictures"
    said = (
        f"pseudo: {len(kept)} of {len(seen)} {what} in {folder} are trained on, with {boxes} boxes "
        f"that {name} finds with a score of at least {sure:.2f}; {unsure} less certain ones count neither as objects "
        "nor as background"
    )
    return {"pictures": len(kept), "boxes": boxes, "unsure": unsure, "threshold": sure, "checkpoint": str(name),
            "said": said, **found}  # fmt: skip


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


def _look(
    detector: Detector, records: Sequence[ImageRecord], least: float, sure: float, labels: Mapping[int, int]
) -> dict[ImageRecord, Detections]:
    """What is found of the data's categories in each readable picture, or in each window of one; see `once_each`."""
    known = torch.tensor([row in labels for row in range(len(detector.categories))])
    looked_at = track(records, "looking at pictures without labels")
    each = found_in_each(detector, looked_at, ImageRecord.pixels, ignored, least)
    found = {}
    for record, whole in each:
        one = whole.to("cpu")
        one = one[known[one.labels] & _large(one)]
        found[record] = one[once_each(one.boxes, one.labels, one.scores, sure)[0]]
    return found


def _large(found: Detections) -> Any:
    return ((found.boxes[:, 2:] - found.boxes[:, :2]) >= 1).all(1)


def as_labels(
    found: Mapping[ImageRecord, Detections], folder: str, sure: float, labels: Mapping[int, int]
) -> dict[str, Any]:
    """The pictures, by their paths from `folder`, and their boxes: labels where the score is at least `sure`."""
    rows = torch.cat([one.labels for one in found.values()]).tolist()
    return {
        "names": [os.path.relpath(record.path, os.path.expanduser(folder)) for record in found],
        "sizes": [tuple(one.image_size) for one in found.values()],
        "corners": [(-1, -1) if record.window is None else record.window[:2] for record in found],
        "counts": torch.tensor([len(one) for one in found.values()]),
        "boxes_xywh": xyxy_to_xywh(torch.cat([one.boxes for one in found.values()]).double()),
        "labels": torch.tensor([labels[row] for row in rows], dtype=torch.long),
        "sure": torch.cat([one.scores for one in found.values()]) >= sure,
    }


def _path(folder: str, name: str) -> Path:
    """Where a picture lies; `folder` may be a pattern, from which names lead out again."""
    return Path(os.path.normpath(os.path.join(os.path.abspath(os.path.expanduser(folder)), name)))


def joined(train: CocoSet, paths: Sequence[Path], pseudo: Mapping[str, Any]) -> CocoSet:
    """The training set with these pictures, or windows of them, behind its own.

    Boxes that are unsure go in like crowd regions.
    """
    names, corners = [str(path.absolute()) for path in paths], pseudo.get("corners")  # none in an older version
    wider = train.with_images(ImageRecords.of(Path("/"), range(len(names)), names, pseudo["sizes"], corners))
    owner = torch.arange(len(train), len(wider)).repeat_interleave(pseudo["counts"])
    return wider.plus(owner, pseudo["boxes_xywh"], pseudo["labels"].to(train.labels.dtype), ~pseudo["sure"])
