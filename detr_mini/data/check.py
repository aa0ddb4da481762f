"""Every fault of a data set in one table, and a copy without those that can be mended."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detr_mini.data.captions.files import CATEGORIES, MADE, caption_faults
from detr_mini.data.check_boxes import checked_boxes
from detr_mini.data.check_images import Picture, checked_files, checked_records, same_pictures
from detr_mini.data.check_names import check_data_file, check_names, checked_categories
from detr_mini.data.coco import CORNERS, look_like_corners
from detr_mini.data.columns import any_json, is_whole
from detr_mini.data.convert import new_folder, write_set
from detr_mini.data.faults import FATAL, KINDS, Fault
from detr_mini.data.formats import Source, read_tree
from detr_mini.data.records import from_corners, is_box, respell, tidy, unusable_names
from detr_mini.data.report import MUCH_BACKGROUND
from detr_mini.data.tree import Tree, image_files
from detr_mini.data.yolo import find_data_file, read_data_file
from detr_mini.errors import DataError, UserError, printable
from detr_mini.structures import Categories

LISTS = ("images", "annotations", "categories")
SHOWN = 3
LACKS = ("category without boxes", "category with crowd only", "category that training never sees")


@dataclass
class Checked:
    """What a check found, and the set as its mended copy would have it."""

    source: Source
    faults: list[Fault] = field(default_factory=list)
    trees: dict[str, Tree] = field(default_factory=dict)
    """Mended; every image has its size."""
    unsure: set[str] = field(default_factory=set)
    """Splits of which not everything can be read: what they lack, nobody knows."""
    listed: set[Path] = field(default_factory=set)
    """Every image file that a split lists."""
    images: int = 0
    boxes: int = 0

    @property
    def counts(self) -> Counter[str]:
        """How many faults of each kind, in the order of the table."""
        found = Counter(fault.kind for fault in self.faults)
        return Counter({kind: found[kind] for kind in KINDS if found[kind]})

    def table(self) -> Any:
        """For rich: a row a kind with its count, first examples and what to do about it."""
        from rich.markup import escape
        from rich.table import Table

        view = Table(title=f"{len(self.faults)} faults in {self.source.root}", title_justify="left", show_lines=True)
        view.add_column("fault")
        view.add_column("count", justify="right")
        view.add_column("such as", overflow="fold")
        for kind, count in self.counts.items():
            examples = [fault.text for fault in self.faults if fault.kind == kind][:SHOWN]
            more = [f"and {count - len(examples)} more"] if count > len(examples) else []
            view.add_row(
                f"{kind}\n[dim]{escape(KINDS[kind])}[/dim]", f"{count:,}", escape("\n".join([*examples, *more]))
            )
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
        faults = [{"kind": f.kind, "text": f.text, "image": printable(f.image), "mend": f.mend} for f in self.faults]
        return {"images": self.images, "boxes": self.boxes, "counts": dict(self.counts), "faults": faults}


def check(source: Source, *, pixels: bool = True, captions: Mapping[str, Any] | None = None) -> Checked:
    """Look at everything once. `pixels`: decode the images (else their headers and ends only).

    `captions`: of each split its file with captions, below the root. Nothing is raised for a fault, whatever it is.
    """
    done = Checked(source)
    pictures: dict[str, dict[int, Picture]] = {}
    known: dict[str, int] = {}
    for name in source.splits:
        before = len(done.faults)
        tree = _read(source, name, known, done.faults)
        if any(f.kind == "broken annotation file" for f in done.faults[before:]):
            done.unsure.add(name)
        if tree is not None:
            known |= {c["name"]: c["id"] for c in tree.content["categories"] if source.format != "coco"}
            pictures[name] = _check_split(tree, name, done, pixels)
    _check_names(source, done)
    _check_pictures(done, pictures)
    _check_strays(source, done)
    for name, file in (captions or {}).items():
        if file and file not in (MADE, CATEGORIES) and name in done.trees:
            texts = caption_faults(source.root / str(file), done.trees[name].content)
            done.faults += [Fault("caption", f"{name}: {text}") for text in texts]
    done.faults.sort(key=lambda fault: list(KINDS).index(fault.kind))
    return done


def _read(source: Source, name: str, known: Mapping[str, int], faults: list[Fault]) -> Tree | None:
    split = source.splits[name]
    try:
        if source.format != "coco":
            categories = Categories(tuple(known.values()), tuple(known)) if known else None
            tree = read_tree(
                source.root, split, name, source.format,
                first_pixel=source.first_pixel, difficult=source.difficult, box_corners=source.box_corners,
                categories=categories,
            )  # fmt: skip
            once = {(fault.kind, fault.image) for fault in faults if fault.kind == "label file without image"}
            new = (fault for fault in tree.faults if (fault.kind, fault.image) not in once)
            faults += [replace(fault, text=f"{name}: {fault.text}") for fault in new]
            return tree
        path = source.root / split["annotations"]
        content = any_json(path)
    except DataError as error:
        faults.append(Fault("broken annotation file", f"{name}: {error}"))
        return None
    whole = content if isinstance(content, dict) else {}
    for key in LISTS:
        entries = whole.get(key)
        if not isinstance(entries, list):
            faults.append(Fault("broken annotation file", f"{name}: {path.name} has no list '{key}'"))
            whole[key] = []
        elif not all(isinstance(entry, dict) for entry in entries):
            faults.append(Fault("broken annotation file", f"{name}: {path.name}: not all of '{key}' are records"))
            whole[key] = [entry for entry in entries if isinstance(entry, dict)]
    folder = source.root / split["images"]
    found = tidy(whole, path, corners=source.box_corners)
    found += respell(whole, path, folder, source.root)
    unusable = unusable_names(whole, path, folder, source.root)
    names = {fault.image for fault in unusable}
    whole["images"] = [i for i in whole["images"] if not isinstance(n := i.get("file_name"), str) or n not in names]
    faults += [replace(f, text=f"{name}: {f.text.replace(str(path), path.name)}") for f in (*found, *unusable)]
    return Tree(whole, folder, path)


def _check_split(tree: Tree, name: str, done: Checked, pixels: bool) -> dict[int, Picture]:
    """Add a split's faults and its mended tree; its pictures by image id."""
    done.listed |= {tree.folder / str(image.get("file_name")) for image in tree.content["images"]}
    categories = checked_categories(tree, name, done.faults)
    records = checked_records(tree, name, done.faults)
    pictures = checked_files(tree, name, records, done.faults, pixels)
    done.images += len(tree.content["images"])
    done.boxes += len(tree.content["annotations"])
    before = {
        a["image_id"] for a in tree.content["annotations"] if is_whole(a.get("image_id")) and not a.get("iscrowd")
    }
    background = sum(image_id not in before for image_id in records)
    if records and background / len(records) > MUCH_BACKGROUND and name not in done.unsure:
        done.faults.append(Fault("many images without a box", f"{name}: {background} of {len(records)} images"))
    tree.content["categories"] = categories
    if done.source.format == "coco" and not done.source.box_corners:
        _check_corners(tree, name, pictures, done.faults)
    annotations = checked_boxes(tree, name, records, pictures, done.faults)
    merged = {c["id"]: c["same as"] for c in categories if "same as" in c}
    for annotation in annotations:
        annotation["category_id"] = merged.get(annotation["category_id"], annotation["category_id"])
    kept = [records[i] for i in pictures if records[i].get("mend") != "left out"]
    for record in kept:
        record["height"], record["width"] = pictures[record["id"]].size
    content = {
        **tree.content,
        "images": [{k: v for k, v in record.items() if k not in ("mend", "same as")} for record in kept],
        "annotations": annotations,
        "categories": [category for category in categories if "same as" not in category],
    }
    done.trees[name] = Tree(content, tree.folder, tree.path)
    return pictures


