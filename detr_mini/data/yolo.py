"""YOLO: a text file an image, a row a box: class index, then centre, width and height in [0, 1] of the image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from detr_mini.data.faults import Fault
from detr_mini.data.images import image_size
from detr_mini.data.tree import EXACT, Tree, first_of, image_files, image_ids, is_image_name
from detr_mini.errors import DataError, some_of

SLACK = Decimal("0.01")
"""A value by so much outside 0 to 1 is a rounding error; more is another unit."""
NAME_LISTS = ("classes.txt", "obj.names", "_darknet.labels", "names.txt")


@dataclass(frozen=True)
class DataFile:
    """What a YOLO data file (YAML) says."""

    path: Path
    names: dict[int, str]
    splits: dict[str, list[str]]
    """Of train, val and test those that are said: folders or list files, relative to `base`."""
    base: Path
    stated: int | None = None
    """`nc`, the number of classes, where it is said."""
    category_ids: dict[int, int] | None = None
    """The ids that the classes had before this tree was made (our own writer's)."""


def find_data_file(root: Path) -> Path | None:
    """The YAML file in `root` that has `names`, or a list of names."""
    usual = [root / name for name in ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")]
    others = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    for path in dict.fromkeys([*usual, *others]):
        if path.is_file() and any(line.startswith("names") for line in _lines(path)):
            return path
    return first_of(root / name for name in NAME_LISTS)


def read_data_file(path: Path) -> DataFile:
    """Names and splits. All text stays text: the names yes, no, on and 012 are no booleans and no numbers."""
    if path.suffix not in (".yaml", ".yml"):
        return DataFile(path, dict(enumerate(filter(None, map(str.strip, _lines(path))))), {}, path.parent)
    import yaml

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}; check data.root and data.train.names") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}); mend its YAML") from None
    given = content.get("names") if isinstance(content, dict) else None
    pairs = (
        list(given.items()) if isinstance(given, dict) else list(enumerate(given)) if isinstance(given, list) else []
    )
    if not pairs:
        raise DataError(f"{path} has no names; add 'names: [first, second]', the class names in order")
    for index, name in pairs:
        if not str(index).isdecimal() or not isinstance(name, str) or not name.strip():
            raise DataError(f"{path} has the name {name!r} for the class {index!r}; a name is text and its class a "
                            "whole number from 0")  # fmt: skip
    splits = {key: _as_list(content[key]) for key in ("train", "val", "test") if content.get(key)}
    said = Path(str(content.get("path") or "."))
    base = first_of([path.parent / said]) or path.parent
    stated = content.get("nc")
    ids = content.get("category_ids")
    return DataFile(
        path,
        {int(index): name.strip() for index, name in pairs},
        splits,
        base,
        int(stated) if isinstance(stated, str) and stated.isdecimal() else None,
        {int(k): int(v) for k, v in ids.items()} if isinstance(ids, dict) else None,
    )


