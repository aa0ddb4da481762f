"""Frames of one video and tiles of one large picture, by the names of their files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from detr_mini.formats.path_words import SPLIT_WORDS, parts_of

_VIDEO = r"mov|mp4|m4v|avi|mkv|webm|wmv|mpe?g|video|vid|clip|frames?|frm|seq|sequence"
_EXPORT = re.compile(r"[_.](?:jpe?g|png|bmp|tiff?|webp)(?:\.rf\.[0-9a-f]+)?$", re.IGNORECASE)
_FRAME = re.compile(rf"^(?P<key>.*?(?<![a-z])(?:{_VIDEO})(?![a-z]).*?)[-_ .]*(?P<number>\d+)$", re.IGNORECASE)
_ONLY_VIDEO = re.compile(rf"(?:(?:{_VIDEO})[-_ .]*)+", re.IGNORECASE)
_USUAL_WORDS = "|".join([*chain(*SPLIT_WORDS.values()), "images?", "imgs?", "jpe?g", "png", "photos?", "pictures?",
                         "obj", "data(?:set)?s?", "sets?"])  # fmt: skip
_USUAL_FOLDER = re.compile(rf"(?:(?:{_USUAL_WORDS})[-_ ]*)+(?:(?:19|20)\d\d)?", re.IGNORECASE)
_TILES = (
    re.compile(r"^(?P<key>.+?)__\d+(?:\.\d+)?__-?\d+___?-?\d+$"),
    re.compile(r"^(?P<key>.+?)[-_ ](?:x|r|row)[-_]?\d+[-_](?:y|c|col|column)[-_]?\d+$", re.IGNORECASE),
    re.compile(r"^(?P<key>.+?)[-_ ](?:tile|patch|crop)s?(?:[-_ ]?\d+)+$", re.IGNORECASE),
)
_CORNERS = re.compile(r"^(?P<key>.+?)_(\d+)_(\d+)_(\d+)_(\d+)$")


def scene_of(name: str) -> tuple[str, int] | None:
    """The video or the large picture that an image is a frame or a tile of, by its name, and its number in it.

    A name that says nothing but "frame" or the like is one of its folder. Folders of splits and of images do not count,
    since one video may have frames in two splits.
    """
    path = Path(name)
    stem = path.stem
    while _EXPORT.search(stem):
        stem = _EXPORT.sub("", stem)
    for pattern in _TILES:
        if found := pattern.match(stem):
            return found["key"], _last_number(stem)
    if found := _CORNERS.match(stem):
        left, top, right, bottom = (int(v) for v in found.groups()[1:])
        if right > left and bottom > top and right >= 100 and bottom >= 100:
            return found["key"], top * 10**6 + left
    if (found := _FRAME.match(stem)) and not found["key"].isdecimal():
        key = found["key"].rstrip("-_ .")
        if _ONLY_VIDEO.fullmatch(key):
            key = "/".join([*(part for part in parts_of(name)[:-1] if not _USUAL_FOLDER.fullmatch(part)), key])
        return key, int(found["number"][:15])
    return None


def _last_number(stem: str) -> int:
    return int("".join(number.zfill(6) for number in re.findall(r"\d+", stem)[-2:])[:15] or 0)


def scenes(names: Mapping[int, str]) -> dict[str, list[int]]:
    """Of each video or large picture its frames or tiles, in their order; those alone are left out."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for image_id, name in names.items():
        if scene := scene_of(name):
            found[scene[0].casefold()].append((scene[1], image_id))
    return {key: [i for _, i in sorted(own)] for key, own in found.items() if len(own) > 1}
