"""Categories and their names, within a split and across splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

from detr_mini.data.columns import is_whole
from detr_mini.data.faults import Fault
from detr_mini.data.records import is_text
from detr_mini.data.safe_files import shown
from detr_mini.data.tree import Tree
from detr_mini.data.yolo import DataFile, as_other_tools_read
from detr_mini.errors import nearest

ALIKE = 0.8
"""Share of characters from which two names may be one."""
CLOSE = 0.88
"""The same for names of six letters and more that are about as frequent."""
RARE = 3
"""A name that another one, so alike, outnumbers by this may be a slip."""


def checked_categories(tree: Tree, split: str, faults: list[Fault]) -> list[dict[str, Any]]:
    """The usable categories of a split, ids and names once each."""
    ids: dict[int, str] = {}
    names: dict[str, int] = {}
    kept = []
    for category in tree.content["categories"]:
        category_id, name = category.get("id"), category.get("name")
        if not is_whole(category_id) or not is_text(name):
            faults.append(Fault("category incomplete", f"{split}: {shown(category)}", mend="left out"))
        elif category_id in ids:
            text = f"{split}: id {category_id} is {ids[category_id]!r} and {name!r}"
            faults.append(Fault("category id twice", text, mend="the first name counts"))
        elif name in names:
            text = f"{split}: {name!r} has the ids {names[name]} and {category_id}"
            faults.append(Fault("category name twice", text, mend="one category"))
            ids[category_id] = name
            kept.append({**category, "same as": names[name]})
        else:
            ids[category_id], names[name] = name, category_id
            kept.append(dict(category))
    return kept


def check_names(
    categories: Mapping[str, list[dict[str, Any]]],
    boxes: Mapping[str, Counter[str]],
    crowd: Mapping[str, Counter[str]],
    faults: list[Fault],
) -> dict[str, str]:
    """Of each split its categories, and boxes and crowd regions by name; what each name to be mended becomes."""
    total: Counter[str] = sum(boxes.values(), Counter())
    crowds: Counter[str] = sum(crowd.values(), Counter())
    listed = list(dict.fromkeys(c["name"] for split in categories.values() for c in split))
    groups = {str(c.get("supercategory")) for split in categories.values() for c in split}
    renamed = _written_alike(listed, total, faults)
    renamed |= _mistyped([n for n in listed if n not in renamed], total, faults)
    trained = {c["name"] for c in categories.get("train", [])}
    for split, own in boxes.items():
        for name in own:
            if split == "train" or not trained or name in renamed:
                continue
            if name not in trained:
                text = f"{split}: {name!r}, {own[name]} boxes{nearest(name, trained)}"
                faults.append(Fault("category unknown to training", text))
            elif not boxes.get("train", Counter())[name] and split == min(s for s in boxes if boxes[s][name]):
                faults.append(Fault("category that training never sees", f"{split}: {name!r}, {own[name]} boxes"))
    for name in listed:
        if not total[name] and name not in renamed:
            if crowds[name]:
                text = f"{name!r}, {crowds[name]} crowd regions"
                faults.append(Fault("category with crowd only", text))
            else:
                group = " (a group of others)" if name in groups else ""
                faults.append(Fault("category without boxes", f"{name!r}{group}"))
    return renamed


def _written_alike(names: list[str], total: Counter[str], faults: list[Fault]) -> dict[str, str]:
    plain: dict[str, list[str]] = {}
    for name in names:
        plain.setdefault(re.sub(r"[\s_-]+", "", name.casefold()), []).append(name)
    renamed: dict[str, str] = {}
    for group in plain.values():
        if len(group) > 1:
            most = max(group, key=lambda name: total[name])
            others = [name for name in group if name != most]
            renamed |= dict.fromkeys(others, most)
            counts = ", ".join(f"{name!r} ({total[name]} boxes)" for name in group)
            faults.append(Fault("names that differ in writing only", counts, mend=f"all {most!r}"))
    return renamed


def _mistyped(names: list[str], total: Counter[str], faults: list[Fault]) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for rare in names:
        alike = [n for n in names if n not in (rare, *renamed) and 0 < total[rare] <= total[n] and _alike(rare, n)]
        alike = [n for n in alike if total[rare] * RARE <= total[n] or _close(rare, n)]
        if alike:
            meant = max(alike, key=lambda name: SequenceMatcher(None, rare, name).ratio())
            renamed[rare] = meant
            text = f"{rare!r} ({total[rare]} boxes), {meant!r} ({total[meant]}) may be meant"
            faults.append(Fault("mistyped category", text, mend=f"{meant!r}"))
    return renamed


def _alike(one: str, two: str) -> bool:
    """Whether two names differ by a slip; not where they are numbered, or short."""
    if min(len(one), len(two)) < 3 or re.findall(r"\d+", one) != re.findall(r"\d+", two):
        return False
    letters = sorted(one.casefold()) == sorted(two.casefold())
    return letters or (min(len(one), len(two)) > 3 and SequenceMatcher(None, one, two).ratio() >= ALIKE)


def _close(one: str, two: str) -> bool:
    return min(len(one), len(two)) >= 6 and SequenceMatcher(None, one, two).ratio() >= CLOSE


def check_data_file(data: DataFile, faults: list[Fault]) -> None:
    """What other tools make of a YOLO data file."""
    if data.stated is not None and data.stated != len(data.names):
        text = f"{data.path.name}: nc is {data.stated}, there are {len(data.names)} names"
        faults.append(Fault("number of classes differs", text, mend="left out"))
    if data.path.suffix not in (".yaml", ".yml"):
        return
    names = as_other_tools_read(data.path).get("names")
    values = names.values() if isinstance(names, dict) else names if isinstance(names, list) else ()
    for written, read in zip(data.names.values(), values, strict=False):
        if not isinstance(read, str):
            text = f"{data.path.name}: {written} is read as {read!r}"
            faults.append(Fault("name that YAML takes for something else", text, mend="quoted"))
