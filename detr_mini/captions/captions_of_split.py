"""Captions beside a split that was read for training: what they may name, and those of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import dist
from pathlib import Path
from typing import Any

from detr_mini.captions.mdetr_format import (
    Spans,
    absent_phrases,
    check_phrases,
    checked_spans,
    id_fault,
    image_fault,
    is_asked,
    record_of,
    uninterrupted,
)
from detr_mini.captions.record_matching import as_trained, composed, is_near, places_of
from detr_mini.errors import DataError
from detr_mini.formats.box_rules import is_box
from detr_mini.formats.columns import read_json
from detr_mini.formats.split import CocoSet
from detr_mini.formats.values import is_whole
from detr_mini.phrases import Caption, Phrase
from detr_mini.safe_files import shown

MISSING, INTERRUPTED = "captions of missing images", "phrases with another one between their words, not asked for"
"""What `read_captions` counts."""


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


def read_captions(
    path: str | Path, instances: CocoSet, left_out: Counter[str] | None = None, may_be_empty: bool = False
) -> dict[int, list[Caption]]:
    """The captions of each image of `instances`, by image id. The `things` of a phrase index the image's boxes.

    `left_out` gets the number of captions of images that `instances` lack (MISSING), and of phrases that are not asked
    for (INTERRUPTED, see `uninterrupted`). DataError for a span outside its caption or inside a word, overlapping
    phrases, an empty caption or one without phrases, a box that is not among the instances, and, unless it
    `may_be_empty`, no caption at all.
    """
    path = Path(path)
    left_out = Counter() if left_out is None else left_out
    content = read_json(path)
    if fault := id_fault(content["images"], path):
        raise DataError(fault)
    names = [record.file_name for record in instances.records]
    place_of = places_of((record.get("file_name") for record in content["images"]), names)
    if not place_of and not may_be_empty:
        raise DataError(image_fault(content["images"], names, path))
    records = {image["id"]: image for image in content["images"]}
    categories = {c["id"]: c.get("name") for c in content["categories"] if is_whole(c.get("id"))}
    grouped: dict[int, dict[tuple[Spans, bool], list[dict[str, Any]]]] = {number: {} for number in records}
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
        grouped[record["id"]].setdefault(phrase, []).append(annotation)
    found: dict[int, list[Caption]] = {image_id: [] for image_id in instances.image_ids}
    for number, record in records.items():
        place = place_of.get(composed(record.get("file_name")))
        if place is None:
            left_out[MISSING] += 1
            continue
        where = _Boxes(instances, place, categories, f"record {number} of {path}")
        phrases = [Phrase(spans, where.places(own), asked) for (spans, asked), own in grouped[number].items()]
        phrases += absent_phrases(record, path)
        check_phrases(record, phrases, path)
        clear = uninterrupted(phrases)
        if unasked := sum(phrase.asked for phrase in phrases) - sum(phrase.asked for phrase in clear):
            left_out[INTERRUPTED] += unasked
        ordered = sorted(clear, key=lambda phrase: (not phrase.asked, phrase.spans))
        kind, detail = str(record.get("kind", "")), str(record.get("detail", ""))
        found[instances.image_ids[place]].append(Caption(record["caption"], kind, tuple(ordered), detail))
    return found


class _Boxes:
    """Finds the boxes of one image by their coordinates, equal ones by their categories (ids and names of a file)."""

    def __init__(self, instances: CocoSet, index: int, categories: Mapping[int, Any], where: str) -> None:
        own = slice(instances.first[index], instances.first[index + 1])
        self.is_object = ~instances.is_crowd[own]
        self.boxes, self.where = instances.boxes_xywh[own][self.is_object].tolist(), where
        self.instances, self.index, self.own, self.categories = instances, index, own, categories

    def places(self, annotations: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """The boxes that a phrase names, each once."""
        found: list[int] = []
        for annotation in annotations:
            found += [place for place in self._near(annotation) if place not in found][:1]
        return tuple(found)

    def _near(self, annotation: Mapping[str, Any]) -> list[int]:
        """The boxes that may be an annotation's, the likeliest first."""
        box = annotation["bbox"]
        near = [place for place, own in enumerate(self.boxes) if is_near(own, box)]
        if not near:
            box = as_trained(annotation, self.instances.records.sizes[self.index].tolist())
            near = [place for place, own in enumerate(self.boxes) if is_near(own, box)]
        if not near:
            raise DataError(f"{self.where} speaks of the box {annotation['bbox']}, which is not among the image's "
                            "boxes; give the instances that the captions were made from")  # fmt: skip
        if len(near) == 1:
            return near
        category = annotation.get("category_id")
        wanted = self.categories.get(category) if is_whole(category) else None
        names = [self.instances.categories.names[k] for k in self.instances.labels[self.own][self.is_object].tolist()]
        return sorted(near, key=lambda place: (names[place] != wanted, dist(self.boxes[place], box)))
