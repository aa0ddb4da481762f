"""Pre-labels: what a detector finds in new pictures, as files that labelling tools open for correction."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from detr_mini.config.run_folder import write_text
from detr_mini.errors import ConfigError, DataError, nearest, some_of
from detr_mini.formats.convert import PLACING, WRITTEN, write_set
from detr_mini.formats.tree import Tree
from detr_mini.formats.writing import new_folder, written_names
from detr_mini.images.load import load_image
from detr_mini.inference.detections import to_coco_records
from detr_mini.inference.requests import DetectorLike, found_in_each
from detr_mini.inference.sources import Source
from detr_mini.progress import track
from detr_mini.structures import Detections

RECORD = "prelabels.json"
"""What was proposed, beside the files of the tool: `corrections` counts what a person has changed of it."""
WRITER = "detr-mini data label"


@dataclass
class Found:
    """What a detector found in some pictures."""

    sources: list[Source] = field(default_factory=list)
    detections: list[Detections] = field(default_factory=list)
    """Of each source, best first, inside its picture."""
    unreadable: list[str] = field(default_factory=list)
    """A sentence for each picture that could not be read, or has vanished."""

    def above(self, threshold: float) -> Found:
        """Without detections below a score."""
        return replace(self, detections=[found.above(threshold) for found in self.detections])

    def failures(self) -> Iterator[str]:
        """Which pictures could not be read, and why, in lines."""
        if self.unreadable:
            yield f"left out because they could not be read: {len(self.unreadable)} of the pictures"
            yield from (f"  {text}" for text in self.unreadable[:10])


def check_form(form: str, images: str) -> None:
    """ConfigError unless both are words that a writer knows."""
    if form not in WRITTEN:
        raise ConfigError(f"format is {form!r}{nearest(str(form), WRITTEN)}; it must be {', '.join(WRITTEN)}")
    if images not in PLACING:
        raise ConfigError(f"images is {images!r}{nearest(str(images), PLACING)}; it must be {', '.join(PLACING)}")


def find_in(detector: DetectorLike, sources: Sequence[Source], least: float, batch_size: int = 8) -> Found:
    """The detections of at least `least` in each picture. DataError where no picture can be read."""
    found = Found()
    for source, detections in found_in_each(
        detector, track(sources, "detecting"), lambda source: load_image(source.path),
        lambda _, error: found.unreadable.append(str(error)), least, batch_size=batch_size,
    ):  # fmt: skip
        found.sources.append(source)
        found.detections.append(_inside(detections))
    if not found.sources:
        raise DataError(f"none of {len(sources)} pictures can be read: {found.unreadable[0]}")
    return found


def _inside(found: Detections) -> Detections:
    """Boxes cut at the edges of the picture; those without a pixel in it go."""
    height, width = found.image_size
    boxes = found.boxes.clamp(min=0)
    boxes = torch.minimum(boxes, boxes.new_tensor([width, height, width, height]))
    return replace(found, boxes=boxes)[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)]


def tree_of(found: Found, notes: Mapping[str, str] | None = None) -> Tree:
    """The detections as a split in which each box has its `score`. `notes`: a sentence about a picture, by its name."""
    path = found.sources[0]
    folder = path.path.parents[len(PurePosixPath(path.name).parts) - 1]
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": found.detections[0].categories.records()}
    for number, (source, detections) in enumerate(zip(found.sources, found.detections, strict=True), start=1):
        height, width = detections.image_size
        image = {"id": number, "file_name": source.name, "width": width, "height": height, "proposed": True}
        content["images"].append(image | ({"notes": notes[source.name]} if notes else {}))
        for record in to_coco_records(detections, number):
            content["annotations"].append({"id": len(content["annotations"]) + 1, **record, "iscrowd": 0})
    return Tree(content, folder, folder)


def write_prelabels(
    found: Found,
    output: Path,
    form: str,
    images: str,
    about: Mapping[str, Any],
    notes: Mapping[str, str] | None = None,
) -> list[str]:
    """Write `found` into the new folder `output` in the form of a tool, with prelabels.json; what the form cannot hold.

    `about` goes into prelabels.json, too.
    """
    tree = tree_of(found, notes)
    if form != "label_studio":  # a mark of tasks that nobody has confirmed
        tree.content["images"] = [{k: v for k, v in i.items() if k != "proposed"} for i in tree.content["images"]]
    with new_folder(output) as folder:
        lost = write_set(folder, form, {"train": tree}, images)
        record = {"written_by": WRITER, "format": form, **about, **record_of(found, written_names(tree, form))}
        write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
    return lost


def record_of(found: Found, written: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The names, and of each picture its size and boxes: name, bbox (left, top, width, height) and score.

    `written`: of each picture's name the one in the task, by which it comes back (None: the same).
    """
    pictures = []
    for source, detections in zip(found.sources, found.detections, strict=True):
        height, width = detections.image_size
        rows = zip(detections.names, to_coco_records(detections, 0), strict=True)
        boxes = [{"name": name, "bbox": record["bbox"], "score": record["score"]} for name, record in rows]
        name = source.name if written is None else written[source.name]
        pictures.append({"file_name": source.name, "written": name, "width": width, "height": height,
                         "boxes": boxes})  # fmt: skip
    names = list(found.detections[0].categories.names) if found.detections else []
    return {"names": names, "pictures": pictures, "unreadable": found.unreadable}


def summary(found: Found, threshold: float) -> str:
    """How many pictures and boxes, by name."""
    counts = Counter(name for one in found.detections for name in one.names)
    kinds = some_of([f"{count} {name}" for name, count in counts.most_common()], 8)
    total = f"{len(found.sources)} pictures, {sum(counts.values())} boxes with a score of at least {threshold:g}"
    return f"{total}: {kinds}" if kinds else total
