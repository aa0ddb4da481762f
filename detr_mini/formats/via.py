"""VGG Image Annotator (VIA 1 and 2): its project or annotations as JSON, or its CSV, where cells hold JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detr_mini.categories import Categories
from detr_mini.errors import DataError
from detr_mini.formats.box_list import UNNAMED, BoxList
from detr_mini.formats.box_rules import ellipse_edges
from detr_mini.formats.columns import any_json
from detr_mini.formats.format import Format
from detr_mini.formats.layout import Layout, layout_of_files
from detr_mini.formats.listing import NAMES, Listing, json_texts, read_start
from detr_mini.formats.tree import Tree
from detr_mini.safe_files import read_text, reason

CLASS_KEYS = ("class", "label", "name", "category", "type", "object")
"""Region attributes that are the class where there are several; else the one that most regions have."""
Region = tuple[str, Mapping[str, Any], Mapping[str, Any]]


def look_via(found: Listing) -> Layout | None:
    """JSON files with regions and shape attributes, or CSV files with such columns."""
    files: dict[str, list[str]] = {}
    for file in found.ending(".json"):
        start = read_start(found.root / file, 1 << 18)
        if b'"regions"' in start and (b'"shape_attributes"' in start or b'"file_attributes"' in start):
            files[file] = json_texts(start, "filename")
    for file in found.ending(".csv"):
        if b"region_shape_attributes" in read_start(found.root / file):
            files[file] = list(dict.fromkeys(name for name, _, _ in _rows(found.root / file)))[:NAMES]
    return layout_of_files(found, "via", files)


def read_via(root: Path, images: str, annotations: str, *, categories: Categories | None = None) -> Tree:
    """The regions of `root`/`annotations`: rectangles, and upright boxes around circles and outlines."""
    path = root / annotations
    found = BoxList(path)
    regions = list(_rows(path) if path.suffix.lower() == ".csv" else _records(path))
    key = _class_key([attributes for _, shape, attributes in regions if shape])
    for number, (name, shape, attributes) in enumerate(regions, start=1):
        found.image(name)
        if shape:
            _add(found, name, shape, _label(attributes, key), f"region {number} of {path.name}")
    if key is None and found.boxes:
        found.notices.append(f"the regions of {path.name} have no attribute for the class; all are '{UNNAMED}'")
    return found.tree(root / images, categories)


def _records(path: Path) -> Iterator[Region]:
    """Of a JSON file each region with its image; an image without regions once, with no shape."""
    content = any_json(path)
    content = content.get("_via_img_metadata", content) if isinstance(content, dict) else content
    records = list(content.values()) if isinstance(content, dict) else content if isinstance(content, list) else []
    for record in records:
        if not isinstance(record, dict) or not isinstance(record.get("filename"), str):
            raise DataError(f"broken annotation file: {path} has an entry without 'filename'; export it from VIA again")
        regions = record.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        yield record["filename"], {}, {}
        for region in regions if isinstance(regions, list) else []:
            if isinstance(region, dict):
                yield record["filename"], _dict(region.get("shape_attributes")), _dict(region.get("region_attributes"))


def _rows(path: Path) -> Iterator[Region]:
    """Of a CSV file each row: the image, the shape (none where it has no region), its attributes."""
    try:
        for row in csv.DictReader(io.StringIO(read_text(path), newline="")):
            cells = {str(key).lstrip("#").strip(): value for key, value in row.items()}
            if cells.get("filename"):
                cell = [_json(cells.get(key)) for key in ("region_shape_attributes", "region_attributes")]
                yield str(cells["filename"]), cell[0], cell[1]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"broken annotation file: {path} cannot be read ({reason(error)}); export it from VIA again") \
            from None  # fmt: skip


def _json(text: Any) -> Mapping[str, Any]:
    try:
        return _dict(json.loads(text or "{}"))
    except (TypeError, ValueError, RecursionError):
        return {"name": f"the text {str(text)[:40]!r}"}


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _class_key(attributes: list[Mapping[str, Any]]) -> str | None:
    """The region attribute that is the class."""
    counts = Counter(key for own in attributes for key, value in own.items() if value)
    usual = [key for word in CLASS_KEYS for key in counts if key.lower().startswith(word)]
    return usual[0] if usual else max(counts, key=lambda key: counts[key], default=None)


def _label(attributes: Mapping[str, Any], key: str | None) -> str:
    """A class: a text, a number, or the box that is ticked among several."""
    value = attributes.get(key) if key else UNNAMED
    if isinstance(value, dict):
        value = next((name for name, ticked in value.items() if ticked), "")
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _add(found: BoxList, image: str, shape: Mapping[str, Any], label: str, where: str) -> None:
    kind = str(shape.get("name", ""))
    try:
        if not label:
            raise ValueError("no class")
        if kind == "rect":
            found.box(image, label, [float(shape[key]) for key in ("x", "y", "width", "height")], where)
        elif kind in ("polygon", "polyline"):
            xs, ys = ([float(v) for v in shape[f"all_points_{axis}"]] for axis in "xy")
            found.outline(image, label, xs, ys, where)
        elif kind in ("circle", "ellipse"):
            x, y = float(shape["cx"]), float(shape["cy"])
            rx, ry = (float(shape.get(key, shape.get("r"))) for key in ("rx", "ry"))
            turned = math.degrees(float(shape.get("theta") or 0))
            found.outline(image, label, *ellipse_edges((x, y), (rx, ry), turned), where)
        else:
            raise ValueError(kind or "no shape")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        found.no_box(image, f"{where}: {kind or 'a region'} of which no box can be made ({error})")


VIA = Format("via", look_via, ("images", "annotations"), 2, read_via, title="VIA (JSON, CSV)")
