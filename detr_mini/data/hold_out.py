"""A val for a set that has none: a share of its training images, the same ones every time."""

from __future__ import annotations

from dataclasses import replace

from detr_mini.checking.pixels import alike
from detr_mini.data.splits import split_ids
from detr_mini.data.subset import of_images, owned_in
from detr_mini.errors import DataError
from detr_mini.formats.split import CocoSet
from detr_mini.progress import BAR_FROM, track


def held_out(coco: CocoSet, share: float) -> tuple[CocoSet, CocoSet, str]:
    """A set as train and, of a share of its images, val; and a sentence about it.

    Every category is in val in its share, copies of one picture stay together, and file names alone decide: other
    seeds, and the same files elsewhere, give the same val. DataError where one of the two would be empty.
    """
    files = {record.image_id: record.file_name for record in coco.records}
    pictures = [(record.image_id, record.source) for record in coco.records]
    together = alike(track(pictures, "Looking for similar images", at_least=BAR_FROM), skip_broken=True, names=files)
    parts = split_ids(owned_in(coco), files, {"train": 1 - share, "val": share}, 0, together)
    for name, ids in parts.items():
        if not ids:
            raise DataError(f"data.hold_out={share:g} of {len(coco)} images leaves none for {name}; say another")
    what = f"{len(parts['val'])} of {len(coco)} training images are held out as val (data.hold_out={share:g})"
    if together:
        what += f"; {len(together)} that show the same as another one stay with it"
    train, val = (of_images(coco, parts[name], None, what) for name in ("train", "val"))
    return train, replace(val, report=replace(val.report, split="val")), what


def first_images(coco: CocoSet, count: int) -> CocoSet:
    """The first images, by id."""
    return of_images(coco, list(coco.image_ids[:count]), None, f"the first {count} of {len(coco)} images")
