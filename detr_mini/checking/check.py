"""Every fault of a data set in one table, and a copy without those that can be fixed.

A fix never invents truth and never loses any without a word. What is not certain is left out of the copy and counted,
or the copy is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detr_mini.checking.boxes import checked_boxes, overlaps, usable_boxes
from detr_mini.checking.duplicates import LIKE, scenes
from detr_mini.checking.images import Picture, checked_files, checked_records, same_pictures
from detr_mini.checking.names import check_data_file, check_names, checked_categories
from detr_mini.errors import DataError, printable
from detr_mini.formats.box_rules import CORNERS, ROUNDING, from_corners, is_box, look_like_corners
from detr_mini.formats.columns import any_json
from detr_mini.formats.convert import new_folder, write_set
from detr_mini.formats.discover import Source
from detr_mini.formats.faults import FATAL, Fault, Fix, Kind
from detr_mini.formats.listing import image_files
from detr_mini.formats.load_report import MUCH_BACKGROUND
from detr_mini.formats.records import respell, tidy, unusable_names
from detr_mini.formats.tree import Tree
from detr_mini.formats.values import is_whole
from detr_mini.formats.yolo_names import find_data_file, read_data_file

LISTS = ("images", "annotations", "categories")
SHOWN = 3
WHOLE = 0.9
"""Share of its image from which a box is the whole image."""
SAME_COPY = 0.9
"""IoU from which boxes of two copies of a picture, of whatever size, are one."""
LABELS = (Kind.BROKEN_FILE, Kind.TWO_LABEL_FILES, Kind.OTHER_NAME_IN_XML)
"""Kinds that make the boxes of one image of a VOC or YOLO set uncertain."""
LACKS = (Kind.NO_BOXES, Kind.CROWD_ONLY, Kind.UNTRAINED_CATEGORY)

_ORDER = {kind: place for place, kind in enumerate(Kind)}


@dataclass
class Checked:
    """What a check found, and the set as its fixed copy would have it."""

    source: Source
    faults: list[Fault] = field(default_factory=list)
    trees: dict[str, Tree] = field(default_factory=dict)
    """Fixed; every image has its size."""
    unsure: set[str] = field(default_factory=set)
    """Splits of which not everything can be read: what they lack, nobody knows."""
    listed: set[Path] = field(default_factory=set)
    """Every image file that a split lists."""
    images: int = 0
    boxes: int = 0
    annotations: Counter[str] = field(default_factory=Counter)
    """Of each split, rows that no box could be made of included."""

    def add(self, faults: Iterable[Fault]) -> None:
        """More faults; all stand in the order of the table."""
        self.faults = sorted([*self.faults, *faults], key=lambda fault: _ORDER[fault.kind])

    @property
    def counts(self) -> Counter[str]:
        """How many faults of each kind, by its name, in the order of the table."""
        found = Counter(fault.kind for fault in self.faults)
        return Counter({str(kind): found[kind] for kind in Kind if found[kind]})

    @property
    def fixes(self) -> dict[str, tuple[int, int]]:
        """Of each kind of fix how many there are, and how many boxes the fixed copy lacks because of them."""
        found: dict[str, tuple[int, int]] = {}
        for fault in self.faults:
            if fault.fix:
                count, boxes = found.get(f"{fault.kind}: {fault.fix}", (0, 0))
                found[f"{fault.kind}: {fault.fix}"] = count + 1, boxes + fault.boxes
        return found

    def fixed(self) -> dict[str, Tree]:
        """The splits of a fixed copy. DataError where nobody can know what is meant, or nothing usable is left."""
        refused = [f for f in self.faults if f.refused or (f.kind in FATAL and not f.fix)]
        if refused:
            more = f" ({len(refused)} such faults)" if len(refused) > 1 else ""
            raise DataError(f"{refused[0].kind}: {refused[0].text}{more}. No fixed copy is made of {self.source.root}, "
                            "since it could only guess; correct this by hand, then run it again")  # fmt: skip
        for name, tree in self.trees.items():
            what = "usable image" if not tree.content["images"] else "box" if self.had_boxes(name) else ""
            if what:
                raise DataError(f"no {what} is left in {name} of {self.source.root}; nothing is written. "
                                "'detr-mini data check' lists what is wrong with each")  # fmt: skip
        return self.trees

    def had_boxes(self, split: str) -> bool:
        """Whether a split had annotations, of which its fixed copy has none."""
        return self.annotations[split] > 0 and not self.trees[split].content["annotations"]

    def table(self) -> Any:
        """For rich: a row a kind with its count, first examples and what to do about it."""
        from rich.markup import escape
        from rich.table import Table

        view = Table(title=f"{len(self.faults)} faults in {self.source.root}", title_justify="left", show_lines=True)
        view.add_column("fault")
        view.add_column("count", justify="right")
        view.add_column("examples", overflow="fold")
        for kind in Kind:
            texts = [fault.text for fault in self.faults if fault.kind is kind]
            if texts:
                more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
                examples = escape("\n".join([*texts[:SHOWN], *more]))
                view.add_row(f"{kind}\n[dim]{escape(kind.advice)}[/dim]", f"{len(texts):,}", examples)
        return view

    def print(self) -> None:
        """The table on the terminal, or one line where nothing is wrong."""
        from rich.console import Console

        whole = f"{self.images:,} images, {self.boxes:,} boxes in {', '.join(self.source.splits)}"
        Console().print(
            self.table() if self.faults else f"{self.source.root}: {whole}, no fault found", highlight=False
        )
        if self.faults:
            print(whole)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        faults = [
            {
                "kind": str(f.kind),
                "text": f.text,
                "image": printable(f.image),
                "fix": f.now,
                "boxes": f.boxes,
                "mend": f.now,
            }
            for f in self.faults
        ]
        return {"images": self.images, "boxes": self.boxes, "counts": dict(self.counts), "faults": faults}


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
            uncertain = {done.faults[k].image: k for k in reversed(own) if done.faults[k].kind in LABELS}
            pictures[name] = _check_split(tree, name, done, pixels, uncertain)
    _check_names(source, done)
    _check_pictures(done, pictures)
    _check_scenes(done)
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
            faults += [replace(fault, text=f"{name}: {fault.text}") for fault in new]
            return tree
        path = source.root / split["annotations"]
        content = any_json(path)
    except DataError as error:
        faults.append(Fault(Kind.BROKEN_FILE, f"{name}: {error}", refused=True))
        return None
    whole = content if isinstance(content, dict) else {}
    for key in LISTS:
        entries = whole.get(key)
        if not isinstance(entries, list):
            faults.append(Fault(Kind.BROKEN_FILE, f"{name}: {path.name} has no list '{key}'", refused=True))
            whole[key] = []
        elif not all(isinstance(entry, dict) for entry in entries):
            text = f"{name}: {path.name}: not all of '{key}' are records"
            faults.append(Fault(Kind.BROKEN_FILE, text, refused=True))
            whole[key] = [entry for entry in entries if isinstance(entry, dict)]
    folder = source.root / split["images"]
    found = tidy(whole, path, corners=source.box_corners)
    found += respell(whole, path, folder, source.root)
    unusable = unusable_names(whole, path, folder, source.root)
    names = {fault.image for fault in unusable}
    whole["images"] = [i for i in whole["images"] if not isinstance(n := i.get("file_name"), str) or n not in names]
    faults += [replace(f, text=f"{name}: {f.text.replace(str(path), path.name)}") for f in (*found, *unusable)]
    return Tree(whole, folder, path)


def _check_split(
    tree: Tree, name: str, done: Checked, pixels: bool, uncertain: Mapping[str, int]
) -> dict[int, Picture]:
    """Add a split's faults and its fixed tree; its pictures by image id. `uncertain`: faults by image, see LABELS."""
    done.listed |= {tree.folder / str(image.get("file_name")) for image in tree.content["images"]}
    used = Counter(a["category_id"] for a in tree.content["annotations"] if is_whole(a.get("category_id")))
    categories, merged = checked_categories(tree, name, used, done.faults)
    images = checked_records(tree, name, done.faults)
    for image_id, record in images.records.items():
        if record["file_name"] in uncertain and done.faults[uncertain[record["file_name"]]].fix is Fix.LEFT_OUT:
            images.out[image_id] = uncertain[record["file_name"]]
    checked_files(tree, name, images, lambda: usable_boxes(tree), done.faults, pixels)
    done.images += len(tree.content["images"])
    done.boxes += len(tree.content["annotations"])
    before = {
        a["image_id"] for a in tree.content["annotations"] if is_whole(a.get("image_id")) and not a.get("iscrowd")
    }
    background = sum(image_id not in before for image_id in images.records)
    if images.records and background / len(images.records) > MUCH_BACKGROUND and name not in done.unsure:
        done.faults.append(Fault(Kind.MANY_EMPTY_IMAGES, f"{name}: {background} of {len(images.records)} images"))
    for annotation in tree.content["annotations"] if merged else ():
        if is_whole(annotation.get("category_id")):
            annotation["category_id"] = merged.get(annotation["category_id"], annotation["category_id"])
    tree.content["categories"] = categories
    if done.source.format == "coco" and not done.source.box_corners:
        _check_corners(tree, name, images.pictures, done.faults)
    annotations = checked_boxes(tree, name, images, done.faults)
    kept = [
        {**images.records[i], "height": picture.size[0], "width": picture.size[1]}
        for i, picture in images.pictures.items()
        if i not in images.out and i not in images.same
    ]
    content = {**tree.content, "images": kept, "annotations": annotations}
    _check_alike(content, name, done.faults)
    unlabelled = [fault for fault in tree.faults if fault.kind is Kind.NO_LABEL_FILE]
    done.trees[name] = Tree(content, tree.folder, tree.path, faults=unlabelled)
    return {i: picture for i, picture in images.pictures.items() if i not in images.out and i not in images.same}


