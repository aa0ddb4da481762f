"""Categories and their names, within a split and across splits."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any

from detr_mini.errors import nearest
from detr_mini.formats.category_records import distinct
from detr_mini.formats.faults import Fault, Fix, Kind
from detr_mini.formats.tree import Tree
from detr_mini.formats.values import is_text, is_whole
from detr_mini.formats.yolo_names import DataFile, as_other_tools_read
from detr_mini.safe_files import shown

RARE = 3
"""How many times as frequent another name must be before a rare one may be a slip."""
LONG = 8
"""Letters from which a slip is likely whatever the counts say."""
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def checked_categories(
    tree: Tree, used: Mapping[Any, int], faults: list[Fault]
) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The usable categories of a split, ids and names once each; and of each id that is merged, the one it becomes.

    `used`: boxes by category id. Where it is unknown which category boxes mean, the fault refuses a fixed copy.
    """
    ids: dict[int, dict[str, Any]] = {}
    names: dict[str, dict[str, Any]] = {}
    merged: dict[int, int] = {}
    free = max((c["id"] for c in tree.content["categories"] if is_whole(c.get("id"))), default=0) + 1
    for category in tree.content["categories"]:
        category_id, name = category.get("id"), category.get("name")
        if not is_whole(category_id) or not is_text(name):
            faults.append(Fault(Kind.INCOMPLETE_CATEGORY, shown(category), fix=Fix.LEFT_OUT))
            continue
        if category_id in ids:
            text = f"id {category_id} is {ids[category_id]['name']!r} and {name!r}"
            if ids[category_id]["name"] == name:
                faults.append(Fault(Kind.CATEGORY_ID_TWICE, text, fix=Fix.KEPT_ONCE))
                continue
            boxes = used[category_id]
            text = f"{text}; which of them its {boxes} boxes belong to is unknown" if boxes else text
            faults.append(Fault(Kind.CATEGORY_ID_TWICE, text, fix=None if boxes else Fix.NEW_ID, refused=boxes > 0))
            if boxes or name in names:
                continue
            category_id, free = free, free + 1
        elif name in names:
            other = names[name]
            groups = [str(c.get("supercategory") or "") for c in (other, category)]
            two = all(groups) and groups[0] != groups[1] and used[other["id"]] > 0 and used[category_id] > 0
            text = f"{name!r} has the ids {other['id']} and {category_id}"
            text = f"{text}, in the groups {groups[0]!r} and {groups[1]!r}; rename one of them" if two else text
            faults.append(Fault(Kind.CATEGORY_NAME_TWICE, text, fix=None if two else Fix.MERGED, refused=two))
            merged[category_id] = other["id"]
            ids[category_id] = other
            continue
        ids[category_id] = names[name] = {**category, "id": category_id}
    return list(names.values()), merged


def check_names(
    categories: Mapping[str, list[dict[str, Any]]],
    boxes: Mapping[str, Counter[str]],
    crowd: Mapping[str, Counter[str]],
    faults: list[Fault],
) -> None:
    """Report names that may be slips and categories that training cannot learn.

    `categories`: of each split; `boxes` and `crowd`: counts by name. Names are never merged: only the user knows
    whether `with_mask` and `without_mask`, or `A` and `a`, are one class.
    """
    total: Counter[str] = sum(boxes.values(), Counter())
    crowds: Counter[str] = sum(crowd.values(), Counter())
    listed = list(dict.fromkeys(c["name"] for split in categories.values() for c in split))
    groups = {str(c.get("supercategory")) for split in categories.values() for c in split}
    doubtful = _written_alike(listed, total, faults)
    doubtful |= _mistyped([n for n in listed if n not in doubtful], total, faults)
    trained = {c["name"] for c in categories.get("train", [])}
    for split, own in boxes.items():
        for name in own:
            if split == "train" or not trained or name in doubtful:
                continue
            if name not in trained:
                text = f"{name!r}, {own[name]} boxes{nearest(name, trained)}"
                faults.append(Fault(Kind.UNTRAINED_NAME, text, split=split))
            elif not boxes.get("train", Counter())[name] and split == min(s for s in boxes if boxes[s][name]):
                faults.append(Fault(Kind.UNTRAINED_CATEGORY, f"{name!r}, {own[name]} boxes", split=split))
    for name in listed:
        if not total[name] and name not in doubtful:
            if crowds[name]:
                text = f"{name!r}, {crowds[name]} crowd regions"
                faults.append(Fault(Kind.CROWD_ONLY, text))
            else:
                group = " (a group of others)" if name in groups else ""
                faults.append(Fault(Kind.NO_BOXES, f"{name!r}{group}"))


