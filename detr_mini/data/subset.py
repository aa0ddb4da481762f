"""A part of a split that was read for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from detr_mini.data.choice import Choice
from detr_mini.formats.split import CocoSet, ImageRecords


def subset_of(coco: CocoSet, choice: Choice) -> CocoSet:
    """Those images of a set that was read, with their boxes. The categories stay, so a model's labels do."""
    files = {record.image_id: record.file_name for record in coco.records}
    kept = choice.images(owned_in(coco), files, coco.categories.names)
    return of_images(coco, kept, choice.categories, f"a subset: {len(kept)} of {len(coco)} images")


def owned_in(coco: CocoSet) -> dict[int, Counter[str]]:
    """Of each image its categories and how many boxes each has, crowd regions aside."""
    owned: dict[int, Counter[str]] = {image_id: Counter() for image_id in coco.image_ids}
    owners = coco.records.ids[coco.owner].tolist()
    for image_id, label, crowd in zip(owners, coco.labels.tolist(), coco.is_crowd.tolist(), strict=True):
        if not crowd:
            owned[image_id][coco.categories.names[label]] += 1
    return owned


def of_images(coco: CocoSet, kept: Sequence[int], categories: Collection[str] | None, notice: str) -> CocoSet:
    """The images of these ids, ascending, with their boxes: all, or those of some categories."""
    images, boxes_image = coco.records, coco.owner
    places = torch.tensor([images.index_of(image_id) for image_id in kept], dtype=torch.long)
    records = [images[place] for place in places.tolist()]
    named = torch.tensor([categories is None or name in categories for name in coco.categories.names], dtype=torch.bool)
    rows = torch.nonzero(torch.isin(boxes_image, places) & named[coco.labels])[:, 0]
    per_image = torch.bincount(boxes_image[rows], minlength=len(coco))[places]
    labels, crowd = coco.labels[rows], coco.is_crowd[rows]
    counts = Counter(labels[~crowd].tolist())
    report = replace(
        coco.report,
        images=len(kept),
        boxes=int((~crowd).sum()),
        crowd=int(crowd.sum()),
        background=len(kept) - len(torch.unique(boxes_image[rows][~crowd])),
        per_category={name: counts[label] for label, name in enumerate(coco.categories.names)},
        notices=[*coco.report.notices, notice],
    )
    return CocoSet(
        records=ImageRecords.of(
            images.folder,
            kept,
            [record.file_name for record in records],
            [record.size for record in records],
            in_shards=None if images.in_shards is None else images.in_shards.at(places),
        ),
        categories=coco.categories,
        report=report,
        first=torch.cat([torch.zeros(1, dtype=torch.int64), per_image.cumsum(0)]),
        boxes_xywh=coco.boxes_xywh[rows],
        labels=labels,
        is_crowd=crowd,
        area=coco.area[rows],
    )
