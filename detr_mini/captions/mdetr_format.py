"""Captions in files, in the form that MDETR made known: COCO JSON whose images carry `caption`, whose annotations
carry `tokens_positive`, a list of [begin, end) character spans of that caption.

A record is one caption of one picture; records of the same `file_name` are captions of the same picture. Beyond that:
`asked: false` in an annotation marks a thing that the caption refers to only (an anchor); `absent` in a record lists
phrases that name nothing ({"spans": [...], "asked": true}); `kind` and `detail` say what sort of sentence it is.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from detr_mini.errors import DataError
from detr_mini.formats.box_rules import is_box
from detr_mini.formats.coco import CocoSet
from detr_mini.formats.columns import read_json
from detr_mini.formats.values import as_flag, is_text, is_whole
from detr_mini.safe_files import shown
from detr_mini.structures import Caption, Phrase

Spans = tuple[tuple[int, int], ...]
MADE = "made"
"""In place of a file of captions: they are made anew each epoch, from the instances."""
CATEGORIES = "categories"
"""In place of a file of captions: names of categories, "person. dog.", new ones each epoch; of any boxes."""
LONGEST = 10_000
"""Characters of a caption."""
CLOSE = 0.5
"""Pixels by which a caption's box may differ from the box of the same thing among the instances."""


def caption_records(
    pictures: Iterable[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]], Sequence[Caption]]],
) -> dict[str, list[dict[str, Any]]]:
    """`images` and `annotations` of a file. A picture: its COCO image record, an annotation a thing, its captions."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for picture, things, captions in pictures:
        for caption in captions:
            number = len(images) + 1
            absent = [{"spans": phrase.spans, "asked": phrase.asked} for phrase in caption.phrases if not phrase.things]
            images.append(
                {
                    **picture,
                    "id": number,
                    "original_img_id": picture["id"],
                    "caption": caption.text,
                    "kind": caption.kind,
                    "detail": caption.detail,
                    "absent": absent,
                }
            )
            annotations += [
                {
                    **things[thing],
                    "id": len(annotations) + 1 + offset,
                    "image_id": number,
                    "tokens_positive": phrase.spans,
                    "asked": phrase.asked,
                }
                for offset, (phrase, thing) in enumerate((p, t) for p in caption.phrases for t in p.things)
            ]
    return {"images": images, "annotations": annotations}


def pictures_of(coco: CocoSet) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each image's COCO record, and its annotations in order."""
    grouped: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in coco.image_ids}
    for annotation in coco.truth["annotations"]:
        grouped[annotation["image_id"]].append(annotation)
    return [(picture, grouped[picture["id"]]) for picture in coco.truth["images"]]