def _check_corners(tree: Tree, split: str, pictures: Mapping[int, Picture], faults: list[Fault]) -> None:
    """One fault where the boxes of a split fit as corners only; they are then looked at as corners."""
    own = [a for a in tree.content["annotations"]
           if is_box(a.get("bbox")) and is_whole(a.get("image_id")) and a["image_id"] in pictures]  # fmt: skip
    boxes = np.array([a["bbox"] for a in own], np.float64).reshape(-1, 4)
    edges = np.array([pictures[a["image_id"]].size[::-1] for a in own], np.float64).reshape(-1, 2)
    if look_like_corners(boxes, boxes, edges, ROUNDING):
        text = CORNERS.format(path=tree.path.name, read="left, top, width, height")
        faults.append(Fault(Kind.CORNERS, f"{split}: {text}"))
        for annotation in own:
            annotation["bbox"] = from_corners(annotation["bbox"])


def _check_alike(content: Mapping[str, Any], split: str, faults: list[Fault]) -> None:
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
        faults.append(Fault(Kind.MEANINGLESS_BOXES, f"{split}: {whole} of {len(own)} boxes are their whole image"))
    elif most > len(own) / 2 and most >= 10:
        x, y, w, h = places[counts.argmax()]
        text = f"{split}: {most} of {len(own)} boxes lie at one place: [{x:g}, {y:g}, {w:g}, {h:g}] of their image"
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


