"""Ties the nouns of written captions to labelled boxes: each noun of a category to the boxes of that category.

Nothing is guessed. A noun that may mean only some of the boxes is left out, with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detr_mini.captions.captions_of_split import objects_of
from detr_mini.captions.mdetr_format import caption_records
from detr_mini.captions.nouns import HEADS, OPEN, Noun, Nouns
from detr_mini.captions.record_matching import composed, places_of
from detr_mini.errors import DataError
from detr_mini.formats.columns import any_json
from detr_mini.formats.split import CocoSet
from detr_mini.formats.values import as_whole
from detr_mini.phrases import Caption, Phrase

KIND = "photograph"
"""The kind of captions that people wrote."""
SEVERAL = "one is named, several are labelled"
SINGLE = "several are named, one is labelled"
NUMBER = "another number is named than is labelled"
SOME = "a kind of the category is named, which others may not be"
TWO = "the word fits two categories"
AGAIN = "the caption names the category more than once"
CROWD = "a crowd region of the category"
NOTHING = "nothing of the category is labelled"
PART = "the word only describes the next one"
DENIED = "the caption says that there is none"
REASONS = (SEVERAL, SINGLE, NUMBER, SOME, TWO, AGAIN, CROWD, NOTHING, PART, DENIED)
"""Why a noun is left out."""

NUMBERS = {"a": 1, "an": 1} | {
    word: n for n, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1
    )
}  # fmt: skip
_BEFORE = 3
"""How many words before a noun are searched for its number."""
_BREAKS = frozenset(
    (
        "and", "or", "of", "with", "in", "on", "at", "by", "near", "to", "from", "next", "beside", "behind", "under",
        "over",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Mention:
    """A noun in a caption."""

    begin: int
    end: int
    noun: Noun
    number: int | None
    """From a number or an article before it."""
    part: bool = False
    """It only describes the next word."""
    denied: bool = False

    @property
    def one(self) -> bool:
        """Whether it can only mean one object."""
        return self.noun.one and (not self.noun.many or self.number == 1)

    @property
    def several(self) -> bool:
        """Whether it can only mean several objects."""
        return self.noun.many and (not self.noun.one or (self.number or 0) > 1)


@dataclass(frozen=True)
class Grounded:
    """A caption, its phrases, and the nouns that were left out: (begin, end, reason)."""

    caption: Caption
    left_out: tuple[tuple[int, int, str], ...]


def mentions(text: str, nouns: Nouns) -> list[Mention]:
    """The nouns of a caption, in order, without those of no category ("clock tower")."""
    found = list(nouns.pattern.finditer(text))
    made = []
    for place, match in enumerate(found):
        noun = nouns.of(match[0])
        if not noun.categories:
            continue
        start = found[place - 1].end() if place else 0
        before = re.split(r"[^\w\s'-]", text[start : match.start()])[-1].lower().split()[-_BEFORE:]
        after = re.match(r"[\s-]+([\w']+)", text[match.end() :])
        following = after[1].lower() if after else ""
        adjoined = place + 1 < len(found) and not text[match.end() : found[place + 1].start()].strip(" -")
        part = noun.one and (adjoined or following in HEADS)
        part |= noun.describes and bool(following) and following not in OPEN
        denied = bool({"no", "without"} & set(before))
        made.append(Mention(match.start(), match.end(), noun, _number(before), part, denied))
    return made


def _number(before: Sequence[str]) -> int | None:
    if "couple" in before:
        return 2
    for word in reversed(before):
        if word in NUMBERS:
            return NUMBERS[word]
        if word in _BREAKS:
            return None
    return None


def ground(text: str, nouns: Nouns, boxes: Mapping[str, Sequence[int]], crowded: frozenset[str]) -> Grounded:
    """The caption with its nouns tied. `boxes`: indices by category. `crowded`: categories with a crowd region."""
    found = mentions(text, nouns)
    times = Counter(name for mention in found if not mention.part for name in mention.noun.categories)
    phrases, left_out = [], []
    for mention in found:
        reason = _reason(mention, boxes, crowded, times)
        if reason:
            left_out.append((mention.begin, mention.end, reason))
        else:
            phrases.append(Phrase(((mention.begin, mention.end),), tuple(boxes[mention.noun.categories[0]]), True))
    return Grounded(Caption(text, KIND, tuple(phrases)), tuple(left_out))


def _reason(
    mention: Mention, boxes: Mapping[str, Sequence[int]], crowded: frozenset[str], times: Mapping[str, int]
) -> str:
    """Why a noun is left out, or "" for a clear one."""
    (category, *others), number = mention.noun.categories, mention.number
    labelled = len(boxes.get(category, ()))
    kind_of_some = mention.noun.kind and not mention.one and number is None and labelled > 1
    reasons = {
        PART: mention.part,
        DENIED: mention.denied,
        TWO: bool(others),
        CROWD: category in crowded,
        NOTHING: not labelled,
        AGAIN: times[category] > 1,
        SEVERAL: mention.one and labelled > 1,
        SINGLE: mention.several and labelled == 1,
        NUMBER: number is not None and number > 1 and number != labelled,
        SOME: kind_of_some,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


@dataclass(frozen=True)
class Sentence:
    """A caption that somebody wrote about an image."""

    file_name: str
    text: str


def read_sentences(path: str | Path) -> list[Sentence]:
    """The captions of a COCO captions file (`images` with file names, `annotations` with `image_id` and `caption`).

    DataError for a missing file and for other content.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no captions file {path}; set captions to a COCO captions JSON, below root")
    content = any_json(path)
    lists = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations")]
    if not all(isinstance(own, list) and all(isinstance(record, dict) for record in own) for own in lists):
        raise DataError(f"{path} holds no captions: a JSON object with lists of records 'images' and 'annotations' is "
                        "expected; give a COCO captions file (captions_*.json)")  # fmt: skip
    name_of = {_key(image["id"]): image.get("file_name") for image in content["images"] if "id" in image}
    found = []
    for number, annotation in enumerate(content["annotations"], start=1):
        text, name = annotation.get("caption"), name_of.get(_key(annotation.get("image_id")))
        if not isinstance(text, str):
            raise DataError(f"annotation number {number} of {path} has no caption; give a COCO captions file "
                            "(captions_*.json), not one of instances")  # fmt: skip
        if not isinstance(name, str):
            raise DataError(
                f"annotation number {number} of {path} belongs to no image of the file; correct its image_id"
            )
        if text.strip():
            found.append(Sentence(name, text))
    return found