def instances_of(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The COCO instances that a grounded file's own boxes make, for files without instances beside them.

    Each picture once, by its file name; each of its boxes once, whichever captions speak of it. DataError where a
    record has no file name, or a box is none.
    """
    images: dict[str, dict[str, Any]] = {}
    name_of: dict[Any, str] = {}
    if fault := _id_fault(content["images"], path):
        raise DataError(fault)
    for record in content["images"]:
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"record {record['id']} of {path} has no file_name; add it")
        kept = {key: record[key] for key in ("file_name", "height", "width") if key in record}
        images.setdefault(name, {"id": len(images) + 1, **kept})
        name_of[record["id"]] = name
    boxes: dict[str, list[list[float | int]]] = {name: [] for name in images}
    annotations: list[dict[str, Any]] = []
    for number, annotation in enumerate(content["annotations"], start=1):
        owner, box = annotation.get("image_id"), annotation.get("bbox")
        named = name_of.get(owner) if is_whole(owner) else None
        if named is None or not is_box(box):
            raise DataError(f"annotation number {number} of {path} belongs to no record, or has no bbox; mend it")
        if any(_close(box, own) for own in boxes[named]):
            continue
        boxes[named].append(box)
        kept = {key: annotation[key] for key in ("category_id", "bbox", "area", "iscrowd") if key in annotation}
        annotations.append({"id": len(annotations) + 1, "image_id": images[named]["id"], **kept})
    return {"images": list(images.values()), "annotations": annotations, "categories": content["categories"]}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A file that is there is whole. DataError where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose a folder that you may write") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_captions(path: str | Path, instances: CocoSet) -> dict[int, list[Caption]]:
    """The captions of each image of `instances`, by image id; a phrase's things are places among the image's boxes.

    DataError where a span lies outside its caption or inside a word, where two phrases overlap, where a caption is
    empty or speaks of nothing, and where it speaks of a box that is not among the instances.
    """
    path = Path(path)
    content = read_json(path)
    place_of = {_composed(record.file_name): place for place, record in enumerate(instances.records)}
    if fault := _id_fault(content["images"], path):
        raise DataError(fault)
    records = {image["id"]: image for image in content["images"]}
    grouped: dict[int, dict[tuple[Spans, bool], list[list[float | int]]]] = {number: {} for number in records}
    for number, annotation in enumerate(content["annotations"], start=1):
        record = _record_of(annotation, records)
        if record is None:
            raise DataError(f"annotation number {number} of {path} belongs to no record; correct its image_id")
        spans = checked_spans(record, annotation.get("tokens_positive"), path)
        phrase = spans, _asked(annotation, f"annotation number {number} of {path}")
        box = annotation.get("bbox")
        if not is_box(box):
            raise DataError(f"annotation number {number} of {path} has the bbox {shown(box)}; "
                            "give [x, y, width, height]")  # fmt: skip
        grouped[record["id"]].setdefault(phrase, []).append(box)
    found: dict[int, list[Caption]] = {record.image_id: [] for record in instances.records}
    for number, record in records.items():
        place = place_of.get(_composed(record.get("file_name")))
        if place is None:
            continue  # of a picture that the instances leave out
        where = _Boxes(instances, place, f"record {number} of {path}")
        phrases = [Phrase(spans, where.places(boxes), asked) for (spans, asked), boxes in grouped[number].items()]
        phrases += _absent(record, path)
        _check_phrases(record, phrases, path)
        ordered = sorted(phrases, key=lambda phrase: (not phrase.asked, phrase.spans))
        kind, detail = str(record.get("kind", "")), str(record.get("detail", ""))
        found[instances.records[place].image_id].append(Caption(record["caption"], kind, tuple(ordered), detail))
    return found


def checked_spans(record: Mapping[str, Any], spans: Any, path: Path) -> Spans:
    """`tokens_positive` of a record's caption as pairs. DataError: see `read_captions`."""
    caption, where = record.get("caption"), f"record {shown(record.get('id'))} of {path}"
    if not isinstance(caption, str) or not caption.strip():
        raise DataError(f"{where} has no caption; add the sentence, or leave the record out")
    if not is_text(caption.replace("\n", " ").replace("\t", " ")):
        raise DataError(f"{where}: the caption {shown(caption)} holds control characters or halves of characters; "
                        "write it as plain text")  # fmt: skip
    if len(caption) > LONGEST:
        raise DataError(f"{where}: the caption has {len(caption):,} characters, at most {LONGEST:,} are read; cut it")
    if not isinstance(spans, list) or not spans:
        raise DataError(f"{where}: tokens_positive is {shown(spans)}; it must be a list of [begin, end] pairs")
    pairs = []
    for span in spans:
        if not isinstance(span, list) or len(span) != 2 or not all(map(is_whole, span)):
            raise DataError(f"{where}: the span {shown(span)} is no pair [begin, end] of whole numbers")
        begin, end = span
        inside = 0 <= begin < end <= len(caption)
        first, last = _word_around(caption, min(max(begin, 0), len(caption)), min(max(end, 0), len(caption)))
        if not inside or (first, last) != (begin, end):
            fault = (
                f"cuts a word of {caption!r}" if inside else f"does not lie in {caption!r}, {len(caption)} characters"
            )
            meant = f"; [{first}, {last}], {caption[first:last]!r}, may be meant" if first < last else ""
            raise DataError(f"{where}: the span {span} covers {caption[max(begin, 0) : end]!r} and {fault}{meant}")
        pairs.append((begin, end))
    return tuple(sorted(pairs))


def caption_faults(path: Path, instances: Mapping[str, Any]) -> list[str]:
    """Every sentence that `read_captions` would refuse a file for, given the COCO content of its instances."""
    try:
        content = read_json(path)
    except DataError as error:
        return [str(error)]
    names = {image["id"]: _composed(image["file_name"]) for image in instances["images"]}
    boxes: dict[str, list[Sequence[float | int]]] = {name: [] for name in names.values()}
    for annotation in instances["annotations"]:
        if not annotation.get("iscrowd"):
            boxes[names[annotation["image_id"]]].append(annotation["bbox"])
    records = {image["id"]: image for image in content["images"] if is_whole(image.get("id"))}
    found: list[str] = []
    if fault := _id_fault(content["images"], path):
        found.append(fault)
    phrases: dict[Any, set[Phrase]] = {number: set() for number in records}
    for number, annotation in enumerate(content["annotations"], start=1):
        record = _record_of(annotation, records)
        if record is None:
            found.append(f"annotation number {number} of {path} belongs to no record; correct its image_id")
            continue
        try:
            spans = checked_spans(record, annotation.get("tokens_positive"), path)
            phrases[record["id"]].add(Phrase(spans, (), _asked(annotation, f"annotation number {number} of {path}")))
        except DataError as error:
            found.append(str(error))
            phrases[record["id"]].add(Phrase((), (), True))  # it speaks of something, if nobody knows of what
        own, box = boxes.get(_composed(record.get("file_name"))), annotation.get("bbox")
        if own is not None and not any(_is_close(box, other) for other in own):
            found.append(
                f"record {record['id']} of {path} speaks of the box {shown(box)}, which is not among the image's boxes"
            )
    for number, record in records.items():
        try:
            _check_phrases(record, [*phrases[number], *_absent(record, path)], path)
        except DataError as error:
            found.append(str(error))
    return found


def _id_fault(records: Sequence[Mapping[str, Any]], path: Path) -> str | None:
    """The sentence about records without an id, or with that of another."""
    counts = Counter(record["id"] for record in records if is_whole(record.get("id")))
    without = [record for record in records if not is_whole(record.get("id"))]
    if not without and len(counts) == len(records):
        return None
    if without:
        what = f"{len(without)} of {len(records)} records without an id that is a whole number"
    else:
        number, count = counts.most_common(1)[0]
        what = f"{count} records with the id {number}"
    return f"{path} has {what}; give each caption's record an id of its own"


def _record_of(annotation: Mapping[str, Any], records: Mapping[Any, dict[str, Any]]) -> dict[str, Any] | None:
    number = annotation.get("image_id")
    return records.get(number) if is_whole(number) else None


def _asked(entry: Mapping[str, Any], where: str) -> bool:
    """Whether a phrase is asked for, which it is where nothing is written."""
    asked = as_flag(entry.get("asked", True))
    if asked not in (0, 1):
        raise DataError(f"{where} has asked {shown(entry['asked'])}; it must be true or false")
    return bool(asked)


def _absent(record: Mapping[str, Any], path: Path) -> list[Phrase]:
    """The phrases of a record that name nothing."""
    absent, where = record.get("absent"), f"record {record['id']} of {path}"
    if not isinstance(absent, list | None) or not all(isinstance(entry, dict) for entry in absent or ()):
        raise DataError(f"{where}: absent is {shown(absent)}; it must be a list of {{spans: [[begin, end]]}}")
    return [Phrase(checked_spans(record, a.get("spans"), path), (), _asked(a, where)) for a in absent or ()]


def _composed(name: Any) -> str:
    """A file name with accents composed: the same file for the records and for the disk."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else ""


def _is_close(box: Any, other: Sequence[float | int]) -> bool:
    return is_box(box) and _close(box, other)


def _word_around(caption: str, begin: int, end: int) -> tuple[int, int]:
    """The span without blanks at its ends, widened to whole words."""
    while begin < end and caption[begin].isspace():
        begin += 1
    while end > begin and caption[end - 1].isspace():
        end -= 1
    while 0 < begin < len(caption) and _joined(caption, begin):
        begin -= 1
    while 0 < end < len(caption) and _joined(caption, end):
        end += 1
    return begin, end


def _joined(caption: str, place: int) -> bool:
    """Whether the characters before and at `place` belong to one word, or to one character of several code points."""
    before, after = caption[place - 1], caption[place]
    return (before.isalnum() and after.isalnum()) or _is_mark(after)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M") or character == "\u200d"


def _check_phrases(record: Mapping[str, Any], phrases: Sequence[Phrase], path: Path) -> None:
    where = f"record {record['id']} of {path}"
    if not phrases:
        raise DataError(f"{where} ({shown(record.get('caption'))}) speaks of no box; list its phrases under 'absent' "
                        "where it names nothing, or leave it out")  # fmt: skip
    spans = sorted(span for phrase in phrases for span in phrase.spans)
    for (_, end), (begin, other) in pairwise(spans):
        if begin < end:
            text = record["caption"]
            raise DataError(f"{where}: two phrases overlap at {text[begin:min(end, other)]!r} in {text!r}; "
                            "a word can name one of them only")  # fmt: skip


def _close(one: Sequence[float | int], other: Sequence[float | int]) -> bool:
    return all(abs(a - b) <= CLOSE for a, b in zip(one, other, strict=True))


class _Boxes:
    """The boxes of one image, to be found again."""

    def __init__(self, instances: CocoSet, index: int, where: str) -> None:
        own = slice(instances.first[index], instances.first[index + 1])
        self.boxes, self.where = instances.boxes_xywh[own][~instances.is_crowd[own]].tolist(), where

    def places(self, boxes: Sequence[Sequence[float | int]]) -> tuple[int, ...]:
        return tuple(self._place(box) for box in boxes)

    def _place(self, box: Sequence[float | int]) -> int:
        for place, own in enumerate(self.boxes):
            if _close(own, box):
                return place
        raise DataError(f"{self.where} speaks of the box {list(box)}, which is not among the image's boxes; "
                        "give the instances that the captions were made from")  # fmt: skip
