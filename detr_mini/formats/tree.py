"""One split with its records as a COCO file has them; every reader returns this."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Context
from pathlib import Path
from typing import Any

from detr_mini.formats.faults import Fault

EXACT = Context(prec=80)
"""Decimal numbers, so that text to pixels and back loses nothing."""
_LONGEST_ID = 15


@dataclass(frozen=True)
class Tree:
    """One split of a tree."""

    content: dict[str, Any]
    """As a COCO file would have it; each annotation says `where` it stands."""
    folder: Path
    """The file names of `content` are below it."""
    path: Path
    """What an error names."""
    sizes: dict[int, tuple[tuple[int, int], bool]] = field(default_factory=dict)
    """What `image_size` gives, by image id, where it was asked already."""
    faults: list[Fault] = field(default_factory=list)
    """What could not be represented in `content`."""
    notices: list[str] = field(default_factory=list)


def with_one_list(trees: Mapping[str, Tree]) -> dict[str, Tree]:
    """The splits with one id for each name of a category, as training joins them: by name.

    The first split that has a name decides its id; one that another name has already becomes a free one.
    """
    ids: dict[str, int] = {}
    highest = max((c["id"] for tree in trees.values() for c in tree.content["categories"]), default=0)
    for tree in trees.values():
        for category in tree.content["categories"]:
            if category["name"] not in ids:
                taken = category["id"] in ids.values()
                highest += taken
                ids[category["name"]] = highest if taken else category["id"]
    return {name: _renumbered(tree, ids) for name, tree in trees.items()}


def _renumbered(tree: Tree, ids: Mapping[str, int]) -> Tree:
    categories = tree.content["categories"]
    new = {c["id"]: ids[c["name"]] for c in categories}
    if all(old == own for old, own in new.items()):
        return tree
    content = {
        **tree.content,
        "categories": [{**c, "id": new[c["id"]]} for c in categories],
        "annotations": [{**a, "category_id": new[a["category_id"]]} for a in tree.content["annotations"]],
    }
    return replace(tree, content=content)


def image_ids(names: Sequence[str]) -> list[int]:
    """The id of each file name: its stem where all stems are different whole numbers, else its place, from 1."""
    stems = [Path(name).stem for name in names]
    if all(stem.isdecimal() and stem.isascii() and len(stem) <= _LONGEST_ID for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(names) + 1))


def first_of(candidates: Iterable[Path]) -> Path | None:
    """The first that is there."""
    return next((path for path in candidates if _exists(path)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no disk can hold
        return False