def _as_list(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def read_yolo(root: Path, images: str | Sequence[str], labels: str | None = None, names: str | None = None) -> Tree:
    """The images below `root`/`images` (a folder, a list file, or several) and their labels, boxes as xywh in pixels.

    A label file lies in `root`/`labels`, or where the last folder called images is called labels, or beside its image;
    the first that is there is used. `names`: the data file below `root`; found where None.
    """
    file = root / names if names else find_data_file(root)
    if file is None:
        raise DataError(f"there is no data file in {root}; add data.yaml with 'names: [first, second]', the class "
                        "names in order")  # fmt: skip
    data = read_data_file(file)
    files = _listed(root, [images] if isinstance(images, str) else list(images))
    tree = Tree({"images": [], "annotations": [], "categories": []}, root, file)
    category_ids = data.category_ids or {index: index for index in data.names}
    if missing := [data.names[index] for index in data.names if index not in category_ids]:
        raise DataError(f"{file}: category_ids has no id for {some_of(missing, 3)}; add one for each name, or leave "
                        "category_ids out")  # fmt: skip
    tree.content["categories"] += [{"id": category_ids[i], "name": n} for i, n in sorted(data.names.items())]
    file_names = [Path(os.path.relpath(path, root)).as_posix() for path in files]
    used, places = set[Path](), set[Path]()
    for path, name, image_id in zip(files, file_names, image_ids(file_names), strict=True):
        record: dict[str, Any] = {"id": image_id, "file_name": name}
        tree.content["images"].append(record)
        candidates = label_files(path, root, labels, _base_of(path, root, images))
        label = first_of(candidates)
        places.update(candidate.parent for candidate in candidates)
        used.update(candidate for candidate in candidates if candidate.exists())
        if sum(candidate.exists() for candidate in candidates) > 1:
            other = next(c for c in candidates if c.exists() and c != label)
            text = f"{Path(os.path.relpath(other, root)).as_posix()} is not used"
            tree.faults.append(Fault("two label files for one image", text, name, "left out"))
        if label is None:
            tree.faults.append(Fault("image without label file", f"{name} has none", name, "an empty one"))
            continue
        try:
            tree.sizes[image_id] = image_size(path)
        except DataError:
            continue  # the check of the images says so
        record["height"], record["width"] = tree.sizes[image_id][0]
        where = Path(os.path.relpath(label, root)).as_posix()
        for box, index, place in _rows(label, where, name, data, tree.faults):
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
    tree.faults.extend(_unused_labels(root, {path.parent for path in files}, places, used))
    return tree


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
            lines = [line.strip() for line in _lines(path) if line.strip()]
            files += [first_of([path.parent / line, root / line]) or root / line for line in lines]
    unique = list(dict.fromkeys(Path(os.path.normpath(path)) for path in files))
    if not unique:
        raise DataError(f"there is no image in {', '.join(str(root / entry) for entry in entries)}; "
                        "give a split with images")  # fmt: skip
    return unique


def _base_of(path: Path, root: Path, images: str | Sequence[str]) -> Path:
    """The folder of the split that an image lies in."""
    folders = [root / entry for entry in ([images] if isinstance(images, str) else images)]
    return next((folder for folder in folders if folder.is_dir() and path.is_relative_to(folder)), path.parent)


def label_files(image: Path, root: Path, labels: str | None, base: Path) -> list[Path]:
    """Where the labels of an image may lie, most likely first."""
    candidates = []
    if labels is not None:
        below = image.relative_to(base) if image.is_relative_to(base) else Path(image.name)
        candidates.append((root / labels / below).with_suffix(".txt"))
    candidates += [_swapped(image.parent, "images", "labels") / f"{image.stem}.txt", image.with_suffix(".txt")]
    return list(dict.fromkeys(candidates))


def _rows(
    label: Path, where: str, image: str, data: DataFile, faults: list[Fault]
) -> Iterable[tuple[tuple[Decimal, ...], int, str]]:
    """(centre x, centre y, width, height), class index and place of each usable row."""
    try:
        lines = label.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        faults.append(
            Fault("broken annotation file", f"{where} cannot be read ({error})", image, "as if it had no boxes")
        )
        return
    for number, line in enumerate(lines, start=1):
        words, place = line.split(), f"row {number} of {where}"
        if not words:
            continue
        try:
            values = [Decimal(word) for word in words]
        except InvalidOperation:
            values = []
        if not all(v.is_finite() for v in values) or not (len(values) == 5 or (len(values) >= 7 and len(values) % 2)):
            shown = line.strip() if len(line) < 80 else f"{line.strip()[:77]}..."
            faults.append(Fault("row that is no box", f"{place}: '{shown}', {len(words)} numbers", image, "left out"))
            continue
        if values[0] != values[0].to_integral_value() or int(values[0]) not in data.names:
            known = f"{len(data.names)} names, {min(data.names)} to {max(data.names)}"
            faults.append(
                Fault(
                    "class index out of range",
                    f"{place}: {words[0]}, but {data.path.name} has {known}",
                    image,
                    "left out",
                )
            )
            continue
        if any(not -SLACK <= v <= 1 + SLACK for v in values[1:]):
            faults.append(Fault("value outside 0 to 1", f"{place}: '{line.strip()[:80]}'", image, "left out"))
            continue
        if len(values) > 5:
            faults.append(
                Fault(
                    "box given as an outline",
                    f"{place}: {len(values) // 2} corners",
                    image,
                    "the upright box around it",
                )
            )
            xs, ys = values[1::2], values[2::2]
            left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
            values = [values[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        yield tuple(values[1:]), int(values[0]), place


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
    for digits in (4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 25, 30, 40):
        # an edge at 0 comes back only where it is rounded itself, and the centre follows from it
        for edge_first in (False, True):
            (cx, wide), (cy, high) = [_rounded(low, extent, digits, edge_first) for low, extent in sides]
            if pixels([cx, cy, wide, high], width, height) == wanted:
                return [_short(format(v, "f")) for v in (cx, cy, wide, high)]
    raise DataError(f"the box {list(box)} has a value too small for text; mend it: 'detr-mini data check' names it")


def _rounded(low: Decimal, extent: Decimal, digits: int, edge_first: bool) -> tuple[Decimal, Decimal]:
    """Centre and extent with so many decimals (one more for a centre that follows from a rounded edge)."""
    step, half = Decimal(1).scaleb(-digits), Decimal("0.5")
    rounded = EXACT.quantize(extent, step)
    if edge_first:
        return EXACT.add(EXACT.quantize(low, step), EXACT.multiply(rounded, half)), rounded
    return EXACT.quantize(EXACT.add(low, EXACT.multiply(extent, half)), step), rounded


def _short(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _unused_labels(root: Path, images: set[Path], places: set[Path], used: set[Path]) -> list[Fault]:
    """The label files in `places` that belong to no image, of this split or another one."""
    faults = []
    for folder in sorted(place for place in places if place.is_dir()):
        stems: set[str] | None = None
        for path in sorted(folder.glob("*.txt")):
            if path in used or path.name in NAME_LISTS or not _looks_like_labels(path):
                continue
            if stems is None:
                around = {folder, _swapped(folder, "labels", "images"), *images}
                stems = {f.stem for place in around if place.is_dir() for f in place.iterdir() if is_image_name(f.name)}
            if path.stem not in stems:
                name = Path(os.path.relpath(path, root)).as_posix()
                faults.append(Fault("label file without image", f"{name} belongs to no image", name, "left out"))
    return faults


def _swapped(path: Path, old: str, new: str) -> Path:
    """`path` with the last folder called `old` called `new`."""
    parts = list(path.parts)
    places = [i for i, part in enumerate(parts) if part == old]
    if places:
        parts[places[-1]] = new
    return Path(*parts)


def _looks_like_labels(path: Path) -> bool:
    lines = [line.split() for line in _lines(path)[:5] if line.strip()]
    return all(len(words) >= 4 and all(_is_number(word) for word in words) for words in lines)


def _is_number(word: str) -> bool:
    try:
        Decimal(word)
    except InvalidOperation:
        return False
    return True


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; check data.root and the names of the split") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from None
