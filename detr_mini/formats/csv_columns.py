"""Which columns of a CSV file hold the image, the box and the class: by their names, or by what stands in them."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from detr_mini.formats.listing import is_image_name, read_start
from detr_mini.formats.path_words import SPLIT_WORDS

COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("filename", "imagename", "imagepath", "filepath", "imagefile", "imagefilename", "imgpath", "imgname",
              "imageid", "imgid", "image", "img", "file", "path", "frame", "uri"),
    "label": ("class", "classname", "label", "labelname", "category", "categoryname", "name", "object", "target",
              "labels", "classid", "labelid", "categoryid"),
    "left": ("xmin", "x1", "left", "xtl", "minx", "bboxxmin", "bboxx1", "roix1", "bboxleft", "xstart"),
    "top": ("ymin", "y1", "top", "ytl", "miny", "bboxymin", "bboxy1", "roiy1", "bboxtop", "ystart"),
    "right": ("xmax", "x2", "right", "xbr", "maxx", "bboxxmax", "bboxx2", "roix2", "bboxright", "xend"),
    "bottom": ("ymax", "y2", "bottom", "ybr", "maxy", "bboxymax", "bboxy2", "roiy2", "bboxbottom", "yend"),
    "x": ("bboxx", "x", "boxx", *("left", "xmin")),
    "y": ("bboxy", "y", "boxy", *("top", "ymin")),
    "w": ("bboxwidth", "bboxw", "boxwidth", "w", "width"),
    "h": ("bboxheight", "bboxh", "boxheight", "h", "height"),
    "box": ("bbox", "box", "boundingbox", "bboxes"),
    "width": ("imagewidth", "imgwidth", "imagew", "imgw", "width"),
    "height": ("imageheight", "imgheight", "imageh", "imgh", "height"),
    "subset": ("split", "subset", "set", "usage", "partition"),
    "crowd": ("isgroupof", "iscrowd"),
}  # fmt: skip
"""What a column is called, in small letters without anything between them, the surest first."""
CORNERS, SIZED = ("left", "top", "right", "bottom"), ("x", "y", "w", "h")
SAMPLE = 50
"""Rows that are looked at to learn the columns."""
SETS = {"unassigned", *(word for words in SPLIT_WORDS.values() for word in words)}
"""What stands in a column of splits that has no header, in small letters."""
ORDERS = {6: ("whltrb", "ltrbwh"), 7: ("whltrbc", "ltrbcwh", "whcltrb", "cltrbwh")}
"""Orders of 6 and of 7 numbers side by side: width and height of the image, left, top, right and bottom, the class."""
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Table:
    """How the columns of a CSV file are read."""

    delimiter: str
    columns: Mapping[str, int]
    """The place of each key of `COLUMNS` that is there."""
    has_header: bool

    @property
    def has_vertices(self) -> bool:
        """Whether the corners are the first and the third of AutoML's four vertices, which may start at any of them."""
        return not self.has_header and self.columns.get("right", 0) - self.columns.get("left", 0) == 4


def table_of(path: Path) -> Table | None:
    """The columns of a CSV file of boxes; None where it is none."""
    start = read_start(path, 1 << 16)
    first = start.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace")
    delimiter = max(",;\t", key=first.count)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in islice(csv.reader(file, delimiter=delimiter), SAMPLE) if row]
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    if not rows:
        return None
    columns = _named(rows[0])
    if columns:
        return Table(delimiter, columns, True)
    columns = _unnamed(rows)
    return Table(delimiter, columns, False) if columns else None


def _named(header: Sequence[str]) -> dict[str, int]:
    """The columns by a header; none where it has no image and box."""
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]
    columns = {key: plain.index(name) for key, names in COLUMNS.items() if (name := _first(names, plain))}
    if {"x1", "y1", "x3", "y3"} <= set(plain):  # four corners, one after another: the third lies opposite the first
        columns |= {"right": plain.index("x3"), "bottom": plain.index("y3")}
    if all(key in columns for key in CORNERS):
        kept: tuple[str, ...] = CORNERS
    elif all(key in columns for key in SIZED):
        kept = SIZED
    else:
        kept = ("box",)
    taken = {columns[key] for key in kept if key in columns}
    rest = ("image", "label", "width", "height", "subset", "crowd")
    used = {
        key: columns[key] for key in (*kept, *rest) if key in columns and (key in kept or columns[key] not in taken)
    }
    return used if "image" in used and set(kept) <= set(used) else {}


