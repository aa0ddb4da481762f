"""Images and boxes of one annotation file, on their way to a tree: shared by the readers of CVAT, VIA and CSV."""

from __future__ import annotations

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detr_mini.categories import Categories
from detr_mini.errors import DataError
from detr_mini.formats.box_rules import MOST_PIXELS, is_box
from detr_mini.formats.faults import Fault, Fix, Kind
from detr_mini.formats.listing import Listing, is_image_name, moved_notice, names_below
from detr_mini.formats.path_words import lies_apart, parts_of, spelling
from detr_mini.formats.tree import Tree, image_ids
from detr_mini.images.header import image_size
from detr_mini.safe_files import shown

UNNAMED = "object"
"""The class of boxes in a file that names no classes."""


@dataclass
class BoxList:
    """The images and boxes of one file; readers fill it, `tree` turns it into a split."""

    path: Path
    names: list[str] = field(default_factory=list)
    """Classes in the file's own order, where it lists them."""
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(height, width) of each image, by the name that the file gives it; 0 where it says nothing."""
    boxes: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def image(self, name: str, height: Any = 0, width: Any = 0) -> None:
        """An image, with or without boxes."""
        said = self.sizes.get(name) or (0, 0)
        self.sizes[name] = said if all(said) else (_whole(height), _whole(width))

    def box(self, image: str, label: str, xywh: Sequence[float], where: str, **extra: Any) -> bool:
        """A box [left, top, width, height] in pixels; `where` names its place in the file. False where it is none.

        A row with numbers that cannot be pixels, or without a class, is a fault.
        """
        self.image(image)
        name = unicodedata.normalize("NFC", label.strip())
        if not name or not is_box([*xywh]):
            self.no_box(image, f"{where}: {shown([*xywh])} and class {shown(label)}")
            return False
        self.boxes.append({"image": image, "label": name, "bbox": list(xywh), "where": where, **extra})
        return True

    def outline(
        self, image: str, label: str, xs: Sequence[float], ys: Sequence[float], where: str, **extra: Any
    ) -> None:
        """The upright box around an outline."""
        if self.box(image, label, [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], where, **extra):
            self.faults.append(Fault(Kind.OUTLINE, where, image, Fix.UPRIGHT_BOX))

    def no_box(self, image: str, text: str) -> None:
        """A row that is not a usable box."""
        self.faults.append(Fault(Kind.BAD_ROW, text, image, Fix.LEFT_OUT, boxes=1))

    def tree(self, folder: Path, categories: Categories | None, relative: bool = False) -> Tree:
        """The split, its images below `folder`. `relative`: boxes are shares of their image, not pixels.

        Names of `categories` keep their ids; others get the next ones, in the file's order or by name.
        """
        if not self.sizes:
            raise DataError(f"{self.path} lists no images of this split; check the file, or set the split to null")
        files = _files_of(list(self.sizes), folder)
        tree = Tree({"images": [], "annotations": [], "categories": []}, folder, self.path)
        listed = list(dict.fromkeys(files.values()))
        ids = dict(zip(listed, image_ids(listed), strict=True))
        said = {files[name]: size for name, size in self.sizes.items()}
        for file, image_id in ids.items():
            height, width = said[file]
            tree.content["images"].append({"id": image_id, "file_name": file, "height": height, "width": width})
        known = {} if categories is None else dict(zip(categories.names, categories.ids, strict=True))
        listed_names = [unicodedata.normalize("NFC", name) for name in self.names]
        for name in [*listed_names, *sorted({box["label"] for box in self.boxes})]:
            known.setdefault(name, max(known.values(), default=0) + 1)
        tree.content["categories"] += [{"id": i, "name": name} for name, i in known.items()]
        for number, box in enumerate(self.boxes, start=1):
            file, label = files[box.pop("image")], box.pop("label")
            if relative:
                box["bbox"] = _pixels(box["bbox"], said[file], tree, ids[file], folder / file)
            own = {"id": number, "image_id": ids[file], "category_id": known[label], "iscrowd": 0}
            tree.content["annotations"].append({**own, **box})
        tree.faults.extend(self.faults)
        tree.notices.extend(self.notices)
        moved = {old: new for old, new in files.items() if old != new and "/".join(parts_of(old)) != new}
        if moved:
            tree.notices.append(moved_notice(moved))
        return tree


def _whole(value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(number) if 0 <= number <= MOST_PIXELS else 0


def _files_of(names: Sequence[str], folder: Path) -> dict[str, str]:
    """The file below `folder` that each name means: itself, by the end of its path, or by its name without ending.

    As in `names_below`, an image is missing where its file is another one's, or two images claim it.
    """
    plain = {name: "/".join(parts_of(name)) for name in names}
    listing = Listing(folder)
    there = set(listing.files)
    missing = [name for name, own in plain.items() if own not in there]
    moved = names_below(listing, missing, names) if missing else {}
    bare: dict[str, str] = {}
    for name in missing:
        same = listing.stems.find(name) if name not in moved and not is_image_name(name) else []
        if len(same) == 1 and not lies_apart(plain[name], same[0], listing.folders):
            bare[plain[name]] = same[0]
    found: dict[str, str] = {}
    taken = {*there.intersection(plain.values()), *moved.values()}
    same_path = {own for own, file in bare.items() if spelling(own) == spelling(posixpath.splitext(file)[0])}
    for exact in (True, False):  # cam2/5.png is the image cam2/5 whatever else is called 5
        now = {own: file for own, file in bare.items() if file not in taken and (own in same_path) is exact}
        claims = Counter(now.values())
        found |= {own: file for own, file in now.items() if claims[file] == 1}
        taken |= set(now.values())
    return {name: moved.get(name) or found.get(own, own) for name, own in plain.items()}


def _pixels(shares: Sequence[float], said: tuple[int, int], tree: Tree, image_id: int, path: Path) -> list[float]:
    """Fractions of an image as pixels. They stay fractions if the image cannot be read; its check reports that."""
    if not all(said) and image_id not in tree.sizes:
        try:
            tree.sizes[image_id] = image_size(path)
        except DataError:
            return list(shares)
    height, width = said if all(said) else tree.sizes[image_id][0]
    return [float(v) * side for v, side in zip(shares, (width, height, width, height), strict=True)]
