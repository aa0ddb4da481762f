"""The image records of a split against the files: what is missing, broken, turned, of another size, there twice."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torchvision.transforms.v2 import functional as F

from detr_mini.data.columns import is_number, is_whole
from detr_mini.data.decoding import room_for
from detr_mini.data.faults import Fault
from detr_mini.data.images import image_size, is_whole_file, load_image, needed_for, orientation_of
from detr_mini.data.safe_files import is_file, shown
from detr_mini.data.tree import Tree
from detr_mini.errors import DataError

SIDE = 16
"""Pixels of the small grey copy by which pictures that were saved anew or made smaller are known again."""
ALIKE = 1.5
"""Mean difference (of 255) of two such copies of one picture: saved anew at low quality it is about 0.3."""
FLAT = 8.0
"""A copy with a standard deviation below this says nothing: two empty pictures need not be one."""
_AT_ONCE = 1024


@dataclass(frozen=True)
class Picture:
    """What was found in an image file."""

    size: tuple[int, int]
    """(height, width) upright."""
    orientation: int
    digest: bytes
    """Of the pixels (of the file's bytes where pixels are not looked at)."""
    small: np.ndarray | None
    """(SIDE, SIDE) grey."""


def look_at(path: Path, pixels: bool) -> Picture:
    """Read a file; DataError where it is no image, or cut off."""
    size, _ = image_size(path)
    if not pixels:
        if not is_whole_file(path):
            load_image(path)  # says what is wrong, if anything is
        return Picture(size, orientation_of(path), hashlib.blake2b(path.read_bytes(), digest_size=16).digest(), None)
    with room_for(needed_for(path), path):  # until the picture is gone: eight threads look at eight of them
        image = load_image(path)
        digest = hashlib.blake2b(image.numpy().data, digest_size=16)
        digest.update(repr(tuple(image.shape)).encode())
        grey = image[0].float().add_(image[1]).add_(image[2]).div_(3)
        small = F.resize(grey[None], [SIDE, SIDE], antialias=True)[0].numpy()
    return Picture(tuple(image.shape[1:]), orientation_of(path), digest.digest(), small)  # type: ignore[arg-type]


def checked_records(tree: Tree, split: str, faults: list[Fault]) -> dict[int, dict[str, Any]]:
    """The usable image records by id."""
    found: dict[int, dict[str, Any]] = {}
    by_name: dict[str, int] = {}
    for number, image in enumerate(tree.content["images"], start=1):
        image_id, name = image.get("id"), image.get("file_name")
        place = f"{split}: image number {number} of {tree.path.name}"
        if not is_whole(image_id) or not isinstance(name, str) or not name:
            known = {key: image.get(key) for key in ("id", "file_name")}
            image_name = name if isinstance(name, str) else ""
            faults.append(Fault("image record incomplete", f"{place}: {shown(known)}", image_name, "left out"))
        elif image_id in found:
            other = found[image_id]["file_name"]
            faults.append(Fault("image id twice", f"{place}: id {image_id} is {other} and {name}", name, "left out"))
        elif name in by_name:
            text = f"{split}: {name}, ids {by_name[name]} and {image_id}"
            faults.append(Fault("image listed twice", text, name, "boxes go to the first"))
            image["same as"] = by_name[name]
            found[image_id] = image
        else:
            by_name[name] = image_id
            found[image_id] = image
    if not tree.content["images"]:
        faults.append(Fault("empty split", f"{split}: {tree.path.name} lists no images"))
    bases = defaultdict(set)
    for name in by_name:
        bases[PurePosixPath(name).name].add(name)
    faults += [
        Fault("same name in different folders", f"{split}: {', '.join(sorted(names))}", min(names))
        for names in bases.values()
        if len(names) > 1
    ]
    return found


def checked_files(
    tree: Tree, split: str, records: Mapping[int, dict[str, Any]], faults: list[Fault], pixels: bool
) -> dict[int, Picture]:
    """What the records' files hold, by id; those that are missing or broken are left out."""
    from rich.progress import track

    chosen = [(i, record) for i, record in records.items() if "same as" not in record]
    found: dict[int, Picture] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(lambda item: _look(tree.folder / item[1]["file_name"], pixels), chosen)
        if len(chosen) > 200:
            looks = iter(track(looks, f"Looking at the {split} images", total=len(chosen), transient=True))
        for (image_id, record), picture in zip(chosen, looks, strict=True):
            name = record["file_name"]
            if isinstance(picture, str):
                kind = "unreadable image" if picture else "image file missing"
                text = f"{split}: {picture}" if picture else f"{split}: {name} is not in {tree.folder}"
                faults.append(Fault(kind, text, name, "left out"))
                continue
            found[image_id] = picture
            _check_size(record, picture, split, faults)
    return found


def _look(path: Path, pixels: bool) -> Picture | str:
    """The picture, or why there is none ("": there is no file)."""
    if not is_file(path):
        return ""
    try:
        return look_at(path, pixels)
    except DataError as error:
        return str(error)


def _check_size(record: dict[str, Any], picture: Picture, split: str, faults: list[Fault]) -> None:
    name, size = record["file_name"], picture.size
    said = (record.get("height"), record.get("width"))
    usable = all(is_number(v) and v > 0 for v in said)  # type: ignore[operator]
    turned = picture.orientation >= 5
    text = f"{split}: {name} is {size[1]} x {size[0]} pixels"
    if usable and said != size:
        if turned and said == (size[1], size[0]):
            mend = "boxes turned with the picture"
            kind = "size before turning upright"
        else:
            same_shape = abs(said[0] * size[1] - said[1] * size[0]) <= 0.01 * size[0] * size[1]  # type: ignore[operator]
            mend = "boxes scaled" if same_shape else "left out"
            kind = "size differs from the record"
        record["mend"] = mend
        faults.append(Fault(kind, f"{text}, said to be {said[1]} x {said[0]}", name, mend))
    elif picture.orientation != 1:
        faults.append(Fault("orientation flag", f"{text} upright, orientation {picture.orientation}", name))


def upright_box(box: Sequence[float | int], orientation: int, stored: tuple[int, int]) -> list[float | int]:
    """An xywh box on the stored pixels (height, width) where it is on the upright image, by EXIF orientation."""
    x, y, w, h = box
    height, width = stored
    right, below = width - x - w, height - y - h
    return {
        2: [right, y, w, h],
        3: [right, below, w, h],
        4: [x, below, w, h],
        5: [y, x, h, w],
        6: [below, x, h, w],
        7: [below, right, h, w],
        8: [y, right, h, w],
    }.get(orientation, [x, y, w, h])


def same_pictures(pictures: Sequence[Picture]) -> list[tuple[int, int, str]]:
    """(earlier, later, how alike) of pictures that show the same: by pixels, or saved anew or made smaller."""
    first: dict[bytes, int] = {}
    pairs = []
    for index, picture in enumerate(pictures):
        if picture.digest in first:
            pairs.append((first[picture.digest], index, "the very same pixels"))
        first.setdefault(picture.digest, index)
    shown = [i for i in sorted(first.values()) if (s := pictures[i].small) is not None and s.std() > FLAT]
    if len(shown) > 1:
        small = np.stack([pictures[i].small for i in shown]).reshape(len(shown), -1)  # type: ignore[misc]
        pairs += [(shown[a], shown[b], "the same, saved anew") for a, b in _near(small)]
    return sorted(pairs, key=lambda pair: pair[1])


def alike(files: Iterable[tuple[int, Path]], skip_broken: bool = False) -> dict[int, int]:
    """Of each (id, image file) that shows the same as an earlier one, that one.

    DataError for a file that cannot be decoded, or it is taken for one of a kind (`skip_broken`).
    """
    ids, pictures = list[int](), list[Picture]()
    for image_id, path in files:
        try:
            pictures.append(look_at(path, True))
            ids.append(image_id)
        except DataError:
            if not skip_broken:
                raise
    leader: dict[int, int] = {}
    for one, two, _ in same_pictures(pictures):
        leader.setdefault(ids[two], leader.get(ids[one], ids[one]))
    return leader


def _near(small: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows whose mean absolute difference is below ALIKE, each later row once."""
    mean, squares = small.mean(1), (small**2).sum(1)
    order = np.argsort(mean, kind="stable")
    earliest: dict[int, int] = {}
    for begin in range(0, len(order), _AT_ONCE):
        rows = order[begin : begin + _AT_ONCE]
        # pictures alike are alike in their mean: only those that follow closely can be meant
        end = int(np.searchsorted(mean[order], mean[rows[-1]] + ALIKE, side="right"))
        for low in range(begin, end, 8 * _AT_ONCE):
            others = order[low : min(low + 8 * _AT_ONCE, end)]
            squared = squares[rows][:, None] + squares[others][None] - 2 * small[rows] @ small[others].T
            for a, b in np.argwhere(squared < (2 * ALIKE) ** 2 * small.shape[1]).tolist():
                one, two = sorted((int(rows[a]), int(others[b])))
                if one != two and np.abs(small[one] - small[two]).mean() < ALIKE:
                    earliest[two] = min(one, earliest.get(two, one))
    return [(one, two) for two, one in earliest.items()]
