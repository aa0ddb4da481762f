"""YOLO: a text file an image, a row a box: class index, then centre, width and height in [0, 1] of the image."""

from __future__ import annotations

import os
import posixpath
import re
from array import array
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from detr_mini.errors import DataError, some_of
from detr_mini.formats.box_rules import CORNERS, SLACK, look_like_corners
from detr_mini.formats.faults import Fault, Fix, Kind
from detr_mini.formats.listing import Listing, image_files, read_lines
from detr_mini.formats.tree import EXACT, Tree, first_of, image_ids
from detr_mini.formats.yolo_files import found_labels, is_number_text, looks_like_labels, unused_labels
from detr_mini.formats.yolo_names import (
    DataFile,
    find_data_file,
    is_index,
    lines_of,
    read_agreed_names,
    read_data_file,
)
from detr_mini.images.header import image_size
from detr_mini.safe_files import (
    MOST_LABELS,
    name_fault,
    read_text,
    reason,
    shown,
)

_SLACK = Decimal(str(SLACK))
_ULP = Decimal(2) ** -52
MOST_ROWS = 50_000
"""Boxes of one image."""
DEEPEST = 12
"""Folders of a path from another machine that are looked for below the root."""
_LONGEST_NUMBER = 100


def read_yolo(
    root: Path,
    images: str | Sequence[str],
    labels: str | None = None,
    names: str | None = None,
    *,
    box_corners: bool = False,
) -> Tree:
    """The images below `root`/`images` (a folder, a list file, or several) and their labels, boxes as xywh in pixels.

    A label file lies in `root`/`labels`, or where the last folder called images is called labels, or beside its image;
    the first that is there is used, else the one below `root`/`labels` that belongs to it (`listing.Pairs`). `names`:
    the data file below `root`; where None it is found, or classes are called by their numbers.
    `box_corners`: the four numbers of a row are left, top, right, bottom.
    """
    file = root / names if names else find_data_file(root)
    data = _numbered(root) if file is None else read_data_file(file) if names else read_agreed_names(root, file)
    files = _listed(root, [images] if isinstance(images, str) else list(images))
    found, places = found_labels(root, files, images, labels)
    poses = _Poses([there[0] for there in found if there], data.keypoints)
    written = array("d")
    tree = Tree({"images": [], "annotations": [], "categories": []}, root, data.path)
    category_ids = data.category_ids or {index: index for index in data.names}
    if missing := [data.names[index] for index in data.names if index not in category_ids]:
        raise DataError(f"{data.path}: category_ids has no id for {some_of(missing, 3)}; add one for each name, or "
                        "leave category_ids out")  # fmt: skip
    tree.content["categories"] += [{"id": category_ids[i], "name": n} for i, n in sorted(data.names.items())]
    file_names = [Path(os.path.relpath(path, root)).as_posix() for path in files]
    used = {label for there in found for label in there}
    for path, name, image_id, there in zip(files, file_names, image_ids(file_names), found, strict=True):
        record: dict[str, Any] = {"id": image_id, "file_name": name}
        tree.content["images"].append(record)
        if not there:
            tree.faults.append(Fault(Kind.NO_LABEL_FILE, f"{name} has none", name))
            continue
        label = there[0]
        if len(there) > 1:
            other = there[1]
            text = f"{Path(os.path.relpath(other, root)).as_posix()} is not used"
            certain = label.read_bytes() == other.read_bytes() or not looks_like_labels(other)
            tree.faults.append(Fault(Kind.TWO_LABEL_FILES, text, name, Fix.FIRST_FILE if certain else Fix.LEFT_OUT))
        try:
            tree.sizes[image_id] = image_size(path)
        except DataError:
            continue  # the check of the images says so
        record["height"], record["width"] = tree.sizes[image_id][0]
        where = Path(os.path.relpath(label, root)).as_posix()
        for numbers, index, place in _rows(label, where, name, data, poses, tree.faults):
            written.extend(map(float, numbers))
            x, y, w, h = numbers
            box = ((x + w) / 2, (y + h) / 2, w - x, h - y) if box_corners else numbers
            tree.content["annotations"].append(
                {
                    "id": len(tree.content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[index],
                    "bbox": pixels(box, record["width"], record["height"]),
                    "iscrowd": 0,
                    "where": place,
                }
            )
    if not box_corners and _look_like_corners(np.asarray(written).reshape(-1, 4)):
        tree.faults.append(Fault(Kind.CORNERS, CORNERS.format(path=data.path.name, read="centre, width and height")))
    tree.faults.extend(unused_labels(root, {path.parent for path in files}, places, used))
    return tree


def _look_like_corners(written: Float[np.ndarray, "n 4"]) -> bool:
    boxes = np.concatenate([written[:, :2] - written[:, 2:] / 2, written[:, 2:]], 1)
    return look_like_corners(written, boxes, np.ones((len(written), 2)), SLACK)


def _numbered(root: Path) -> DataFile:
    """Where no list of class names is: class_0, class_1 and so on, as many as the label files below `root` use."""
    found = Listing(root)
    labels = [file for file in found.ending(".txt") if found.stems.find(posixpath.splitext(file)[0])]
    rows = (line.split() for file in labels for line in read_lines(root / file))
    used = {words[0] for words in rows if len(words) >= 5 and all(map(is_number_text, words))}
    highest = max((int(word) for word in used if is_index(word) and len(word) < 5), default=0)
    return DataFile(root, {index: f"class_{index}" for index in range(highest + 1)}, {}, root)


def _listed(root: Path, entries: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for entry in entries:
        # the exports of one labelling service say ../train/images for what lies beside the data file
        path = first_of([root / entry, root / entry.removeprefix("../")])
        if path is None:
            raise DataError(f"there is no {root / entry}; check data.root and the images of the split")
        if path.is_dir():
            files += image_files(path)
        else:
            files += _files_in_list(path, root)
    unique = list(dict.fromkeys(Path(os.path.normpath(path)) for path in files))
    if not unique:
        raise DataError(f"there is no image in {', '.join(str(root / entry) for entry in entries)}; "
                        "give a split with images")  # fmt: skip
    return unique


def _files_in_list(path: Path, root: Path) -> list[Path]:
    """The images that a list file names, relative to itself or to `root`; of a path elsewhere the tail below `root`."""
    files = []
    listing: Listing | None = None
    for number, line in enumerate(map(str.strip, lines_of(path)), start=1):
        if not line:
            continue
        parts = [part for part in re.split(r"[\\/]", line) if part not in ("", ".")]
        last = range(max(0, len(parts) - DEEPEST), len(parts))
        tails = ["/".join(parts[k:]) for k in last if ".." not in parts[k:]]
        names = [
            (path.parent, line),
            (root, line),
            *((folder, tail) for tail in tails for folder in (root, path.parent)),
        ]
        usable = [(folder, name) for folder, name in names if not name_fault(name, folder, root)]
        if not usable:
            raise DataError(f"line {number} of {path} is {shown(line)}, which {name_fault(line, root, root)}; "
                            "list image files below the folder of the data")  # fmt: skip
        found = first_of(folder / name for folder, name in usable)
        if found is None:
            listing = listing or Listing(root)
            found = root / other if (other := listing.find_file(line)) else None
        files.append(found or root / usable[0][1])
    return files


def _rows(
    label: Path, where: str, image: str, data: DataFile, poses: _Poses, faults: list[Fault]
) -> Iterable[tuple[tuple[Decimal, ...], int, str]]:
    """(centre x, centre y, width, height), class index and place of each usable row."""
    try:
        lines = read_text(label, MOST_LABELS).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        text = f"{where} cannot be read ({reason(error)})"
        faults.append(Fault(Kind.BROKEN_FILE, text, image, Fix.LEFT_OUT))
        return
    if len(lines) > MOST_ROWS:
        text = f"{where} has {len(lines):,} rows, at most {MOST_ROWS:,} are read"
        faults.append(Fault(Kind.BROKEN_FILE, text, image, Fix.LEFT_OUT))
        return
    for number, line in enumerate(lines, start=1):
        words, place = line.split(), f"row {number} of {where}"
        if not words:
            continue
        values = _numbers(words)
        points = len(values) - 5 if poses.has(values) else 0
        values = values[:5] if points else values
        if not all(v.is_finite() for v in values) or not (len(values) == 5 or (len(values) >= 7 and len(values) % 2)):
            short = line.strip() if len(line) < 80 else f"{line.strip()[:77]}..."
            comma = "; numbers have a decimal point, not a comma" if "," in line else ""
            text = f"{place}: '{short}', {len(words)} numbers{comma}"
            faults.append(Fault(Kind.BAD_ROW, text, image, Fix.LEFT_OUT, boxes=1))
            continue
        # compared before it becomes an int: 1e5000000 would be one of five million digits
        if not 0 <= values[0] <= max(data.names) or values[0] != int(values[0]) or int(values[0]) not in data.names:
            known = f"{len(data.names)} names, {min(data.names)} to {max(data.names)}"
            text = f"{place}: {words[0][:80]}, but {data.path.name} has {known}"
            faults.append(Fault(Kind.CLASS_OUT_OF_RANGE, text, image, Fix.LEFT_OUT, boxes=1))
            continue
        if any(not -_SLACK <= v <= 1 + _SLACK for v in values[1:]):
            text = f"{place}: '{line.strip()[:80]}'"
            faults.append(Fault(Kind.VALUE_OUT_OF_RANGE, text, image, Fix.LEFT_OUT, boxes=1))
            continue
        if points:
            faults.append(Fault(Kind.KEYPOINTS, f"{place}: {points} numbers behind the box", image, Fix.BOX_ALONE))
        if len(values) > 5:
            faults.append(Fault(Kind.OUTLINE, f"{place}: {len(values) // 2} corners", image, Fix.UPRIGHT_BOX))
            xs, ys = values[1::2], values[2::2]
            left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
            values = [values[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        yield tuple(values[1:]), int(values[0]), place


def _numbers(words: Sequence[str]) -> list[Decimal]:
    """The numbers of a row; none where a word is no number."""
    try:
        return [Decimal(word[:_LONGEST_NUMBER]) for word in words]
    except InvalidOperation:
        return []


class _Poses:
    """Which rows are a box and its keypoints. `files`: the label files of the split; `keypoints`: see `DataFile`."""

    def __init__(self, files: Sequence[Path], keypoints: int) -> None:
        self.files, self.keypoints = files, keypoints

    def has(self, values: Sequence[Decimal]) -> bool:
        """Whether a row of the split is one: as `kpt_shape` says, else by a visibility of 2 or by all long rows."""
        if self.keypoints:
            return len(values) == 5 + self.keypoints
        return _may_be_pose(values) and (2 in values[7::3] or self.are_there)

    @cached_property
    def are_there(self) -> bool:
        """Whether each row longer than a box may be a pose, and all have the same number of keypoints.

        An outline along the edge of its image may look like a pose, too, but not all outlines of a split do.
        """
        lengths = set()
        for file in self.files:
            for line in _lines(file):
                values = _numbers(line.split())
                if len(values) > 5 and not _may_be_pose(values):
                    return False
                lengths.add(len(values) if len(values) > 5 else 0)
        return len(lengths - {0}) == 1


def _may_be_pose(values: Sequence[Decimal]) -> bool:
    """Whether a visibility, 0, 1 or 2, stands behind the place of each keypoint; an outline has shares there."""
    visible = values[7::3]
    return len(values) >= 11 and (len(values) - 5) % 3 == 0 and all(v.is_finite() and v in (0, 1, 2) for v in visible)


def _lines(label: Path) -> list[str]:
    """The lines of a label file, none where it cannot be read."""
    try:
        return read_text(label, MOST_LABELS).splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def pixels(box: Sequence[Decimal], width: int, height: int) -> list[float]:
    """(centre x, centre y, width, height) in [0, 1] to [left, top, width, height] in pixels, rounded once."""
    x, y, w, h = box
    half, multiply, subtract = Decimal("0.5"), EXACT.multiply, EXACT.subtract
    left, top = subtract(x, multiply(w, half)), subtract(y, multiply(h, half))
    return [float(multiply(v, side)) for v, side in ((left, width), (top, height), (w, width), (h, height))]


def fractions(box: Sequence[float], width: int, height: int) -> list[str]:
    """`pixels` backwards, as text: as few decimals as give the very same box back."""
    x, y, w, h = (Decimal(repr(v)) for v in box)
    sides = [(EXACT.divide(x, width), EXACT.divide(w, width)), (EXACT.divide(y, height), EXACT.divide(h, height))]
    wanted = [float(v) for v in box]
    extents = [(sides[0][1], width, w), (sides[1][1], height, h)]
    rough = [(float(share), side, float(extent)) for share, side, extent in extents]
    for digits in (4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 25, 30, 40):
        # whether the box comes back takes long to find out: most of these are ruled out by its width and height alone
        if digits < 14 and any(abs(round(share, digits) * side - extent) > 1e-6 for share, side, extent in rough):
            continue
        step = Decimal(1).scaleb(-digits)
        if any(
            abs(EXACT.quantize(share, step) * side - extent) > abs(extent) * _ULP for share, side, extent in extents
        ):
            continue
        # an edge at 0 comes back only where it is rounded itself, and the centre follows from it
        for edge_first in (False, True):
            (cx, wide), (cy, high) = [_rounded(low, extent, digits, edge_first) for low, extent in sides]
            if pixels([cx, cy, wide, high], width, height) == wanted:
                return [_short(format(v, "f")) for v in (cx, cy, wide, high)]
    raise DataError(
        f"the box {list(box)} has a value too small to write as text; correct the box; 'detr-mini data check' lists it"
    )


def _rounded(low: Decimal, extent: Decimal, digits: int, edge_first: bool) -> tuple[Decimal, Decimal]:
    """Centre and extent with `digits` decimals (one more for a centre that follows from a rounded edge)."""
    step, half = Decimal(1).scaleb(-digits), Decimal("0.5")
    rounded = EXACT.quantize(extent, step)
    if edge_first:
        return EXACT.add(EXACT.quantize(low, step), EXACT.multiply(rounded, half)), rounded
    return EXACT.quantize(EXACT.add(low, EXACT.multiply(extent, half)), step), rounded


def _short(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
