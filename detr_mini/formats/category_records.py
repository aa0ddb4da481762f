"""From a COCO file's list of categories to `Categories`, and from another file's list to those of training."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.categories import Categories
from detr_mini.errors import DataError, nearest
from detr_mini.formats.values import is_text, is_whole
from detr_mini.safe_files import shown


def categories_of(
    content: Mapping[str, Any], path: Path, used: Mapping[int, int]
) -> tuple[Categories, dict[int, int], list[str]]:
    """The training file's categories, the label of each of its ids, and what there is to say about them.

    All that are listed count, used or not, but for groups: a category without a box whose name is the
    `supercategory` of another one (labelling services put such in front).
    """
    entries = listed(content, path)
    parents = {str(c.get("supercategory")) for c in content["categories"] if c.get("supercategory") != c.get("name")}
    groups = {i: name for i, name in entries if name in parents and not used.get(i)}
    kept = [(i, name) for i, name in entries if i not in groups]
    if not kept:
        raise DataError(f"{path} lists no categories; add the list 'categories' with an id and a name each")
    try:
        categories = Categories(tuple(i for i, _ in kept), tuple(name for _, name in kept))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    notices = [f"category {i} {name!r} is a group without boxes and left out" for i, name in groups.items()]
    return categories, {i: label for label, i in enumerate(categories.ids)}, notices


def align(
    content: Mapping[str, Any], path: Path, used: Mapping[int, int], categories: Categories
) -> tuple[dict[int, int], list[str]]:
    """The label in `categories` of each id of another file, by name, and what there is to say about it.

    A name with another id than in training is remapped, with a notice. A name that training does not know is left
    out where it has no box, else DataError: its boxes could never be found.
    """
    labels = {unicodedata.normalize("NFC", name): label for name, label in categories.labels_of_names().items()}
    labels |= categories.labels_of_names()  # a checkpoint may have names in decomposed characters
    label_of: dict[int, int] = {}
    notices: list[str] = []
    for category_id, name in listed(content, path):
        if name in labels:
            label_of[category_id] = labels[name]
            trained = categories.ids[labels[name]]
            if trained != category_id:
                notices.append(f"category {name!r} has id {category_id} here and {trained} in training: mapped by name")
        elif used.get(category_id):
            other = dict(zip(categories.ids, categories.names, strict=True)).get(category_id)
            there = f"there {category_id} is {distinct(other, name)}" if other else "its categories lack it"
            raise DataError(
                f"category {category_id} {distinct(name, *labels)} of {path} has {used[category_id]} annotations but "
                f"is unknown to the training set ({there}{nearest(name, labels)}); give both files the same categories"
            )
        else:
            notices.append(f"category {category_id} {name!r} is unknown to training and has no boxes: left out")
    return label_of, notices


def distinct(name: str, *others: str) -> str:
    """A name in quotes; with escapes where one of `others` differs from it and looks the same."""
    plain = unicodedata.normalize("NFKC", name)
    alike = any(unicodedata.normalize("NFKC", other) == plain for other in others if other != name)
    return f"{name!a}" if alike else f"{name!r}"


def listed(content: Mapping[str, Any], path: Path) -> list[tuple[int, str]]:
    """Id and name of each category of a file; DataError where one has none, or that of another one."""
    entries = []
    for category in content["categories"]:
        category_id, name = category.get("id"), category.get("name")
        if not is_whole(category_id) or not is_text(name):
            raise DataError(f"{path} has the category {shown(category)}; give each a whole 'id' and a 'name' (text)")
        entries.append((category_id, name))
    for position, what in enumerate(("id", "name")):
        counts = Counter(entry[position] for entry in entries)
        twice = sorted(str(value) for value, count in counts.items() if count > 1)
        if twice:
            raise DataError(f"category {what} {twice[0]} stands twice in the categories of {path}; make it unique")
    return entries
