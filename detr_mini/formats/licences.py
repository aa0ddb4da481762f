"""What a dataset says of its origin and its licence, so that a detector can say what it learned from."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from detr_mini.formats.listing import read_start
from detr_mini.safe_files import is_file, read_text

MERGED = "SOURCES.json"
"""In a dataset that was merged from others: their names, images and licences (scripts/merge_sets.py)."""
_PAGES = ("SOURCE.txt", "README.dataset.txt", "README.roboflow.txt", "README.md", "README.txt", "data.yaml",
          "dataset.yaml")  # fmt: skip
_TEXTS = ("LICENSE", "LICENCE", "LICENSE.txt", "LICENSE.md", "COPYING")
_HEAD = 1 << 16
"""The number of bytes at the beginning of a file that are searched."""
_LONGEST = 300
_MOST_FILES = 20
_SAID = re.compile(r"^\W*licen[cs]e\W*:[ \t]*(?P<said>[^\n]*\w[^\n]*)", re.IGNORECASE | re.MULTILINE)
_LISTED = re.compile(r'"licenses"\s*:\s*(?P<list>\[[^\[\]]*\])')


def sources_of(root: Path, images: int) -> list[dict[str, Any]]:
    """The name, number of images and licence of each dataset in `root`: of itself, or of those it was merged from.

    A licence is what the folder's own files say: a line "License: ..." of a page beside the images, the list of a COCO
    file, or the first line of a LICENSE. None where nothing does.
    """
    merged = _merged(root / MERGED)
    return merged or [{"name": root.absolute().name, "images": images, "licence": licence_of(root)}]


def licence_of(root: Path) -> str | None:
    """What the files of a dataset say of its licence; None where nothing does."""
    for name in _PAGES:
        if found := _SAID.search(_head(root / name)):
            return _short(found["said"])
    for file in _annotation_files(root):
        if found := _LISTED.search(_head(file)):
            names = _names_in(found["list"])
            if names:
                return _short(", ".join(names))
    for name in _TEXTS:
        first = next((line.strip() for line in _head(root / name).splitlines() if line.strip()), None)
        if first:
            return _short(first.lstrip("# "))
    return None


def _annotation_files(root: Path) -> Sequence[Path]:
    """JSON files where COCO's layouts have them."""
    found = (path for pattern in ("*.json", "*/*.json") for path in sorted(root.glob(pattern)))
    return list(islice(found, _MOST_FILES))


def _names_in(listed: str) -> list[str]:
    try:
        licences = json.loads(listed)
    except ValueError:
        return []
    named = [str(licence.get("name") or licence.get("url") or "") for licence in licences if isinstance(licence, dict)]
    return list(dict.fromkeys(filter(None, named)))


def _merged(path: Path) -> list[dict[str, Any]]:
    try:
        listed = json.loads(read_text(path)) if is_file(path) else []
        return [
            {"name": str(one["name"])[:_LONGEST], "images": int(one["images"]),
             "licence": _short(str(one.get("licence") or "")) or None}
            for one in listed
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _head(path: Path) -> str:
    return read_start(path, _HEAD).decode("utf-8-sig", errors="replace") if is_file(path) else ""


def _short(text: str) -> str:
    """One line of at most _LONGEST characters."""
    line = " ".join(text.split()).strip("'\"")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
