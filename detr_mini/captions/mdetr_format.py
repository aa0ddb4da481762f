"""Reads and writes captions in MDETR's format: COCO JSON whose images have a `caption`, and whose annotations have
`tokens_positive`, a list of [begin, end) character spans of that caption.

A record is one caption of one image; records with the same `file_name` share the image. There are three extensions.
`asked: false` in an annotation marks an anchor, which the caption only refers to. `absent` in a record lists phrases
that name no object ({"spans": [...], "asked": true}). `kind` and `detail` classify the caption.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from detr_mini.captions.record_matching import as_trained, composed, is_near, places_of, size_of
from detr_mini.errors import DataError
from detr_mini.formats.box_rules import is_box
from detr_mini.formats.columns import read_json
from detr_mini.formats.values import as_flag, is_text, is_whole
from detr_mini.phrases import Caption, Phrase
from detr_mini.safe_files import shown

Spans = tuple[tuple[int, int], ...]
MADE = "made"
"""In place of a file: new captions each epoch, made from the instances."""
CATEGORIES = "categories"
"""In place of a file: new lists of category names each epoch, "person. dog.", for any boxes."""
LONGEST = 10_000
"""Characters in a caption at most."""


def caption_records(
    content: Iterable[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]], Sequence[Caption]]],
) -> dict[str, list[dict[str, Any]]]:
    """`images` and `annotations` of a file, from (COCO image record, its annotations, its captions) of each image."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, objects, captions in content:
        for caption in captions:
            number = len(images) + 1
            absent = [{"spans": phrase.spans, "asked": phrase.asked} for phrase in caption.phrases if not phrase.things]
            images.append(
                {
                    **image,
                    "id": number,
                    "original_img_id": image["id"],
                    "caption": caption.text,
                    "kind": caption.kind,
                    "detail": caption.detail,
                    "absent": absent,
                }
            )
            annotations += [
                {
                    **objects[place],
                    "id": len(annotations) + 1 + offset,
                    "image_id": number,
                    "tokens_positive": phrase.spans,
                    "asked": phrase.asked,
                }
                for offset, (phrase, place) in enumerate((p, t) for p in caption.phrases for t in p.things)
            ]
    return {"images": images, "annotations": annotations}