def _written_alike(names: list[str], total: Counter[str], faults: list[Fault]) -> set[str]:
    """Names that differ only in capitals, blanks, hyphens, or in forms of a letter."""
    plain: dict[str, list[str]] = {}
    for name in names:
        plain.setdefault(re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold()), []).append(name)
    groups = [group for group in plain.values() if len(group) > 1]
    for group in groups:
        counts = [f"{distinct(name, *group)} ({total[name]} boxes)" for name in group]
        faults.append(Fault(Kind.SIMILAR_NAMES, ", ".join(counts)))
    return {name for group in groups for name in group}


def _mistyped(names: list[str], total: Counter[str], faults: list[Fault]) -> set[str]:
    found = set()
    for rare in names:
        meant = [n for n in names if n != rare and n not in found and 0 < total[rare] <= total[n] and slip(rare, n)]
        meant = [n for n in meant if total[rare] * RARE <= total[n] or min(len(rare), len(n)) >= LONG]
        if meant:
            most = max(meant, key=lambda name: total[name])
            found.add(rare)
            text = f"{rare!r} ({total[rare]} boxes), is {most!r} ({total[most]}) meant?"
            faults.append(Fault(Kind.MISTYPED_CATEGORY, text))
    return found


def slip(one: str, two: str) -> bool:
    """Whether two names differ by one slip of the keyboard in one word.

    One letter is missing, doubled or added, two neighbours are swapped, or a neighbouring key was hit. Slips spare
    the first letter of a word (`boat` and `goat` are two things), short words, and numbers.
    """
    words = [re.split(r"[\s_-]+", name.casefold()) for name in (one, two)]
    if len(words[0]) != len(words[1]):
        return False
    differing = [pair for pair in zip(*words, strict=True) if pair[0] != pair[1]]
    return len(differing) == 1 and _one_edit(*differing[0])


def _one_edit(one: str, two: str) -> bool:
    short, long = sorted((one, two), key=len)
    if len(long) < 4 or not (one.isalpha() and two.isalpha()) or one[0] != two[0]:
        return False
    at = next((k for k in range(len(short)) if short[k] != long[k]), len(short))
    if len(long) == len(short) + 1:
        return short[at:] == long[at + 1 :]
    if len(long) > len(short) or at == len(short) - 1:  # another last letter is another word: filled, filler
        return False
    swapped = short[at : at + 2] == long[at : at + 2][::-1] and short[at + 2 :] == long[at + 2 :]
    return swapped or (short[at + 1 :] == long[at + 1 :] and _neighbours(short[at], long[at]))


def _neighbours(one: str, two: str) -> bool:
    """Whether two letters are neighbours on the keyboard."""
    places = {letter: (x + y / 2, y) for y, row in enumerate(_KEYS) for x, letter in enumerate(row)}
    if one not in places or two not in places:
        return False
    (a, b), (c, d) = places[one], places[two]
    return abs(a - c) <= 1 and abs(b - d) <= 1


def check_data_file(data: DataFile, faults: list[Fault]) -> None:
    """What other tools make of a YOLO data file."""
    if data.stated is not None and data.stated != len(data.names):
        text = f"{data.path.name}: nc is {data.stated}, there are {len(data.names)} names"
        faults.append(Fault(Kind.CLASS_COUNT, text, fix=Fix.LEFT_OUT))
    if data.path.suffix not in (".yaml", ".yml"):
        return
    names = as_other_tools_read(data.path).get("names")
    values = names.values() if isinstance(names, dict) else names if isinstance(names, list) else ()
    for written, read in zip(data.names.values(), values, strict=False):
        if not isinstance(read, str):
            text = f"{data.path.name}: {written} is read as {read!r}"
            faults.append(Fault(Kind.YAML_NAME, text, fix=Fix.QUOTED))