def _check_corners(tree: Tree, split: str, pictures: Mapping[int, Picture], faults: list[Fault]) -> None:
    """One fault where the boxes of a split fit as corners only; they are then looked at as corners."""
    own = [a for a in tree.content["annotations"]
           if is_box(a.get("bbox")) and is_whole(a.get("image_id")) and a["image_id"] in pictures]  # fmt: skip
    sizes = [pictures[a["image_id"]].size for a in own]
    if own and look_like_corners(np.array([a["bbox"] for a in own], float), np.array(sizes)):
        text = CORNERS.format(path=tree.path.name)
        faults.append(Fault("boxes that look like corners", f"{split}: {text}"))
        for annotation in own:
            annotation["bbox"] = from_corners(annotation["bbox"])


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
    renamed = check_names(categories, boxes, crowd, found)
    done.faults += [f for f in found if not done.unsure or f.kind not in LACKS]
    for tree in done.trees.values():
        _rename(tree.content, renamed)
    if source.format == "yolo":
        said = next((split.get("names") for split in source.splits.values()), None)
        file = source.root / said if said else find_data_file(source.root)
        if file is not None:
            with suppress(DataError):  # the splits have said so
                check_data_file(read_data_file(file), done.faults)


def _rename(content: dict[str, Any], renamed: Mapping[str, str]) -> None:
    """Give a category's boxes to the one that is meant; where that is not listed here, only the name changes."""
    ids = {c["name"]: c["id"] for c in content["categories"]}
    moved = {ids[old]: ids[new] for old, new in renamed.items() if old in ids and new in ids}
    for annotation in content["annotations"]:
        annotation["category_id"] = moved.get(annotation["category_id"], annotation["category_id"])
    content["categories"] = [
        {**c, "name": renamed.get(c["name"], c["name"])} for c in content["categories"] if c["id"] not in moved
    ]