def instances_of(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """COCO instances from the boxes of a grounded file that has no file of instances.

    Each image and each of its boxes occurs once. DataError for a record without a file name, and for an invalid box.
    """
    images: dict[str, dict[str, Any]] = {}
    name_of: dict[Any, str] = {}
    if fault := id_fault(content["images"], path):
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
            raise DataError(
                f"annotation number {number} of {path} belongs to no record, or has no bbox; correct or remove it"
            )
        if any(is_near(box, own) for own in boxes[named]):
            continue
        boxes[named].append(box)
        kept = {key: annotation[key] for key in ("category_id", "bbox", "area", "iscrowd") if key in annotation}
        annotations.append({"id": len(annotations) + 1, "image_id": images[named]["id"], **kept})
    return {"images": list(images.values()), "annotations": annotations, "categories": content["categories"]}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file in one step, so that it is never half written. DataError where that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose a folder with write permission") from error
    finally:
        temporary.unlink(missing_ok=True)


def checked_spans(record: Mapping[str, Any], spans: Any, path: Path) -> Spans:
    """The `tokens_positive` of a record's caption as pairs. DataError: see `read_captions`."""
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
    """Every error that `read_captions` could raise for a file, given the COCO content of its instances."""
    try:
        content = read_json(path)
    except DataError as error:
        return [str(error)]
    names = [composed(image["file_name"]) for image in instances["images"]]
    number_of = {image["id"]: place for place, image in enumerate(instances["images"])}
    boxes: list[list[Mapping[str, Any]]] = [[] for _ in names]
    for annotation in instances["annotations"]:
        if not annotation.get("iscrowd") and is_box(annotation.get("bbox")):
            boxes[number_of[annotation["image_id"]]].append(annotation)

    @cache
    def trained(place: int) -> list[list[float]]:
        return [as_trained(own, size_of(instances["images"][place])) for own in boxes[place]]

    records = {image["id"]: image for image in content["images"] if is_whole(image.get("id"))}
    places = places_of((record.get("file_name") for record in content["images"]), names)
    faults = id_fault(content["images"], path), None if places else image_fault(content["images"], names, path)
    found = [fault for fault in faults if fault]
    phrases: dict[Any, set[Phrase]] = {number: set() for number in records}
    for number, annotation in enumerate(content["annotations"], start=1):
        record = record_of(annotation, records)
        if record is None:
            found.append(f"annotation number {number} of {path} belongs to no record; correct its image_id")
            continue
        try:
            spans = checked_spans(record, annotation.get("tokens_positive"), path)
            phrases[record["id"]].add(Phrase(spans, (), is_asked(annotation, f"annotation number {number} of {path}")))
        except DataError as error:
            found.append(str(error))
            phrases[record["id"]].add(Phrase((), (), True))  # a phrase whose span is unknown
        place, box = places.get(composed(record.get("file_name"))), annotation.get("bbox")
        if place is None:
            continue
        read = [box, as_trained(annotation, size_of(instances["images"][place]))] if is_box(box) else []
        if not any(is_near(one, own) for one in read for own in trained(place)):
            found.append(
                f"record {record['id']} of {path} speaks of the box {shown(box)}, which is not among the image's boxes"
            )
    for number, record in records.items():
        try:
            check_phrases(record, [*phrases[number], *absent_phrases(record, path)], path)
        except DataError as error:
            found.append(str(error))
    return found


def id_fault(records: Sequence[Mapping[str, Any]], path: Path) -> str | None:
    """The error about records without an id, or with the id of another record."""
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


def image_fault(records: Sequence[Mapping[str, Any]], images: Sequence[str], path: Path) -> str:
    """The error about a file with no caption of any of the `images`."""
    if not records:
        return f"{path} has no captions; give a file with a record for each caption, or none"
    named, image = records[0].get("file_name"), next(iter(images), None)
    return (
        f"no caption of {path} is about an image of the split: its first record has the file_name {shown(named)}, the "
        f"split's first image is {shown(image)}; correct the file names, or give the captions of these images"
    )


def record_of(annotation: Mapping[str, Any], records: Mapping[Any, dict[str, Any]]) -> dict[str, Any] | None:
    number = annotation.get("image_id")
    return records.get(number) if is_whole(number) else None


def is_asked(entry: Mapping[str, Any], where: str) -> bool:
    """Whether a phrase is asked for (the default)."""
    asked = as_flag(entry.get("asked", True))
    if asked not in (0, 1):
        raise DataError(f"{where} has asked {shown(entry['asked'])}; it must be true or false")
    return bool(asked)


def absent_phrases(record: Mapping[str, Any], path: Path) -> list[Phrase]:
    """The phrases of a record that name no object."""
    absent, where = record.get("absent"), f"record {record['id']} of {path}"
    if not isinstance(absent, list | None) or not all(isinstance(entry, dict) for entry in absent or ()):
        raise DataError(f"{where}: absent is {shown(absent)}; it must be a list of {{spans: [[begin, end]]}}")
    return [Phrase(checked_spans(record, a.get("spans"), path), (), is_asked(a, where)) for a in absent or ()]


def _word_around(caption: str, begin: int, end: int) -> tuple[int, int]:
    """The span without blanks at its ends, extended to whole words."""
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


def check_phrases(record: Mapping[str, Any], phrases: Sequence[Phrase], path: Path) -> None:
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


def uninterrupted(phrases: Sequence[Phrase]) -> list[Phrase]:
    """The phrases in another order. One is not asked for if another that is begins between its words.

    Tags of tokens cannot tell such a phrase from the other one (`grounded.phrases_of`). They are ordinary in MDETR's
    data: a box has the spans of every mention.
    """
    kept, begins = list[Phrase](), list[int]()
    for phrase in sorted(phrases, key=lambda phrase: phrase.spans, reverse=True):
        first, last = phrase.spans[0][0], phrase.spans[-1][0]
        if phrase.asked and any(first < begin < last for begin in begins):
            phrase = replace(phrase, asked=False)
        if phrase.asked:
            begins.append(first)
        kept.append(phrase)
    return kept
