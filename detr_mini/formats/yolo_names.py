"""The names of YOLO classes: data files (YAML) with splits, and plain lists of names."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

from detr_mini.config.yaml_events import endless_yaml
from detr_mini.errors import DataError
from detr_mini.formats.path_words import SPLIT_WORDS
from detr_mini.formats.tree import first_of
from detr_mini.formats.values import is_text
from detr_mini.safe_files import (
    files_in,
    is_file,
    read_text,
    reason,
    shown,
)

USUAL = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
"""Usual names of a data file."""
NAME_LISTS = ("classes.txt", "obj.names", "_darknet.labels", "names.txt", "labels.txt", "_classes.txt")
NOTES = "notes.json"
"""Label Studio's list of categories, which it writes beside classes.txt."""
MOST_YAML = 2**20
"""Bytes of a data file: 20,000 names fit."""
DEEPEST_YAML = 50
_LONGEST_INDEX = 9


@dataclass(frozen=True)
class DataFile:
    """What a YOLO data file (YAML) says."""

    path: Path
    names: dict[int, str]
    splits: dict[str, list[str]]
    """Of train, val and test those that are said: folders or list files, relative to `base`."""
    base: Path
    stated: int | None = None
    """`nc`, the number of classes, where it is said."""
    category_ids: dict[int, int] | None = None
    """The ids that the classes had before this tree was made (our own writer's)."""
    keypoints: int = 0
    """Numbers of the keypoints behind each box (`kpt_shape`: how many points, how many numbers each)."""


def is_yaml(path: Path) -> bool:
    """Whether it is a data file with splits; else it is a list of class names."""
    return path.suffix.lower() in (".yaml", ".yml")


def find_data_file(root: Path) -> Path | None:
    """The YAML file in `root` that has `names`, or a list of names."""
    found = files_in(root, ".yaml", ".yml")
    rank = {name: place for place, name in enumerate(USUAL)}
    for path in sorted(found, key=lambda path: (path.name not in rank, rank.get(path.name.lower(), 0), path.name)):
        try:
            if has_names(lines_of(path)):
                return path
        except DataError:
            if path.name.lower() in rank:  # it is meant, and cannot be read
                raise
    lists = (path for name in NAME_LISTS if is_file(path := root / name))
    return next((path for path in lists if not _is_blank(path)), None)


def _is_blank(path: Path) -> bool:
    try:
        return not any(map(str.strip, lines_of(path)))
    except DataError:
        return False  # its reader says why


def has_names(lines: Iterable[str]) -> bool:
    """Whether a YAML file with these lines has the key `names`."""
    return any(re.match(r"""(['"]?)names\1\s*:""", line) for line in lines)


def read_data_file(path: Path) -> DataFile:
    """Names and splits. All text stays text: the names yes, no, on and 012 are no booleans and no numbers.

    A blank line between two names of a list is a class without a name, as for the tools that write such lists.
    """
    if not is_yaml(path):
        is_json = path.suffix.lower() == ".json"
        names = _noted_names(path) if is_json else _listed_names(lines_of(path))
        if not names:
            raise DataError(f"{path} has no names; write the names of the classes, one a line, to classes.txt"
                            if is_json else f"{path} has no names; write one a line")  # fmt: skip
        return DataFile(path, names, {}, path.parent)
    content = read_yaml(path)
    given = content.get("names") if isinstance(content, dict) else None
    pairs = (
        list(given.items()) if isinstance(given, dict) else list(enumerate(given)) if isinstance(given, list) else []
    )
    if not pairs:
        raise DataError(f"{path} has no names; add 'names: [first, second]', the class names in order")
    for index, name in pairs:
        if not is_index(str(index)) or not is_text(name):
            raise DataError(f"{path} has the name {shown(name)} for the class {shown(index)}; a name is text and its "
                            "class a whole number from 0")  # fmt: skip
    names = {int(index): _name(name) for index, name in pairs}
    if len(names) < len(pairs):
        raise DataError(f"{path} has two names for one class; give each class one name")
    words = ((split, word) for split, known in SPLIT_WORDS.items() for word in reversed(known))
    splits = {split: found for split, word in words if (found := _as_list(content.get(word)))}
    said, stated, ids = content.get("path"), content.get("nc"), content.get("category_ids")
    base = path.parent / said if isinstance(said, str) and said else path.parent
    if isinstance(ids, dict) and not all(is_index(k) and is_index(v) for k, v in ids.items()):
        raise DataError(f"{path} has category_ids {shown(ids)}; they map each class to a whole number")
    return DataFile(
        path,
        names,
        splits,
        first_of([base]) or path.parent,
        int(stated) if is_index(stated) else None,
        {int(k): int(v) for k, v in ids.items()} if isinstance(ids, dict) else None,
        _keypoints(content.get("kpt_shape"), path),
    )


