"""COCO files, VOC and YOLO trees: one way in for all, and what a folder's look says it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detr_mini.data.categories import listed as listed_categories
from detr_mini.data.coco import CocoSet, Reading, build_set, read_coco
from detr_mini.data.columns import any_json, columns_of, is_whole, read_json
from detr_mini.data.faults import FATAL, LOOKS, NOTICES, Fault
from detr_mini.data.records import in_one_line, respell, unusable_names
from detr_mini.data.report import SplitReport
from detr_mini.data.safe_files import files_in, is_file
from detr_mini.data.tree import Tree, image_files
from detr_mini.data.voc import read_voc
from detr_mini.data.yolo import NAME_LISTS, check_name_lists, find_data_file, read_data_file, read_yolo
from detr_mini.errors import ConfigError, DataError, nearest
from detr_mini.structures import Categories

Split = Mapping[str, Any]
KEYS = {
    "coco": ("images", "annotations"),
    "voc": ("images", "annotations", "list"),
    "yolo": ("images", "labels", "names"),
}
"""What a split of each format says; the first of them always."""
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Layout:
    """What a folder holds, and where its splits are."""

    format: str
    splits: dict[str, dict[str, Any]]


def read_split(
    root: str | Path,
    split: Split,
    name: str = "train",
    *,
    format: str = "coco",
    categories: Categories | None = None,
    limit: int | None = None,
    first_pixel: str | int = "auto",
    difficult: str = "keep",
    **reading: Any,
) -> CocoSet:
    """One split below `root`, in whatever form it is there; `split` says where (see `KEYS`).

    `categories`: those of the training set. `limit`: the first images only, by id. `first_pixel`, `difficult`: see
    `read_voc`; `reading`: see `coco.Reading`. DataError, in one sentence, for whatever cannot be trained on.
    """
    root = Path(root)
    if format == "coco":
        check_split(split, name, format)
        paths = root / split["annotations"], root / split["images"]
        return read_coco(*paths, split=name, categories=categories, limit=limit, root=root, **reading)
    rules = Reading(**reading)
    tree = read_tree(
        root, split, name, format, first_pixel=first_pixel, difficult=difficult, box_corners=rules.box_corners,
        categories=categories,
    )  # fmt: skip
    report = SplitReport(name, notices=list(tree.notices))
    _take_faults(tree, report, rules)
    columns = columns_of(tree.content, tree.path)
    return build_set(columns, tree.folder, name, rules, categories, limit, report, tree.sizes)


def read_mended(
    tree: Tree, name: str, categories: Categories | None, limit: int | None, reading: Mapping[str, Any]
) -> CocoSet:
    """A split as `check` has mended it."""
    columns = columns_of(tree.content, tree.path)
    return build_set(columns, tree.folder, name, Reading(**reading), categories, limit)


def read_tree(
    root: Path,
    split: Split,
    name: str,
    format: str,
    *,
    first_pixel: str | int = "auto",
    difficult: str = "keep",
    box_corners: bool = False,
    categories: Categories | None = None,
) -> Tree:
    """A split of any format as a COCO file would have it, faults and all."""
    check_split(split, name, format)
    if format == "coco":
        return read_coco_tree(root, split, box_corners=box_corners)
    said = {key: value for key, value in split.items() if value is not None}
    if format == "voc":
        return read_voc(root, **said, first_pixel=first_pixel, difficult=difficult, categories=categories)
    return read_yolo(root, **said, corners=box_corners)


def read_coco_tree(root: Path, split: Split, *, box_corners: bool = False) -> Tree:
    """A split of COCO with its records made uniform; DataError for a file name that leads out of `root`."""
    path, folder = root / split["annotations"], root / split["images"]
    faults: list[Fault] = []
    content = read_json(path, faults, corners=box_corners)
    if unusable := unusable_names(content, path, folder, root):
        raise DataError(f"{unusable[0].text} ({len(unusable)} such in all); give each file's path below the image "
                        "folder")  # fmt: skip
    listed_categories(content, path)
    faults += respell(content, path, folder)
    return Tree(content, folder, path, notices=in_one_line(faults, NOTICES))


def check_split(split: Split, name: str, format: str) -> None:
    """ConfigError for a key that the format does not know or misses."""
    if format not in KEYS:
        raise ConfigError(
            f"data.format is {format!r}{nearest(str(format), KEYS)}; it must be {', '.join(KEYS)} or auto"
        )
    keys = KEYS[format]
    for key in split:
        if key not in keys:
            raise ConfigError(f"data.{name}.{key} does not exist in {format}{nearest(str(key), keys)} "
                              f"(there are: {', '.join(keys)})")  # fmt: skip
    needed = keys[:2] if format == "coco" else keys[:1]
    for key in needed:
        if not split.get(key):
            raise ConfigError(
                f"data.{name}.{key} is not set; a split in the form {format} needs {' and '.join(needed)}"
            )


def _take_faults(tree: Tree, report: SplitReport, rules: Reading) -> None:
    """What the reader could not take over: refuse, drop and count, or mention."""
    fatal = [fault for fault in tree.faults if fault.kind in FATAL]
    bad = [fault for fault in tree.faults if fault.kind not in (*FATAL, *LOOKS)]
    refused = fatal or (bad if rules.on_bad_box == "refuse" else [])
    if refused:
        mend = "mend it" if fatal else "mend them, or set data.on_bad_box=drop"
        raise DataError(f"{refused[0].kind}: {refused[0].text} ({len(refused)} such in all; 'detr-mini data check' "
                        f"lists them); {mend}")  # fmt: skip
    for fault in bad:
        report.drop(fault.kind, fault.text, fault.image)
    for kind in NOTICES:
        found = [fault for fault in tree.faults if fault.kind == kind]
        if found:
            noun = "thing" if len(found) == 1 else "things"
            examples = ", ".join(fault.image for fault in found[:3])
            report.notices.append(f"{kind}: {len(found)} {noun}, such as {examples}")


def located(
    root: str | Path, format: str, splits: Mapping[str, Split | str | None]
) -> tuple[str, dict[str, Split | None]]:
    """Format and splits, "auto" looked up in the folder, val "train" taken as train; ConfigError for other words."""
    for name, split in splits.items():
        if isinstance(split, str) and split != "auto" and (name, split) != ("val", "train"):
            raise ConfigError(f"data.{name} is {split!r}; it must be auto, null, or a section that says where it lies")
    layout = None
    if format == "auto" or "auto" in splits.values():
        layout = find_layout(root, None if format == "auto" else format)
        format = layout.format
    found: dict[str, Split | None] = {}
    for name, split in splits.items():
        found[name] = layout.splits.get(name) if layout and split == "auto" else split  # type: ignore[assignment]
        if isinstance(split, Mapping):
            check_split(split, name, format)
    return format, {name: found["train"] if splits[name] == "train" else split for name, split in found.items()}


@dataclass(frozen=True)
class Source:
    """A data set as the data tasks take it: all its splits, as they are."""

    root: Path
    format: str
    splits: dict[str, Split]
    first_pixel: str | int = "auto"
    difficult: str = "keep"
    box_corners: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Source:
        """From a data config (`configs/data/`). DataError where there is nothing."""
        root = Path(config["root"]).expanduser()
        said = {name: config.get(name) for name in SPLIT_WORDS}
        format, splits = located(root, config.get("format", "coco"), said)
        there = {name: split for name, split in splits.items() if split and _is_there(root, split, name)}
        if not there:
            raise DataError(f"there is no split in {root}; check data.root, or say where they lie with "
                            "data.train.images=... and so on")  # fmt: skip
        how = config.get("first_pixel", "auto"), config.get("difficult", "keep"), config.get("box_corners", False)
        return cls(root, format, there, *how)

    def trees(self) -> dict[str, Tree]:
        """Each split's content; one name has one category id in all of them."""
        found: dict[str, Tree] = {}
        known: dict[str, int] = {}
        for name, split in self.splits.items():
            categories = Categories(tuple(known.values()), tuple(known)) if known else None
            found[name] = read_tree(
                self.root, split, name, self.format, first_pixel=self.first_pixel, difficult=self.difficult,
                box_corners=self.box_corners, categories=categories,
            )  # fmt: skip
            if self.format != "coco":
                known |= {category["name"]: category["id"] for category in found[name].content["categories"]}
        return found


