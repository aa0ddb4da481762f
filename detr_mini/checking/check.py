"""Finds every fault of a dataset, and what a fixed copy of it would have.

A fix never invents truth, and never loses any without a report. What is not certain is left out of the copy and
counted, or the copy is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from detr_mini.checking.boxes import checked_boxes, usable_boxes
from detr_mini.checking.copies import check_pictures, check_scenes
from detr_mini.checking.images import checked_files, checked_records
from detr_mini.checking.names import check_data_file, check_names, checked_categories
from detr_mini.checking.pictures import Picture
from detr_mini.checking.report import Checked
from detr_mini.errors import DataError
from detr_mini.formats.box_rules import (
    CORNERS,
    ROUNDING,
    SHARES,
    from_corners,
    is_box,
    look_like_corners,
    look_like_shares,
)
from detr_mini.formats.columns import any_json
from detr_mini.formats.discover import Source
from detr_mini.formats.faults import Fault, Fix, Kind
from detr_mini.formats.listing import image_files
from detr_mini.formats.load_report import MUCH_BACKGROUND
from detr_mini.formats.records import respell, tidy, unusable_names
from detr_mini.formats.tree import Tree
from detr_mini.formats.values import is_whole
from detr_mini.formats.yolo_names import find_data_file, read_data_file

LISTS = ("images", "annotations", "categories")
WHOLE = 0.9
"""Share of its image from which a box is the whole image."""
LABELS = (Kind.BROKEN_FILE, Kind.TWO_LABEL_FILES, Kind.OTHER_NAME_IN_XML)
"""Kinds that make the boxes of one image of a VOC or YOLO set uncertain."""
LACKS = (Kind.NO_BOXES, Kind.CROWD_ONLY, Kind.UNTRAINED_CATEGORY)


def check(source: Source, *, pixels: bool = True) -> Checked:
    """Look at everything once. `pixels`: decode the images (else their headers and ends only).

    Nothing is raised for a fault, whatever it is.
    """
    done = Checked(source)
    pictures: dict[str, dict[int, Picture]] = {}
    known: dict[str, int] = {}
    for name in source.splits:
        before = len(done.faults)
        tree = _read(source, name, known, done.faults)
        own = range(before, len(done.faults))
        if any(done.faults[k].kind is Kind.BROKEN_FILE for k in own):
            done.unsure.add(name)
        if tree is not None:
            known |= {c["name"]: c["id"] for c in tree.content["categories"] if source.format != "coco"}
            done.annotations[name] = len(tree.content["annotations"]) + sum(done.faults[k].boxes for k in own)
            left_out = [k for k in own if done.faults[k].kind in LABELS and done.faults[k].fix is Fix.LEFT_OUT]
            uncertain = {done.faults[k].image: k for k in reversed(left_out)}
            pictures[name] = _check_split(tree, name, done, pixels, uncertain)
        done.faults[before:] = [replace(fault, split=name) for fault in done.faults[before:]]
    _check_names(source, done)
    check_pictures(done, pictures)
    check_scenes(done)
    _check_strays(source, done)
    done.add(())
    return done


def _read(source: Source, name: str, known: Mapping[str, int], faults: list[Fault]) -> Tree | None:
    split = source.splits[name]
    try:
        if source.format != "coco":
            tree = source.tree(name, known)
            once = {(fault.kind, fault.image) for fault in faults if fault.kind is Kind.NO_IMAGE_FOR_LABELS}
            new = (fault for fault in tree.faults if (fault.kind, fault.image) not in once)
            faults += new
            return tree
        path = source.root / split["annotations"]
        content = any_json(path)
    except DataError as error:
        faults.append(Fault(Kind.BROKEN_FILE, str(error), refused=True))
        return None
    whole = content if isinstance(content, dict) else {}
    for key in LISTS:
        entries = whole.get(key)
        if not isinstance(entries, list):
            faults.append(Fault(Kind.BROKEN_FILE, f"{path.name} has no list '{key}'", refused=True))
            whole[key] = []
        elif not all(isinstance(entry, dict) for entry in entries):
            text = f"{path.name}: not all of '{key}' are records"
            faults.append(Fault(Kind.BROKEN_FILE, text, refused=True))
            whole[key] = [entry for entry in entries if isinstance(entry, dict)]
    folder = source.root / split["images"]
    found = tidy(whole, path, corners=source.box_corners)
    found += respell(whole, path, folder, source.root)
    unusable = unusable_names(whole, path, folder, source.root)
    names = {fault.image for fault in unusable}
    whole["images"] = [i for i in whole["images"] if not isinstance(n := i.get("file_name"), str) or n not in names]
    faults += [replace(f, text=f.text.replace(str(path), path.name)) for f in (*found, *unusable)]
    return Tree(whole, folder, path)


def _check_split(
    tree: Tree, name: str, done: Checked, pixels: bool, uncertain: Mapping[str, int]
) -> dict[int, Picture]:
    """Add a split's faults and its fixed tree; its pictures by image id. `uncertain`: faults by image, see LABELS."""
    done.listed |= {tree.folder / str(image.get("file_name")) for image in tree.content["images"]}
    used = Counter(a["category_id"] for a in tree.content["annotations"] if is_whole(a.get("category_id")))
    categories, merged = checked_categories(tree, used, done.faults)
    images = checked_records(tree, done.faults)
    for image_id, record in images.records.items():
        if record["file_name"] in uncertain:
            images.out[image_id] = uncertain[record["file_name"]]
    checked_files(tree, name, images, lambda: usable_boxes(tree), done.faults, pixels)
    done.images += len(tree.content["images"])
    done.boxes += len(tree.content["annotations"])
    before = {
        a["image_id"] for a in tree.content["annotations"] if is_whole(a.get("image_id")) and not a.get("iscrowd")
    }
    background = sum(image_id not in before for image_id in images.records)
    if images.records and background / len(images.records) > MUCH_BACKGROUND and name not in done.unsure:
        done.faults.append(Fault(Kind.MANY_EMPTY_IMAGES, f"{background} of {len(images.records)} images"))
    for annotation in tree.content["annotations"] if merged else ():
        if is_whole(annotation.get("category_id")):
            annotation["category_id"] = merged.get(annotation["category_id"], annotation["category_id"])
    tree.content["categories"] = categories
    _check_numbers(tree, images.pictures, done.source.format == "coco" and not done.source.box_corners, done.faults)
    annotations = checked_boxes(tree, images, done.faults)
    kept = [
        {**images.records[i], "height": picture.size[0], "width": picture.size[1]}
        for i, picture in images.pictures.items()
        if i not in images.out and i not in images.same
    ]
    content = {**tree.content, "images": kept, "annotations": annotations}
    _check_alike(content, done.faults)
    unlabelled = [fault for fault in tree.faults if fault.kind is Kind.NO_LABEL_FILE]
    done.trees[name] = Tree(content, tree.folder, tree.path, faults=unlabelled)
    return {i: picture for i, picture in images.pictures.items() if i not in images.out and i not in images.same}