def _key(number: Any) -> str:
    """An id as a key: 7, 7.0 and "7" are the same. Any value of a file gives one, even a list."""
    return repr(as_whole(number))


def grounded(sentences: Sequence[Sentence], coco: CocoSet, nouns: Nouns) -> dict[str, Any]:
    """The content of a grounded file (see `mdetr_format`): the captions with at least one noun tied.

    `left_out` in a record lists the other nouns ([begin, end], reason). `info` counts the `captions` read, those
    `written`, the `whole` ones (no noun left out), `phrases`, nouns `left_out` by reason, and captions
    `without_picture`. DataError if no noun could be tied.
    """
    images = objects_of(coco)
    place_of = places_of({s.file_name for s in sentences}, [own.record["file_name"] for own in images])
    made: list[list[Grounded]] = [[] for _ in images]
    left_out, lost = Counter[str](), 0
    for sentence in sentences:
        place = place_of.get(composed(sentence.file_name))
        if place is None:
            lost += 1
            continue
        boxes: dict[str, list[int]] = {}
        for number, category in enumerate(images[place].names):
            boxes.setdefault(category, []).append(number)
        one = ground(sentence.text, nouns, boxes, images[place].crowded)
        left_out.update(reason for _, _, reason in one.left_out)
        if one.caption.phrases:
            made[place].append(one)
    written = [one for own in made for one in own]
    if not written:
        raise DataError(f"no noun of {len(sentences)} captions could be tied to a box of {len(coco)} images; "
                        "check that the captions are about these images and the table of nouns fits the "
                        "categories")  # fmt: skip
    records = caption_records(
        (image.record, image.annotations, [one.caption for one in own]) for image, own in zip(images, made, strict=True)
    )
    for record, one in zip(records["images"], written, strict=True):
        record["left_out"] = [{"spans": [[begin, end]], "reason": reason} for begin, end, reason in one.left_out]
    info = {
        "captions": len(sentences),
        "written": len(written),
        "whole": sum(not one.left_out for one in written),
        "phrases": sum(len(one.caption.phrases) for one in written),
        "left_out": {reason: left_out[reason] for reason in REASONS if left_out[reason]},
        "without_picture": lost,
    }
    return {"info": info, "categories": coco.categories.records(), **records}
