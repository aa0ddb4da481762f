"""CSV files of boxes: a row a box; `csv_columns` tells which column is what."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from detr_mini.categories import Categories
from detr_mini.errors import DataError, some_of
from detr_mini.formats.box_list import UNNAMED, BoxList
from detr_mini.formats.box_rules import CORNERS as CORNERS_MEANT
from detr_mini.formats.box_rules import ROUNDING, SLACK, look_like_corners
from detr_mini.formats.csv_columns import CORNERS, NUMBER, SAMPLE, SIZED, Table, is_number, table_of
from detr_mini.formats.faults import Fault, Kind
from detr_mini.formats.format import Format
from detr_mini.formats.layout import Layout, by_subset, layout_of_files
from detr_mini.formats.listing import Listing, read_lines
from detr_mini.formats.tree import Tree
from detr_mini.images.header import image_size
from detr_mini.safe_files import files_in, shown

YES = ("1", "1.0", "true")
CODES = ("/m/", "/g/")
"""How Open Images' codes of its classes begin."""


class _Row(NamedTuple):
    """A box as it is written."""

    image: str
    label: str
    box: list[float]
    where: str
    crowd: bool


def look_csv(found: Listing) -> Layout | None:
    """CSV files whose columns are known and whose images are there; splits by column, file or folder."""
    files: dict[str, list[str]] = {}
    subsets: dict[str, dict[str, list[str]]] = {}
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
            subset, image = table.columns["subset"], table.columns["image"]
            subsets[file] = by_subset((row[subset], row[image]) for row in _rows(path, table))
    return layout_of_files(found, "csv", files, subsets)


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
    boxes: list[_Row] = []
    unassigned = 0
    for number, row in enumerate(_rows(path, table), start=1 + table.has_header):
        if subset is not None and row[columns["subset"]] != subset:
            unassigned += not row[columns["subset"]]
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
        if len(texts) != 4 or not all(map(is_number, texts)) or not label:
            found.no_box(name, f"row {number} of {path.name}: {shown(some_of(texts, 6))} and class {shown(label)}")
            continue
        crowd = "crowd" in columns and row[columns["crowd"]].lower() in YES
        boxes.append(_Row(name, label, [float(text) for text in texts], f"row {number} of {path.name}", crowd))
    if unassigned:
        found.notices.append(f"{unassigned} rows of {path.name} name no split and are left out")
    boxes = _with_names(found, boxes, {root, path.parent})
    corners = _add(found, boxes, table, box_corners)
    values = [v for row in boxes for v in row.box]
    relative = all(-SLACK <= v <= 1 + SLACK for v in values) and any(v % 1 for v in values)
    what = "edges" if corners else "left, top, width and height"
    unit = "shares of the image" if relative else "pixels counted from 0"
    found.notices.append(f"the boxes of {path.name} are read as {what}, in {unit}")
    if "label" not in columns:
        found.notices.append(f"{path.name} has no column of classes; all boxes are '{UNNAMED}'")
    tree = found.tree(root / images, categories, relative)
    if not corners:
        written = np.array([row.box for row in boxes], np.float64).reshape(-1, 4)
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


def _with_names(found: BoxList, boxes: list[_Row], folders: Iterable[Path]) -> list[_Row]:
    """The boxes with the names of their classes in place of Open Images' codes, by the lists that come with it."""
    codes = {row.label for row in boxes}
    if not codes or not all(code.startswith(CODES) for code in codes):
        return boxes
    names: dict[str, str] = {}
    for file in sorted({file for folder in folders for file in files_in(folder, ".csv")}):
        if "class-descriptions" in file.name:
            with suppress(csv.Error):
                names |= {row[0]: row[1] for row in csv.reader(read_lines(file)) if len(row) > 1 and row[1].strip()}
    if unnamed := codes - set(names):
        found.notices.append(
            f"{len(unnamed)} classes of {found.path.name} are codes of Open Images, for example {min(unnamed)}; put "
            "its file class-descriptions-boxable.csv beside it to read their names"
        )
    return [row._replace(label=names.get(row.label, row.label)) for row in boxes]


def _add(found: BoxList, boxes: Sequence[_Row], table: Table, box_corners: bool) -> bool:
    """Add the boxes; whether they are corners."""
    corners = box_corners or "left" in table.columns
    inverted = sum(row.box[2] < row.box[0] or row.box[3] < row.box[1] for row in boxes)
    if corners and not (table.has_header or table.has_vertices or box_corners) and inverted > len(boxes) / 50:
        corners = False
        found.notices.append(f"{inverted} of {len(boxes)} rows have a third number below the first: no corners")
    for row in boxes:
        a, b, c, d = row.box
        if table.has_vertices:
            a, b, c, d = min(a, c), min(b, d), max(a, c), max(b, d)
        xywh = [a, b, c - a, d - b] if corners else [a, b, c, d]
        found.box(row.image, row.label, xywh, row.where, iscrowd=int(row.crowd))
    return corners


CSV = Format(
    "csv", look_csv, ("images", "annotations", "subset"), 2, read_csv, ("categories", "box_corners"),
    title="CSV files of boxes",
)  # fmt: skip
