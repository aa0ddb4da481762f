"""COCO's 80 categories and their ids, of which there are gaps up to 90: published detectors often name neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from detr_mini.categories import Categories
from detr_mini.text.names import plain_name, rows_by_name

_NAMES = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant - stop_sign parking_meter "
    "bench bird cat dog horse sheep cow elephant bear zebra giraffe - backpack umbrella - - handbag tie suitcase "
    "frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle - "
    "wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair "
    "couch potted_plant bed - dining_table - - toilet - tv laptop mouse remote keyboard cell_phone microwave oven "
    "toaster sink refrigerator - book clock vase scissors teddy_bear hair_drier toothbrush"
)
COCO: Mapping[int, str] = {
    number: name.replace("_", " ") for number, name in enumerate(_NAMES.split(), start=1) if name != "-"
}
"""Id: name."""
COUNT = 91
"""Classes of a head whose labels are COCO's ids, from 0."""
UNNAMED = "LABEL_"
"""How transformers calls a category that nobody has named, before its number."""


def named(labels: Sequence[str]) -> Categories:
    """The categories of a head with these names, in the order of its labels.

    Ids are COCO's where the named ones are COCO's in their order, else the labels. A place without a category ("N/A",
    and what COCO's ids leave out) keeps its row and gets a name of its own.
    """
    names = [COCO.get(k, "N/A") for k in range(COUNT)] if len(labels) == COUNT and not _are_named(labels) else labels
    ids = _coco_ids(names) or tuple(range(len(names)))
    seen: dict[str, int] = {}
    unique = []
    for place, name in enumerate(names):
        unique.append(f"{name} {ids[place]}" if name in seen or name.upper() in _NOTHING else name)
        seen[unique[-1]] = place
    return Categories(ids, tuple(unique))


class Mapped(NamedTuple):
    """A published detector's categories and the data's."""

    joint: Categories
    """The detector's, in the order of its labels, under the data's names where they match; then the data's others."""
    shared: frozenset[str]
    """The data's names that it knows."""


def mapped(theirs: Categories, ours: Mapping[str, int]) -> Mapped:
    """Match categories by name (up to case and blanks); by id where the weights' have no names.

    `ours`: names and ids of the data.
    """
    places = {
        k: v for k, v in rows_by_name(theirs.names, tuple(ours)).items() if theirs.names[v] not in _unnamed(theirs)
    }
    renamed = {place: tuple(ours)[k] for k, place in places.items()}
    by_id = {number: name for name, number in ours.items() if name not in renamed.values()}
    labels = {number: place for place, number in enumerate(theirs.ids)}
    for name in _unnamed(theirs):
        place = theirs.names.index(name)
        if theirs.ids[place] in by_id and labels[theirs.ids[place]] not in renamed:
            renamed[place] = by_id[theirs.ids[place]]
    shared = frozenset(renamed.values())
    own = [renamed.get(place, name) for place, name in enumerate(theirs.names)]
    own = [name if place in renamed or name not in shared else f"{name} (its own)" for place, name in enumerate(own)]
    others = [name for name in ours if name not in shared]
    ids = (*theirs.ids, *range(max(theirs.ids) + 1, max(theirs.ids) + 1 + len(others)))
    return Mapped(Categories(ids, (*own, *others)), shared)


def is_nothing(name: str) -> bool:
    """Whether a name is that of a row without a category, as `named` calls it."""
    begin, _, rest = name.partition(" ")
    return begin.upper() in _NOTHING and (not rest or rest.isdecimal())


def _unnamed(categories: Categories) -> set[str]:
    return {name for name in categories.names if name.startswith(UNNAMED)}


_NOTHING = ("N/A", "NA", "NONE", "")


def _are_named(labels: Sequence[str]) -> bool:
    return not all(label.startswith(UNNAMED) or label.upper() in _NOTHING for label in labels)


def _coco_ids(names: Sequence[str]) -> tuple[int, ...] | None:
    """COCO's ids of these names, where all are COCO's, in COCO's order."""
    known = {plain_name(name): number for number, name in COCO.items()}
    known |= {"motorbike": 4, "aeroplane": 5, "sofa": 63, "pottedplant": 64, "diningtable": 67, "tvmonitor": 72}
    found = [known.get(plain_name(name)) for name in names]
    ids = [number for number in found if number is not None]
    return tuple(ids) if len(ids) == len(names) and all(a < b for a, b in pairwise(ids)) else None