def _check_pictures(done: Checked, pictures: Mapping[str, Mapping[int, Picture]]) -> None:
    """Pictures that are there twice; the fixed copy has them once, in val or test rather than in train.

    Within a split a copy is left out only where the other one has all of its boxes: else nobody can know which are
    right.
    """
    everything = [(split, image_id, picture) for split, own in pictures.items() for image_id, picture in own.items()]
    everything.sort(key=lambda item: item[0] == "train")
    pairs = same_pictures([picture for *_, picture in everything], [split for split, *_ in everything])
    alike = {everything[place][:2] for one, two, *_ in pairs for place in (one, two)}
    owned = {
        split: Owned(tree.content, {i for name, i in alike if name == split})
        for split, tree in done.trees.items()
    }  # fmt: skip
    gone: dict[str, set[int]] = {split: set() for split in pictures}
    for first, second, how, crowded in pairs:
        (one_split, one, _), (two_split, two, _) = everything[first], everything[second]
        if one in gone[one_split] or two in gone[two_split]:
            continue
        if crowded and owned[one_split].differs_from(owned[two_split], one, two):
            continue  # one camera, another scene
        if how == LIKE:
            text = f"{one_split}: {owned[one_split].names[one]}, {two_split}: {owned[two_split].names[two]}: {how}"
            done.faults.append(Fault(Kind.LIKE_PICTURES, text, owned[two_split].names[two]))
            continue
        one_name, two_name = owned[one_split].names[one], owned[two_split].names[two]
        text = f"{one_split}: {one_name}, {two_split}: {two_name}: {how}"
        kind = Kind.SAME_PICTURE if one_split == two_split else Kind.SHARED_PICTURE
        if one_split == two_split and not owned[one_split].has_all_of(two, one):
            if not owned[one_split].has_all_of(one, two):
                done.faults.append(Fault(kind, f"{text}, with other boxes", two_name))
                continue
            one, two, two_name = two, one, one_name
        boxes = len(owned[two_split].boxes[two])
        done.faults.append(Fault(kind, text, two_name, Fix.LEFT_OUT, f"of {two_split}", boxes))
        gone[two_split].add(two)
    for split, ids in gone.items():
        if not ids:
            continue
        content = done.trees[split].content
        content["images"] = [image for image in content["images"] if image["id"] not in ids]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in ids]