def _check_numbers(tree: Tree, pictures: Mapping[int, Picture], may_be_corners: bool, faults: list[Fault]) -> None:
    """One fault where the boxes of a split are no pixels, or fit as corners only; these are then looked at as corners.

    `may_be_corners`: whether that is asked; the readers of other formats look for corners themselves.
    """
    own = [a for a in tree.content["annotations"]
           if is_box(a.get("bbox")) and is_whole(a.get("image_id")) and a["image_id"] in pictures]  # fmt: skip
    boxes = np.array([a["bbox"] for a in own], np.float64).reshape(-1, 4)
    edges = np.array([pictures[a["image_id"]].size[::-1] for a in own], np.float64).reshape(-1, 2)
    if look_like_shares(boxes, edges):
        faults.append(Fault(Kind.TINY_BOX, SHARES.format(path=tree.path.name), refused=True))
    elif may_be_corners and look_like_corners(boxes, boxes, edges, ROUNDING):
        text = CORNERS.format(path=tree.path.name, read="left, top, width, height")
        faults.append(Fault(Kind.CORNERS, text))
        for annotation in own:
            annotation["bbox"] = from_corners(annotation["bbox"])


def _check_alike(content: Mapping[str, Any], faults: list[Fault]) -> None:
    """Boxes that say nothing: most are their whole image, or lie at one place in all images."""
    sizes = {image["id"]: (image["width"], image["height"]) * 2 for image in content["images"]}
    own = [a for a in content["annotations"] if not a.get("iscrowd")]
    if not own:
        return
    boxes = np.array([a["bbox"] for a in own], np.float64) / np.array([sizes[a["image_id"]] for a in own], np.float64)
    whole = int((boxes[:, 2] * boxes[:, 3] >= WHOLE).sum())
    places, counts = np.unique(boxes.round(3), axis=0, return_counts=True)
    most = int(counts.max())
    if whole > len(own) / 2:
        faults.append(Fault(Kind.MEANINGLESS_BOXES, f"{whole} of {len(own)} boxes are their whole image"))
    elif most > len(own) / 2 and most >= 10:
        x, y, w, h = places[counts.argmax()]
        text = f"{most} of {len(own)} boxes lie at one place: [{x:g}, {y:g}, {w:g}, {h:g}] of their image"
        faults.append(Fault(Kind.MEANINGLESS_BOXES, text))


def _check_names(source: Source, done: Checked) -> None:
    boxes: dict[str, Counter[str]] = {}
    crowd: dict[str, Counter[str]] = {}
    for split, tree in done.trees.items():
        names = {c["id"]: c["name"] for c in tree.content["categories"]}
        owners = [(names[a["category_id"]], bool(a.get("iscrowd"))) for a in tree.content["annotations"]]
        boxes[split] = Counter(name for name, is_crowd in owners if not is_crowd)
        crowd[split] = Counter(name for name, is_crowd in owners if is_crowd)
    categories = {split: tree.content["categories"] for split, tree in done.trees.items()}
    found: list[Fault] = []
    check_names(categories, boxes, crowd, found)
    done.faults += [f for f in found if not done.unsure or f.kind not in LACKS]
    if source.format == "yolo":
        said = next((split.get("names") for split in source.splits.values()), None)
        file = source.root / said if said else find_data_file(source.root)
        if file is not None:
            with suppress(DataError):  # the splits have said so
                check_data_file(read_data_file(file), done.faults)


def _check_strays(source: Source, done: Checked) -> None:
    """Image files beside those of the splits that no split lists."""
    unsure = any(f.kind is Kind.INCOMPLETE_IMAGE for f in done.faults)
    if source.format == "yolo" or unsure or done.unsure:
        return  # a YOLO split is its files; what a broken file would have listed is unknown
    folders = {tree.folder for tree in done.trees.values()}
    for folder in sorted(folders):
        for path in image_files(folder) if folder.is_dir() else []:
            if path not in done.listed:
                name = path.relative_to(source.root).as_posix() if path.is_relative_to(source.root) else str(path)
                done.faults.append(Fault(Kind.UNLISTED_IMAGE, name, name, Fix.LEFT_OUT))