def _check_pictures(done: Checked, pictures: Mapping[str, Mapping[int, Picture]]) -> None:
    """Pictures that are there twice; the mended copy has them once, in val or test rather than in train."""
    everything = [(split, image_id, picture) for split, own in pictures.items() for image_id, picture in own.items()]
    everything.sort(key=lambda item: item[0] == "train")
    gone: dict[str, set[int]] = {split: set() for split in pictures}
    names = {(split, i["id"]): i["file_name"] for split, tree in done.trees.items() for i in tree.content["images"]}
    for first, second, how in same_pictures([picture for _, _, picture in everything]):
        (one_split, one, _), (two_split, two, _) = everything[first], everything[second]
        one_name, two_name = names.get((one_split, one)), names.get((two_split, two))
        if one_name is None or two_name is None:
            continue
        kind = "same picture twice" if one_split == two_split else "picture shared by two splits"
        text = f"{one_split}: {one_name}, {two_split}: {two_name}: {how}"
        done.faults.append(Fault(kind, text, two_name, f"left out of {two_split}"))
        gone[two_split].add(two)
    for split, ids in gone.items():
        content = done.trees[split].content
        content["images"] = [image for image in content["images"] if image["id"] not in ids]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in ids]


def _check_strays(source: Source, done: Checked) -> None:
    """Image files beside those of the splits that no split lists."""
    unsure = any(f.kind == "image record incomplete" for f in done.faults)
    if source.format == "yolo" or unsure or done.unsure:
        return  # a YOLO split is its files; and what a broken file would have listed nobody knows
    folders = {tree.folder for tree in done.trees.values()}
    for folder in sorted(folders):
        for path in image_files(folder) if folder.is_dir() else []:
            if path not in done.listed:
                name = path.relative_to(source.root).as_posix() if path.is_relative_to(source.root) else str(path)
                done.faults.append(Fault("image that no list names", name, name, "left out"))


def mend(done: Checked, output: str | Path) -> Counter[str]:
    """Write the mended copy, in the form of the source, and `changes.json`; the changes by kind.

    DataError where nothing would be left of a split.
    """
    unclear = [fault for fault in done.faults if fault.kind in FATAL and not fault.mend]
    if unclear:
        raise DataError(f"{unclear[0].kind}: {unclear[0].text}; nothing is written, since it is not certain what is "
                        f"meant ({len(unclear)} such in all)")  # fmt: skip
    for name, tree in done.trees.items():
        if not tree.content["images"]:
            raise DataError(f"no usable image is left in {name} of {done.source.root}; nothing is written")
    changes = [fault for fault in done.faults if fault.mend]
    with new_folder(output) as folder:
        write_set(folder, done.source.format, done.trees)
        lines = [{"kind": f.kind, "what": f.text, "now": f.mend} for f in changes]
        (folder / "changes.json").write_text(json.dumps(lines, indent=1, ensure_ascii=False), encoding="utf-8")
    return Counter(f"{fault.kind}: {_short(fault.mend)}" for fault in changes)


def _short(mend: str) -> str:
    return "cut at the edge" if mend.startswith("cut to") else mend


def _caption_files(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Of each split its file of captions. Those that the data make (`refer`) were proved as they were made."""
    return None if data.get("refer") else data.get("captions")


def check_task(config: Mapping[str, Any]) -> Checked:
    """The verb `detr-mini data check data.root=FOLDER fix=true output=FOLDER pixels=true report=FILE`."""
    source = Source.of(config["data"])
    source.print_notes()
    done = check(source, pixels=config["pixels"], captions=_caption_files(config["data"]))
    done.print()
    if config["report"]:
        Path(config["report"]).write_text(json.dumps(done.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
    if config["fix"]:
        output = Path(config["output"] or f"{source.root}-mended")
        changes = mend(done, output)
        for change, count in changes.items():
            print(f"{count:6,}  {change}")
        left = sum(not fault.mend for fault in done.faults)
        print(f"the mended copy is {output} (every change: changes.json); {left} faults are for you to mend")
    elif config["output"]:
        raise UserError("output is where the mended copy goes; say fix=true, too")
    return done
