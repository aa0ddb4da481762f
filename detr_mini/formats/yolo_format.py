"""YOLO datasets: recognised by label files, class names and splits with paths from anywhere; written."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detr_mini.errors import DataError
from detr_mini.formats.box_rules import SLACK, BoxFault, clip_boxes, rotation_of, upright
from detr_mini.formats.format import Format
from detr_mini.formats.layout import Layout, by_split
from detr_mini.formats.listing import Listing, is_image_name, read_lines
from detr_mini.formats.path_words import (
    SPLIT_WORDS,
    parts_of,
    shared_folder,
    split_of,
    split_of_name,
    stem_of,
)
from detr_mini.formats.tree import Tree, with_one_list
from detr_mini.formats.writing import (
    left_out,
    one_of_each_file,
    owned_by_file,
    place_images,
    unlabelled,
    written_names,
)
from detr_mini.formats.yolo import fractions, read_yolo
from detr_mini.formats.yolo_files import label_files
from detr_mini.formats.yolo_names import (
    NAME_LISTS,
    NOTES,
    USUAL,
    DataFile,
    check_names_agree,
    has_names,
    lines_of,
    read_data_file,
)

PEEKED = 20
"""Label files of a folder that are opened to learn what the folder holds, and images whose labels are looked for."""
_KEYS = "|".join(["nc", *(word for known in SPLIT_WORDS.values() for word in known)])
_SPLIT_KEY = re.compile(rf"""(['"]?)(?:{_KEYS})\1\s*:""")
_NUMBER = re.compile(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?")


def look_yolo(found: Listing) -> Layout | None:
    """Text files of rows of numbers, named like images; splits by the data file, by lists of images, or by folder."""
    labels = label_paths(found)
    yamls = [file for file in found.ending(".yaml", ".yml") if _is_data_file(found.root / file, bool(labels))]
    if not labels and not yamls:
        return None
    try:
        data, others = name_files(found, labels, yamls)
    except DataError:
        if labels:
            raise
        return None  # nothing else says that it is meant for YOLO, and the folder may have another format
    if data and labels:
        check_names_agree(data, others)
    entries = {**darknet_splits(found), **(data.splits if data else {})} or listed_splits(found)
    splits, notes = _places(found, entries, data)
    for name, own in by_split(labels).items():
        images, count = found.images_of(own, name)
        if count and splits and name not in splits and not _is_taken(images, splits, found):
            splits[name] = {"images": images or "."}
            if entries:
                source = data.path.name if data else "the data file"
                notes.append(f"{name}: {source} does not lead to it; found by its name at {images or 'the root'}")
    if labels and "train" not in splits:
        by_folder = by_split(labels).items()
        splits = {name: {"images": _image_folders(found, files, name)} for name, files in by_folder} | splits
    if not splits and found.images:
        splits = {"train": {"images": shared_folder(found.images) or "."}}
    stems = {stem_of(label) for label in labels}
    if left := _unused(found, labels, splits):
        notes.append(f"{len(left):,} label files, for example {left[0]}, belong to images of no split and are not used")
    for name, split in splits.items():
        notes += _with_labels(found, name, split, labels, stems)
        if data:
            split["names"] = _relative(data.path, found)
    if data:
        notes.insert(0, f"the {len(data.names)} class names come from {_relative(data.path, found)}")
    else:
        notes.insert(0, "no list of class names: classes are called class_0, class_1 and so on; write their names, one "
                        "a line, to classes.txt to change that")  # fmt: skip
    ordered = {name: splits[name] for name in SPLIT_WORDS if name in splits}
    return Layout("yolo", ordered, tuple(notes), len(labels)) if ordered else None


def _image_folders(found: Listing, labels: Sequence[str], split: str) -> str | list[str]:
    """The folder of a split's images; several where one that holds them all would hold those of other splits, too."""
    folder, _ = found.images_of(labels, split)
    inside = f"{folder}/" if folder else ""
    places = {posixpath.dirname(image) for image in found.images}
    if all(split_of(place) in (split, None) for place in places if f"{place}/".startswith(inside)):
        return folder or "."
    own = {posixpath.dirname(i) for label in labels for i in found.stems.find(posixpath.splitext(label)[0])}
    own = {place for place in own if split_of(place) in (split, None)}
    return folder or "." if "" in own or not own else sorted(own)  # the root holds all


def label_paths(found: Listing) -> list[str]:
    """The text files that are named like an image and lie in a folder of rows of numbers."""
    folders: dict[str, list[str]] = {}
    for file in found.ending(".txt"):
        if found.stems.find(posixpath.splitext(file)[0]) and posixpath.basename(file) not in NAME_LISTS:
            folders.setdefault(posixpath.dirname(file), []).append(file)
    return [file for folder, files in folders.items() if _holds_labels(found, folder, files) for file in files]


def _holds_labels(found: Listing, folder: str, files: Sequence[str]) -> bool:
    samples = [read_lines(found.root / file)[:5] for file in files[:PEEKED]]
    written = [lines for lines in samples if lines]
    if not written:
        return "labels" in folder.split("/")
    return sum(all(_is_row(line) for line in lines) for lines in written) > len(written) / 2


def _is_row(line: str) -> bool:
    """Whether a line looks like a class and numbers; commas for points are the reader's to judge.

    A name in place of the class is, too, but not in KITTI's rows: "Car 0.00 0 ..." of 15 or 16 words, "P0: 721.5 ...".
    """
    words = line.split()
    if len(words) < 5:
        return False
    is_kitti = len(words) in (15, 16) or words[0].endswith(":")
    return all(_NUMBER.fullmatch(word) for word in (words if is_kitti else words[1:]))


def name_files(found: Listing, labels: Sequence[str], yamls: Sequence[str]) -> tuple[DataFile | None, list[DataFile]]:
    """The data file or list of class names that counts, and all others that speak of the same labels."""
    yamls = [file for file in yamls if file.count("/") == min(f.count("/") for f in yamls)]
    if len({posixpath.dirname(file) for file in yamls}) > 1:
        raise DataError(f"{found.root} holds several datasets ({', '.join(yamls[:5])}); set data.root to the folder of "
                        f"one, such as data.root={found.root / posixpath.dirname(yamls[0])}")  # fmt: skip
    yamls.sort(key=lambda file: (file not in USUAL, file))
    homes = {posixpath.dirname(label) for label in labels}
    homes |= {posixpath.dirname(home) for home in homes} | {"", *map(posixpath.dirname, yamls)}
    lists = [file for file in found.files if posixpath.dirname(file) in homes and _is_name_list(file)]
    lists.sort(key=lambda file: (file.count("/"), file.endswith(".json"), file))
    read = [read_data_file(found.root / file) for file in yamls]
    for file in lists:
        try:
            read.append(read_data_file(found.root / file))
        except DataError:
            continue  # labels.txt or notes.json may be about something else
    return (read[0], read[1:]) if read else (None, [])


def _is_name_list(file: str) -> bool:
    name = posixpath.basename(file).lower()
    return name in (*NAME_LISTS, NOTES) or name.endswith(".names")


def _is_data_file(path: Path, labelled: bool) -> bool:
    """Whether a YAML file has names of classes. Where there are no labels it says splits or the number of classes, too:
    other programs have keys called names."""
    try:
        lines = lines_of(path)
    except DataError:
        return False
    return has_names(lines) and (labelled or any(_SPLIT_KEY.match(line) for line in lines))


def darknet_splits(found: Listing) -> dict[str, list[str]]:
    """The splits of a darknet data file (obj.data): lines such as `train = data/train.txt`."""
    splits: dict[str, list[str]] = {}
    for file in found.ending(".data"):
        for line in read_lines(found.root / file):
            key, equals, value = line.partition("=")
            split = split_of_name(key.strip())
            if equals and split and value.strip():
                splits.setdefault(split, [value.strip()])
    return splits


def listed_splits(found: Listing) -> dict[str, list[str]]:
    """The splits that are text files of image paths: train.txt, valid.txt, or images.txt for all."""
    splits: dict[str, list[str]] = {}
    for file in sorted(found.ending(".txt"), key=lambda file: (file.count("/"), file)):
        name = stem_of(file)
        split = split_of_name(name) or ("train" if name in ("images", "default") else None)
        if split and split not in splits and _lists_images(found, file):
            splits[split] = [file]
    return splits if "train" in splits else {}


def _lists_images(found: Listing, file: str) -> bool:
    lines = read_lines(found.root / file)[:PEEKED]
    return bool(lines) and all(is_image_name((parts_of(line) or [""])[-1]) and found.find_file(line) for line in lines)


def _places(
    found: Listing, entries: dict[str, list[str]], data: DataFile | None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Where the splits that a file names lie below the root, and what there is to say about their paths."""
    splits: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for name, texts in entries.items():
        places = []
        for text in texts:
            place = _below_root(found, text, name, data)
            said = f"{name}: {data.path.name if data else 'the data file'} says '{text}'"
            if place is None:
                notes.append(f"{said}, which is not there; nothing below {found.root} ends like it")
                continue
            if place != posixpath.normpath(text.replace("\\", "/")).removeprefix("../"):
                notes.append(f"{said}; it was found at {place}")
            places.append(place)
        empty = [place for place in places if (found.root / place).is_dir() and not _has_images(found, place)]
        notes += [f"{name}: there is no image in {place}; the split is left out" for place in empty]
        if places := [place for place in places if place not in empty]:
            splits[name] = {"images": places[0] if len(places) == 1 else places}
    return splits, notes


def _has_images(found: Listing, place: str) -> bool:
    """Whether a folder has images; one outside the root is not looked into."""
    return posixpath.isabs(place) or found.images_in["" if place == "." else place] > 0


def _below_root(found: Listing, text: str, split: str, data: DataFile | None) -> str | None:
    """The folder or list that a data file's entry means, relative to the root.

    In this order: where it says, if that is inside; below the root by its tail, which must name the split if the entry
    does; the root's folder of that split; where it says, outside. None where none of them is there.
    """
    base = data.base if data else found.root
    relative = text.replace("\\", "/")
    said = [(base / relative), found.root / relative.lstrip("/"), found.root / relative.removeprefix("../")]
    if data:
        said.insert(1, data.path.parent / relative)
    for path in said:
        inside = _inside(path, found)
        if inside is not None and (found.images_in["" if inside == "." else inside] or inside in found.files):
            return inside
    by_tail = found.find_file(text) if Path(relative).suffix else found.find_image_folder(text)
    wanted = split_of(text)
    if by_tail is not None and split_of(by_tail) == wanted:
        return by_tail
    named = [folder for folder in found.images_in if folder and split_of(folder) == split]
    if named:
        return min(named, key=lambda folder: (posixpath.basename(folder) != "images", folder.count("/"), folder))
    if by_tail is not None and split == "train" and split_of(by_tail) is None:
        return by_tail
    inside = next((place for path in said if path.exists() and (place := _inside(path, found))), None)
    outside = next((str(path.resolve()) for path in said if path.exists()), None)
    return inside or outside


def _inside(path: Path, found: Listing) -> str | None:
    """The path relative to the root, or None where it lies outside."""
    relative = posixpath.normpath(Path(os.path.relpath(path, found.root)).as_posix())
    return None if relative.startswith("..") else relative


def _is_taken(folder: str, splits: dict[str, dict[str, Any]], found: Listing) -> bool:
    """Whether a split holds the folder already, or lies inside it."""
    places = [place for split in splits.values() for place in _entries(split["images"])]
    if not folder or "." in places:
        return True
    if any((found.root / place).is_file() for place in places):
        return True  # lists name images of any folder
    return any(place == folder or folder.startswith(f"{place}/") or place.startswith(f"{folder}/") for place in places)


def _unused(found: Listing, labels: Sequence[str], splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The label files in folders of no split whose images are in none of the splits."""
    places = [place for split in splits.values() for place in _entries(split["images"])]
    if any(not (found.root / place).is_dir() for place in places):
        return []  # lists name images of any folder
    used = {image for image in found.images for place in places if place == "." or image.startswith(f"{place}/")}
    rest = [label for label in labels if split_of(posixpath.dirname(label)) is None]
    return [label for label in rest if used.isdisjoint(found.stems.find(posixpath.splitext(label)[0]))]


def _entries(images: str | Sequence[str]) -> list[str]:
    return [images] if isinstance(images, str) else list(images)


def _with_labels(found: Listing, name: str, split: dict[str, Any], labels: Iterable[str], stems: set[str]) -> list[str]:
    """Add the folder of the labels where readers would not look; one sentence about the split."""
    places = _entries(split["images"])
    images = [image for place in places for image in found.images if place == "." or image.startswith(f"{place}/")]
    if images and len(places) == 1:
        sample = images[:: max(1, len(images) // PEEKED)]
        base = found.root / places[0]
        if not any(f.exists() for image in sample for f in label_files(found.root / image, found.root, None, base)):
            own = {stem_of(image) for image in images}
            beside = [label for label in labels if stem_of(label) in own and split_of(label) in (name, None)]
            if beside:
                split["labels"] = shared_folder(beside) or "."
    count = sum(stem_of(image) in stems for image in images)
    where = f"{', '.join(places)}" if places != ["."] else "the root"
    if not images:
        return [f"{name}: the images that {where} lists" if (found.root / places[0]).is_file() else f"{name}: {where}"]
    at = f" in {split['labels']}" if "labels" in split else ""
    return [f"{name}: {len(images):,} images in {where}, {count:,} of them with a label file{at}"]


def _relative(path: Path, found: Listing) -> str:
    return path.relative_to(found.root).as_posix()


def write_yolo(folder: Path, trees: Mapping[str, Tree], images: str) -> list[str]:
    """YOLO's numbers are shares of the image, so a box that sticks far out is cut at the edge."""
    trees = with_one_list(trees)
    categories = {c["id"]: c["name"] for tree in trees.values() for c in tree.content["categories"]}
    index = {category_id: rank for rank, category_id in enumerate(sorted(categories))}
    notes = left_out(trees, {"segmentation": "outlines", "area": "areas of outlines"})
    for name, tree in trees.items():
        owned = owned_by_file(tree)
        counts = Counter[str]()
        files = written_names(tree, "yolo")
        bare = unlabelled(tree)
        for image in one_of_each_file(tree):
            rows = []
            if image["file_name"] in bare and not owned[image["file_name"]]:
                continue
            for annotation in owned[image["file_name"]]:
                if annotation.get("iscrowd"):
                    counts["crowd regions are left out; YOLO has no place for them"] += 1
                    continue
                box, size = upright(annotation), (image["width"], image["height"])
                if not _is_near(box, size):
                    clipped, (fault,) = clip_boxes(np.array([box]), np.array([size[::-1]]))
                    if fault is not BoxFault.PAST_EDGE:
                        counts["boxes outside their images or without size are left out"] += 1
                        continue
                    counts["boxes that stick out of their images are cut at the edge"] += 1
                    box = clipped[0].tolist()
                if rotation_of(annotation) % 180:
                    counts["turned boxes became the upright boxes around them; YOLO has no angle"] += 1
                texts = fractions(box, *size)
                rows.append(f"{index[annotation['category_id']]} {' '.join(texts)}\n")
            label = (folder / "labels" / name / files[image["file_name"]]).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(rows), encoding="utf-8")
        place_images(tree, {old: folder / "images" / name / new for old, new in files.items()}, images)
        notes += [f"{name}: {count} {what}" for what, count in counts.items()]
    # no "path": without it, Ultralytics looks beside this file; a relative one it takes from where it was started
    lines = [*(f"{name}: images/{name}" for name in trees), "names:"]
    lines += [f"  {rank}: {json.dumps(categories[i], ensure_ascii=False)}" for i, rank in index.items()]
    if any(i != rank for i, rank in index.items()):
        lines += ["category_ids:  # in the set that this was made from", *(f"  {r}: {i}" for i, r in index.items())]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return notes


def _is_near(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a reader of YOLO takes a box (left, top, width, height) of an image (width, height)."""
    shares = [share for k in (0, 1) for share in ((box[k] + box[k + 2] / 2) / size[k], box[k + 2] / size[k])]
    return all(-SLACK <= share <= 1 + SLACK for share in shares)


YOLO = Format(
    "yolo", look_yolo, ("images", "labels", "names"), 1, read_yolo, ("box_corners",), write_yolo, "YOLO (txt)"
)