def _is_there(root: Path, split: Split, name: str) -> bool:
    """Whether a split's files are there; those of train must be."""
    files = [split[key] for key in ("annotations", "list") if split.get(key)]
    return name == "train" or all((root / file).exists() for file in files)


def names_used(root: str | Path, split: Split, name: str, format: str) -> set[str]:
    """The names of the categories that own a box."""
    root = Path(root)
    content = read_tree(root, split, name, format).content
    ids = (annotation.get("category_id") for annotation in content["annotations"])
    used = {category_id for category_id in ids if is_whole(category_id)}
    names = (c.get("name") for c in content["categories"] if is_whole(c.get("id")) and c["id"] in used)
    return {name for name in names if isinstance(name, str)}


def find_layout(root: str | Path, format: str | None = None) -> Layout:
    """What lies in a folder, from its look: a YOLO data file, VOC's XML files, or COCO's JSON files.

    `format`: the one that it is known to have. DataError where nothing is found.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; check data.root")
    looks = (("yolo", _look_yolo), ("voc", _look_voc), ("coco", _look_coco), ("yolo", _look_yolo_plain))
    for kind, look in looks:
        splits = look(root) if format in (None, kind) else {}
        if splits:
            return Layout(kind, splits)
    raise DataError(f"{root} looks like no data set: no data.yaml with names (YOLO), no folder Annotations with "
                    "XML files (VOC) and no JSON file with images and annotations (COCO); say data=coco, voc or yolo "
                    "and where its splits are")  # fmt: skip


def _look_yolo(root: Path) -> dict[str, dict[str, Any]]:
    file = find_data_file(root)
    if file is None or file.name in NAME_LISTS:
        return {}
    data = read_data_file(file)
    check_name_lists(root, file)
    found: dict[str, dict[str, Any]] = {}
    for name, entries in data.splits.items():
        images = [(data.base / entry) for entry in entries]
        relative = [_below(path, root) for path in images]
        found[name] = {"images": relative[0] if len(relative) == 1 else relative, "names": file.name}
    return found or _plain_folders(root, file.name)


def _look_yolo_plain(root: Path) -> dict[str, dict[str, Any]]:
    file = find_data_file(root)
    return {} if file is None else _plain_folders(root, file.name)


def _plain_folders(root: Path, names: str) -> dict[str, dict[str, Any]]:
    """Splits by the names of folders that hold images: images/train, train/images, train."""
    check_name_lists(root, root / names)
    found: dict[str, dict[str, Any]] = {}
    for name in SPLIT_WORDS:
        for folder in _split_folders(root, name):
            if image_files(folder):
                found[name] = {"images": _below(folder, root), "names": names}
                break
    return found or ({"train": {"images": ".", "names": names}} if image_files(root) else {})


def _look_voc(root: Path) -> dict[str, dict[str, Any]]:
    xmls = root / "Annotations"
    if not files_in(xmls, ".xml"):
        flat = {}
        for name in SPLIT_WORDS:
            for folder in _split_folders(root, name):
                if files_in(folder, ".xml"):
                    flat[name] = {"images": _below(folder, root), "annotations": _below(folder, root)}
                    break
        if not flat and files_in(root, ".xml"):
            flat["train"] = {"images": ".", "annotations": "."}
        return flat
    images = next((name for name in ("JPEGImages", "images", "Images") if (root / name).is_dir()), "Annotations")
    base = {"images": images, "annotations": "Annotations"}
    lists = root / "ImageSets" / "Main"
    found = {
        name: {**base, "list": f"ImageSets/Main/{word}.txt"}
        for name, words in SPLIT_WORDS.items()
        for word in words
        if (lists / f"{word}.txt").is_file()
    }
    return found or {"train": base}


def _look_coco(root: Path) -> dict[str, dict[str, Any]]:
    folders = [root / "annotations", root, *sorted(path for path in root.iterdir() if path.is_dir())]
    files = [file for folder in folders if not folder.name.startswith(".") for file in files_in(folder, ".json")]
    found: dict[str, dict[str, Any]] = {}
    ranked = sorted(dict.fromkeys(files), key=lambda path: not path.name.startswith("instances"))
    for path in ranked:
        name = (
            _split_of(path.stem)
            or (_split_of(path.parent.name) if path.parent != root else None)
            or ("train" if len(ranked) == 1 else None)
        )
        if name is None or name in found or path.name.startswith(("captions", "person_keypoints", "stuff", "panoptic")):
            continue
        try:
            content = any_json(path)
        except DataError:  # who reads it will say so; here it counts by its place and name
            content = {key: [] for key in ("images", "annotations", "categories")} if path.parent != root else {}
        # a file that lacks one of its lists is broken, and who reads it says so; captions and results lack more
        if not isinstance(content, dict) or len({"images", "annotations", "categories"} & set(content)) < 2:
            continue
        images = _images_of(path, root, name, content.get("images"))
        found[name] = {"images": _below(images, root), "annotations": _below(path, root)}
    return {name: found[name] for name in SPLIT_WORDS if name in found}


def _images_of(path: Path, root: Path, split: str, images: Any) -> Path:
    """The folder that a COCO file's first image lies in."""
    first = (
        next((str(i.get("file_name")) for i in images if isinstance(i, dict)), "") if isinstance(images, list) else ""
    )
    stem = re.sub(r"^instances_", "", path.stem)
    places = [root / stem, root / "images" / stem, *_split_folders(root, split), root / "images", path.parent, root]
    there = next((place for place in places if first and is_file(place / first)), None)
    return there or next((place for place in places[:-3] if place.is_dir()), root / stem)


def _split_folders(root: Path, name: str) -> Iterator[Path]:
    for word in SPLIT_WORDS[name]:
        for place in (root / "images" / word, root / word / "images", root / word):
            if place.is_dir():
                yield place
    for parent in (root / "images", root):
        if parent.is_dir():
            yield from (p for p in sorted(parent.iterdir()) if p.is_dir() and _split_of(p.name) == name)


def _split_of(name: str) -> str | None:
    """The split that a name speaks of: instances_train2017 is train, valid is val."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return next((split for split, known in SPLIT_WORDS.items() if words & set(known)), None)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