def _first(names: Sequence[str], plain: Sequence[str]) -> str | None:
    return next((name for name in names if name in plain), None)


def _unnamed(rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """The columns by what stands in them: a file, four numbers beside each other, perhaps a class, a size and a split.

    Numbers come as corners, but after the class and before the file (makesense) as left, top, width, height. There are
    no columns where more numbers are side by side than one of `ORDERS` explains.
    """
    width = min(map(len, rows))
    cells = [[row[k].strip() for row in rows] for k in range(width)]
    image = next((k for k, own in enumerate(cells) if sum(map(_is_image, own)) > len(own) / 2), None)
    numeric = [all(is_number(cell) for cell in own if cell) and any(own) for own in cells]
    if image is None:
        return {}
    words = [k for k in range(width) if k != image and not numeric[k] and any(cells[k])]
    # one column of words is the class, and a class may be called train
    subset = next((k for k in words if len(words) > 1 and all(c.lower() in SETS for c in cells[k] if c)), None)
    words = [k for k in words if k != subset]
    if len(words) > 1:
        return {}
    columns = {"image": image}
    columns |= {"subset": subset} if subset is not None else {}
    if words and (box := _opposite_vertices(cells, numeric, words[0] + 1)):
        return columns | {"label": words[0], **dict(zip(CORNERS, box, strict=True))}
    runs = _runs([k for k in range(width) if numeric[k]])
    run = next((run for run in runs if len(run) >= 4), None)
    if run is None:
        return {}
    class_first = len(run) == 5 and run[4] < image and not words
    order = _order([cells[k] for k in run]) if len(run) > 5 else "cltrb" if class_first else "ltrbc"[: len(run)]
    if order is None:
        return {}
    at = dict(zip(order, run, strict=True))
    if sizes := [at["w"], at["h"]] if "w" in at else next((run for run in runs if len(run) == 2), None):
        columns |= {"width": sizes[0], "height": sizes[1]}
    label = words[0] if words else at.get("c")
    columns |= {"label": label} if label is not None else {}
    keys = SIZED if label is not None and label < at["l"] < image else CORNERS
    return columns | dict(zip(keys, (at[key] for key in "ltrb"), strict=True))


def _opposite_vertices(cells: Sequence[Sequence[str]], numeric: Sequence[bool], first: int) -> list[int]:
    """The columns of two opposite corners where AutoML's four vertices, x and y each, begin at the column `first`.

    The second and the fourth may be blank; where they are not, they must complete an upright rectangle.
    """
    own = list(range(first, len(cells)))[:8]
    if len(own) < 6 or not all(numeric[own[k]] for k in (0, 1, 4, 5)):
        return []
    for axis in (own[::2], own[1::2]):
        for values in zip(*(cells[k] for k in axis), strict=True):
            if set(values[1::2]) - {*values[::2], ""}:
                return []
    return [own[0], own[1], own[4], own[5]]


def _order(columns: Sequence[Sequence[str]]) -> str | None:
    """The one of `ORDERS` in which nearly all boxes are inside their images, as corners or else by size."""
    rows = [[float(cell) for cell in row] for row in zip(*columns, strict=True) if all(row)]
    if not rows:
        return None
    numbers = np.array(rows, np.float64).T
    for sized in (False, True):
        fitting = []
        for order in ORDERS.get(len(columns), ()):
            w, h, left, top, right, bottom = (numbers[order.index(key)] for key in "whltrb")
            right, bottom = (left + right, top + bottom) if sized else (right, bottom)
            inside = (left >= 0) & (top >= 0) & (left < right) & (top < bottom) & (right <= w) & (bottom <= h)
            fitting += [order] if inside.mean() > 0.9 else []
        if fitting:
            return fitting[0] if len(fitting) == 1 else None
    return None


def _runs(places: Sequence[int]) -> list[list[int]]:
    """Places that lie beside each other."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _is_image(text: str) -> bool:
    return is_image_name(re.split(r"[\\/]", text)[-1])


def is_number(text: str) -> bool:
    """Whether a cell is a number and nothing else."""
    return NUMBER.fullmatch(text) is not None