def _check_scenes(done: Checked) -> None:
    """Frames of one video and tiles of one picture, by their names, in two splits: one fault for each of these."""
    images = [(split, i["file_name"]) for split, tree in done.trees.items() for i in tree.content["images"]]
    for scene in scenes({k: name for k, (_, name) in enumerate(images)}).values():
        counts = Counter(images[k][0] for k in scene)
        if len(counts) > 1:
            shown = ", ".join(f"{split} {count}" for split, count in counts.items())
            name = images[scene[0]][1]
            text = f"{name} and {len(scene) - 1} more frames or tiles of one scene, by their names: {shown}"
            done.faults.append(Fault(Kind.LIKE_PICTURES, text, name))


class Owned:
    """The boxes of some images of a split, as shares of the image, with their categories' names."""

    def __init__(self, content: Mapping[str, Any], chosen: set[int]) -> None:
        categories = {c["id"]: c["name"] for c in content["categories"]}
        images = [image for image in content["images"] if image["id"] in chosen]
        sizes = {i["id"]: np.array([i["width"], i["height"]] * 2, np.float64) for i in images}
        self.names = {i["id"]: i["file_name"] for i in images}
        self.boxes: dict[int, list[tuple[str, np.ndarray]]] = {image_id: [] for image_id in sizes}
        for a in content["annotations"] if chosen else ():
            if a["image_id"] not in chosen:
                continue
            kind = f"{categories[a['category_id']]} {a.get('iscrowd', 0)}"
            self.boxes[a["image_id"]].append((kind, np.array(a["bbox"], np.float64) / sizes[a["image_id"]]))

    def differs_from(self, other: Owned, image_id: int, other_id: int) -> bool:
        """Whether each of two images has an object that the other one lacks."""
        one, two = (Counter(name for name, _ in boxes) for boxes in (self.boxes[image_id], other.boxes[other_id]))
        return bool(one - two) and bool(two - one)

    def has_all_of(self, image_id: int, other_id: int) -> bool:
        """Whether each box of the first image is a box of the second one, too."""
        one, two = self.boxes[image_id], self.boxes[other_id]
        if not one or not two:
            return not one
        overlap = overlaps(*(np.stack([box for _, box in boxes]) for boxes in (one, two)))
        names = [np.array([name for name, _ in boxes]) for boxes in (one, two)]
        return bool(((overlap >= SAME_COPY) & (names[0][:, None] == names[1])).any(1).all())


def _check_strays(source: Source, done: Checked) -> None:
    """Image files beside those of the splits that no split lists."""
    unsure = any(f.kind is Kind.INCOMPLETE_IMAGE for f in done.faults)
    if source.format == "yolo" or unsure or done.unsure:
        return  # a YOLO split is its files; and what a broken file would have listed nobody knows
    folders = {tree.folder for tree in done.trees.values()}
    for folder in sorted(folders):
        for path in image_files(folder) if folder.is_dir() else []:
            if path not in done.listed:
                name = path.relative_to(source.root).as_posix() if path.is_relative_to(source.root) else str(path)
                done.faults.append(Fault(Kind.UNLISTED_IMAGE, name, name, Fix.LEFT_OUT))


def write_fixed_copy(done: Checked, output: str | Path) -> Counter[str]:
    """Write the fixed copy, in the form of the source, and `changes.json`; how many fixes of each kind there are.

    DataError where it is not certain what is meant, and where nothing would be left of a split.
    """
    trees = done.fixed()
    with new_folder(output) as folder:
        write_set(folder, done.source.format, trees)
        lines = [
            {"kind": str(f.kind), "what": f.text, "now": f.now, "image": printable(f.image), "boxes": f.boxes}
            for f in done.faults
            if f.fix
        ]
        (folder / "changes.json").write_text(
            json.dumps(lines, indent=1, ensure_ascii=False), encoding="utf-8", errors="backslashreplace"
        )
    return Counter({kind: count for kind, (count, _) in done.fixes.items()})