def read_yaml(path: Path) -> Any:
    """A data file's content, every scalar as text. DataError for what is no YAML, or makes much of little.

    A YAML file of a few lines can stand for billions of entries (anchors in anchors), or nest a hundred thousand deep.
    """
    import yaml

    loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        text = read_text(path, MOST_YAML)
        if why := endless_yaml(text, loader, DEEPEST_YAML):
            raise DataError(f"{path} {why}; write every list out")
        return yaml.load(text, Loader=loader)
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}; check data.root and data.train.names") from None
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        why = getattr(error, "problem", None) or reason(error) or type(error).__name__
        raise DataError(f"{path} cannot be read ({why}); correct its YAML") from None


def as_other_tools_read(path: Path) -> dict[Any, Any]:
    """A data file with YAML's own types (yes is true, 012 is ten); empty where it has no meaning with them."""
    import yaml

    try:
        read_yaml(path)  # refuses what would take for ever
        content = yaml.safe_load(read_text(path, MOST_YAML))
    except (yaml.YAMLError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, DataError):
        return {}  # a date that is none, or a tag that SafeLoader does not know
    return content if isinstance(content, dict) else {}


def _name(text: str) -> str:
    """A class name; accents composed, as all readers have them."""
    return unicodedata.normalize("NFC", text.strip())


def is_index(text: Any) -> bool:
    """Whether it is the text of a class index."""
    return isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= _LONGEST_INDEX


def _keypoints(shape: Any, path: Path) -> int:
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(map(is_index, shape)):
        raise DataError(f"{path} has kpt_shape {shown(shape)}; it is [number of keypoints, 2 or 3 numbers each]")
    return int(shape[0]) * int(shape[1])


def read_agreed_names(root: Path, chosen: Path) -> DataFile:
    """The `chosen` file; DataError where another list of names in `root` gives a class another name than it does."""
    others = []
    for path in [*files_in(root, ".yaml", ".yml"), *(root / name for name in (*NAME_LISTS, NOTES))]:
        if path == chosen or not is_file(path):
            continue
        with suppress(DataError):  # a file that is no list of names
            others.append(read_data_file(path))
    data = read_data_file(chosen)
    check_names_agree(data, others)
    return data


def check_names_agree(chosen: DataFile, others: Iterable[DataFile]) -> None:
    """DataError where two lists give a class different names; one may be longer than the other."""
    own = chosen.names
    for other in others:
        shared = [index for index in own if index in other.names]
        if any(own[index] != other.names[index] for index in shared):
            lists = [", ".join(f"{i} {names[i]}" for i in shared[:10]) for names in (own, other.names)]
            first, second = (os.path.relpath(data.path, chosen.path.parent) for data in (chosen, other))
            raise DataError(f"{first} and {second} in {chosen.path.parent} disagree about the classes: {lists[0]} "
                            f"({first}), or {lists[1]} ({second}); remove the wrong file")  # fmt: skip


def _listed_names(lines: Iterable[str]) -> dict[int, str]:
    names = list(dropwhile(lambda name: not name, map(_name, lines)))
    return {index: name for index, name in enumerate(names) if name}


def _noted_names(path: Path) -> dict[int, str]:
    try:
        content = json.loads(read_text(path))
        return {int(c["id"]): _name(c["name"]) for c in content["categories"] if isinstance(c["id"], int)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} has no list of categories") from error


def _as_list(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else \
        [value] if isinstance(value, str) and value else []  # fmt: skip


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; DataError where it cannot be read."""
    try:
        return read_text(path).splitlines()
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; check data.root and the names of the split") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({reason(error)}); save it as UTF-8") from None
