"""CSV files of boxes: a row a box, columns known by their names or, without a header, by what stands in them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float

from detr_mini.categories import Categories
from detr_mini.errors import DataError, some_of
from detr_mini.formats.box_list import UNNAMED, BoxList
from detr_mini.formats.box_rules import CORNERS as CORNERS_MEANT
from detr_mini.formats.box_rules import ROUNDING, SLACK, look_like_corners
from detr_mini.formats.faults import Fault, Kind
from detr_mini.formats.format import Format
from detr_mini.formats.layout import Layout, layout_of_files
from detr_mini.formats.listing import Listing, is_image_name, read_start
from detr_mini.formats.path_words import split_of_name
from detr_mini.formats.tree import Tree
from detr_mini.images.header import image_size
from detr_mini.safe_files import shown

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
}  # fmt: skip
"""What a column is called, in small letters without anything between them, the surest first."""
CORNERS, SIZED = ("left", "top", "right", "bottom"), ("x", "y", "w", "h")
SAMPLE = 50
"""Rows that are looked at to learn the columns."""
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Table:
    """How the columns of a CSV file are read."""

    delimiter: str
    columns: Mapping[str, int]
    """The place of each key of `COLUMNS` that is there."""
    has_header: bool


def look_csv(found: Listing) -> Layout | None:
    """CSV files whose columns are known and whose images are there; splits by column, file or folder."""
    files: dict[str, list[str]] = {}
    subsets: dict[str, list[str]] = {}
    for file in found.ending(".csv"):
        path = found.root / file
        table = table_of(path)
        if table is None:
            continue
        names = list(dict.fromkeys(row[table.columns["image"]] for row in islice(_rows(path, table), SAMPLE)))
        there = [name for name in names if found.find_file(name) or found.stems.find(name)]
        if len(there) < len(names) / 2 or not names:
            continue
        files[file] = names
        if "subset" in table.columns:
            values = dict.fromkeys(row[table.columns["subset"]] for row in _rows(path, table))
            subsets[file] = [value for value in values if split_of_name(value)]
    return layout_of_files(found, "csv", files, subsets)


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
    rest = ("image", "label", "width", "height", "subset")
    used = {
        key: columns[key] for key in (*kept, *rest) if key in columns and (key in kept or columns[key] not in taken)
    }
    return used if "image" in used and set(kept) <= set(used) else {}


def _first(names: Sequence[str], plain: Sequence[str]) -> str | None:
    return next((name for name in names if name in plain), None)


def _unnamed(rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """The columns by what stands in them: a file, four numbers beside each other, perhaps a class and a size.

    Numbers come as corners, but after the class and before the file (makesense) as left, top, width, height.
    """
    width = min(map(len, rows))
    cells = [[row[k].strip() for row in rows] for k in range(width)]
    image = next((k for k, own in enumerate(cells) if sum(map(_is_image, own)) > len(own) / 2), None)
    numeric = [all(_is_number(cell) for cell in own if cell) and any(own) for own in cells]
    if image is None:
        return {}
    subset = next((k for k, own in enumerate(cells) if all(c in ("TRAIN", "VALIDATION", "TEST") for c in own)), None)
    words = [k for k in range(width) if k not in (image, subset) and not numeric[k] and any(cells[k])]
    runs = _runs([k for k in range(width) if numeric[k]])
    automl = [k for k in range(width) if numeric[k]] if subset is not None else []
    four = automl if len(automl) == 4 else next((run for run in runs if len(run) >= 4), None)
    if four is None or len(words) > 1:
        return {}
    label = words[0] if words else four[4] if len(four) == 5 and four[4] > image else None
    box = four[:4] if len(four) < 6 else four[2:6]
    sizes = next((run for run in runs if len(run) == 2), four[:2] if len(four) == 6 else None)
    keys = SIZED if label is not None and label < box[0] < image else CORNERS
    columns = {"image": image, **dict(zip(keys, box, strict=True))}
    columns |= {"label": label} if label is not None else {}
    columns |= {"subset": subset} if subset is not None else {}
    return columns | (dict(zip(("width", "height"), sizes, strict=True)) if sizes else {})


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


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None


def _rows(path: Path, table: Table) -> Iterator[list[str]]:
    """The rows without the header, each with all columns that are read; DataError where the file is broken."""
    needed = max(table.columns.values()) + 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file, delimiter=table.delimiter)):
                if any(row) and not (number == 0 and table.has_header):
                    yield [cell.strip() for cell in row] + [""] * (needed - len(row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"broken annotation file: {path} cannot be read ({error}); save it as UTF-8 CSV") from None


def read_csv(
    root: Path,
    images: str,
    annotations: str,
    subset: str | None = None,
    *,
    categories: Categories | None = None,
    box_corners: bool = False,
) -> Tree:
    """The boxes of `root`/`annotations`, of one `subset` where said: edges in pixels counted from 0, or shares.

    A row with a file and no numbers is an image without boxes. Columns of corners in which right lies left of left are
    read as width and height where there is no header to say so. `box_corners`: four numbers of any column are corners.
    """
    path = root / annotations
    if not path.is_file():
        raise DataError(f"there is no annotation file {path}; check data.root and the file's name")
    table = table_of(path)
    if table is None:
        raise DataError(
            f"{path} has no columns of an image and a box; give it a header: filename,class,xmin,ymin,xmax,ymax"
        )
    columns = table.columns
    if subset is not None and "subset" not in columns:
        raise DataError(f"{path} has no column of splits for subset={subset}; give the file a column called split, or "
                        "remove 'subset' from the split's settings to read all rows")  # fmt: skip
    found = BoxList(path)
    boxes: list[tuple[str, str, list[float], str]] = []
    for number, row in enumerate(_rows(path, table), start=1 + table.has_header):
        if subset is not None and row[columns["subset"]] != subset:
            continue
        name, label = row[columns["image"]], row[columns["label"]] if "label" in columns else UNNAMED
        if not name:
            continue
        found.image(name, *(row[columns[key]] if key in columns else 0 for key in ("height", "width")))
        if "box" in columns:
            texts = NUMBER.findall(row[columns["box"]])
        else:
            texts = [row[columns[key]] for key in (CORNERS if "left" in columns else SIZED)]
        if not any(texts):
            continue  # an image without boxes
        if len(texts) != 4 or not all(map(_is_number, texts)) or not label:
            found.no_box(name, f"row {number} of {path.name}: {shown(some_of(texts, 6))} and class {shown(label)}")
            continue
        boxes.append((name, label, [float(text) for text in texts], f"row {number} of {path.name}"))
    corners = _add(found, boxes, table, box_corners)
    values = [v for _, _, box, _ in boxes for v in box]
    relative = all(-SLACK <= v <= 1 + SLACK for v in values) and any(v % 1 for v in values)
    what = "edges" if corners else "left, top, width and height"
    unit = "shares of the image" if relative else "pixels counted from 0"
    found.notices.append(f"the boxes of {path.name} are read as {what}, in {unit}")
    if "label" not in columns:
        found.notices.append(f"{path.name} has no column of classes; all boxes are '{UNNAMED}'")
    tree = found.tree(root / images, categories, relative)
    if not corners:
        written = np.array([box for _, _, box, _ in boxes], np.float64).reshape(-1, 4)
        written, edges = (written, np.ones((len(written), 2))) if relative else _in_pixels(tree)
        if look_like_corners(written, written, edges, SLACK if relative else ROUNDING):
            tree.faults.append(Fault(Kind.CORNERS, CORNERS_MEANT.format(path=path.name, read=what)))
    return tree


def _in_pixels(tree: Tree) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n 2"]]:
    """The boxes and the (width, height) of the image of each, which is measured where the file does not state it."""
    sizes: dict[int, tuple[int, int]] = {}
    for image in tree.content["images"]:
        size = image["height"], image["width"]
        if not all(size):
            try:
                size, _ = tree.sizes[image["id"]] = image_size(tree.folder / image["file_name"])
            except DataError:  # the check of the images says what is wrong with it
                continue
        sizes[image["id"]] = size[1], size[0]
    own = [(a["bbox"], sizes[a["image_id"]]) for a in tree.content["annotations"] if a["image_id"] in sizes]
    boxes, edges = ([row[k] for row in own] for k in range(2))
    return np.array(boxes, np.float64).reshape(-1, 4), np.array(edges, np.float64).reshape(-1, 2)


def _add(found: BoxList, boxes: Sequence[tuple[str, str, list[float], str]], table: Table, box_corners: bool) -> bool:
    """Add the boxes; whether they are corners."""
    corners = box_corners or "left" in table.columns
    inverted = sum(box[2] < box[0] or box[3] < box[1] for _, _, box, _ in boxes)
    if corners and not (table.has_header or box_corners) and inverted > len(boxes) / 50:
        corners = False
        found.notices.append(f"{inverted} of {len(boxes)} rows have a third number below the first: no corners")
    for name, label, (a, b, c, d), where in boxes:
        found.box(name, label, [a, b, c - a, d - b] if corners else [a, b, c, d], where)
    return corners


CSV = Format(
    "csv", look_csv, ("images", "annotations", "subset"), 2, read_csv, ("categories", "box_corners"),
    title="CSV files of boxes",
)  # fmt: skip
