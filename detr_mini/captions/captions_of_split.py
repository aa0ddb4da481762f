"""Captions beside a split that was read for training: what they may name, and those of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detr_mini.captions.mdetr_format import (
    Spans,
    absent_phrases,
    check_phrases,
    checked_spans,
    composed,
    id_fault,
    is_asked,
    is_near,
    record_of,
)
from detr_mini.errors import DataError
from detr_mini.formats.box_rules import is_box
from detr_mini.formats.columns import read_json
from detr_mini.formats.split import CocoSet
from detr_mini.phrases import Caption, Phrase
from detr_mini.safe_files import shown


@dataclass(frozen=True)
class ImageObjects:
    """What captions may name in an image."""

    record: dict[str, Any]
    """Of COCO's `images`."""
    annotations: list[dict[str, Any]]
    """Of COCO's `annotations`, without crowd regions."""
    names: list[str]
    """The category of each annotation."""
    crowded: frozenset[str]
    """Categories with a crowd region."""


def objects_of(coco: CocoSet) -> list[ImageObjects]:
    """The objects of each image, in order."""
    name_of = dict(zip(coco.categories.ids, coco.categories.names, strict=True))
    found = {record["id"]: ImageObjects(record, [], [], frozenset()) for record in coco.truth["images"]}
    for annotation in coco.truth["annotations"]:
        own, name = found[annotation["image_id"]], name_of[annotation["category_id"]]
        if annotation["iscrowd"]:
            found[annotation["image_id"]] = replace(own, crowded=own.crowded | {name})
        else:
            own.annotations.append(annotation)
            own.names.append(name)
    return list(found.values())


def read_captions(path: str | Path, instances: CocoSet) -> dict[int, list[Caption]]:
    """The captions of each image of `instances`, by image id. The `things` of a phrase index the image's boxes.

    DataError for a span outside its caption or inside a word, overlapping phrases, an empty caption or one without
    phrases, and a box that is not among the instances.
    """
    path = Path(path)
    content = read_json(path)
    place_of = {composed(record.file_name): place for place, record in enumerate(instances.records)}
    if fault := id_fault(content["images"], path):
        raise DataError(fault)
    records = {image["id"]: image for image in content["images"]}
    grouped: dict[int, dict[tuple[Spans, bool], list[list[float | int]]]] = {number: {} for number in records}
    for number, annotation in enumerate(content["annotations"], start=1):
        record = record_of(annotation, records)
        if record is None:
            raise DataError(f"annotation number {number} of {path} belongs to no record; correct its image_id")
        spans = checked_spans(record, annotation.get("tokens_positive"), path)
        phrase = spans, is_asked(annotation, f"annotation number {number} of {path}")
        box = annotation.get("bbox")
        if not is_box(box):
            raise DataError(f"annotation number {number} of {path} has the bbox {shown(box)}; "
                            "give [x, y, width, height]")  # fmt: skip
        grouped[record["id"]].setdefault(phrase, []).append(box)
    found: dict[int, list[Caption]] = {record.image_id: [] for record in instances.records}
    for number, record in records.items():
        place = place_of.get(composed(record.get("file_name")))
        if place is None:
            continue  # the instances leave this image out
        where = _Boxes(instances, place, f"record {number} of {path}")
        phrases = [Phrase(spans, where.places(boxes), asked) for (spans, asked), boxes in grouped[number].items()]
        phrases += absent_phrases(record, path)
        check_phrases(record, phrases, path)
        ordered = sorted(phrases, key=lambda phrase: (not phrase.asked, phrase.spans))
        kind, detail = str(record.get("kind", "")), str(record.get("detail", ""))
        found[instances.records[place].image_id].append(Caption(record["caption"], kind, tuple(ordered), detail))
    return found


class _Boxes:
    """Finds the boxes of one image by their coordinates."""

    def __init__(self, instances: CocoSet, index: int, where: str) -> None:
        own = slice(instances.first[index], instances.first[index + 1])
        self.boxes, self.where = instances.boxes_xywh[own][~instances.is_crowd[own]].tolist(), where

    def places(self, boxes: Sequence[Sequence[float | int]]) -> tuple[int, ...]:
        return tuple(self._place(box) for box in boxes)

    def _place(self, box: Sequence[float | int]) -> int:
        for place, own in enumerate(self.boxes):
            if is_near(own, box):
                return place
        raise DataError(f"{self.where} speaks of the box {list(box)}, which is not among the image's boxes; "
                        "give the instances that the captions were made from")  # fmt: skip
