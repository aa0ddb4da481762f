"""The entry point for all annotation formats: the list, detection in a folder, the splits as they are.

`load.read_split` makes of a split what training needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detr_mini.categories import Categories
from detr_mini.environment import on_this_host
from detr_mini.errors import ConfigError, DataError, nearest
from detr_mini.formats.coco_format import COCO, peek
from detr_mini.formats.csv_boxes import CSV
from detr_mini.formats.cvat import CVAT
from detr_mini.formats.label_studio import LABEL_STUDIO
from detr_mini.formats.layout import Layout
from detr_mini.formats.listing import Listing, image_files
from detr_mini.formats.path_words import SPLIT_WORDS
from detr_mini.formats.sharded_format import LITDATA
from detr_mini.formats.tree import Tree
from detr_mini.formats.unrecognised import why_unknown
from detr_mini.formats.values import is_whole
from detr_mini.formats.via import VIA
from detr_mini.formats.voc_format import VOC
from detr_mini.formats.yolo_format import YOLO
from detr_mini.shards.index import read_index
from detr_mini.shards.remote import local_folder

Split = Mapping[str, Any]


FORMATS = {known.name: known for known in (LITDATA, YOLO, VOC, COCO, CVAT, LABEL_STUDIO, VIA, CSV)}
"""In the order in which a folder is tried for them."""


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
    """A split of any format as a COCO file would have it, with its faults."""
    check_split(split, name, format, box_corners)
    given = {key: value for key, value in split.items() if value is not None}
    options = {
        "categories": categories, "box_corners": box_corners, "first_pixel": first_pixel, "difficult": difficult,
    }  # fmt: skip
    known = FORMATS[format]
    return known.read(root, **given, **{option: options[option] for option in known.options})


def check_split(split: Split, name: str, format: str, box_corners: bool = False) -> None:
    """ConfigError for a key that the format does not know or misses, and for `box_corners` where it has no use."""
    if format not in FORMATS:
        raise ConfigError(
            f"data.format is {format!r}{nearest(str(format), FORMATS)}; it must be {', '.join(FORMATS)} or auto"
        )
    known = FORMATS[format]
    if box_corners and "box_corners" not in known.options:
        which = ", ".join(name for name, other in FORMATS.items() if "box_corners" in other.options)
        raise ConfigError(f"data.box_corners=true has no meaning in {format}, whose boxes say what their numbers are; "
                          f"remove it (it is for {which})")  # fmt: skip
    keys = known.keys
    for key in split:
        if key not in keys:
            raise ConfigError(f"data.{name}.{key} does not exist in {format}{nearest(str(key), keys)} "
                              f"(there are: {', '.join(keys)})")  # fmt: skip
    needed = keys[: known.needed]
    for key in needed:
        if not split.get(key):
            raise ConfigError(
                f"data.{name}.{key} is not set; a split in the form {format} needs {' and '.join(needed)}"
            )


def located(root: str | Path, format: str, splits: Mapping[str, Split | str | None]) -> Layout:
    """Where each split lies, "auto" looked up in the folder, val "train" taken as train.

    A test that is absent, or has no annotations, is left out and noted. ConfigError for other words.
    """
    for name, split in splits.items():
        if isinstance(split, str) and split != "auto" and (name, split) != ("val", "train"):
            raise ConfigError(f"data.{name} is {split!r}; it must be auto, null, or a section that says where it lies")
    layout = Layout(format, {})
    if format == "auto" or "auto" in splits.values():
        layout = find_layout(root, None if format == "auto" else format)
    found: dict[str, Any] = {}
    notes = list(layout.notes)
    for name, split in splits.items():
        found[name] = layout.splits.get(name) if split == "auto" else split
        if isinstance(split, Mapping):
            check_split(split, name, layout.format)
            if name == "test" and Path(root).is_dir() and (why := why_absent(Path(root), split, layout.format)):
                found[name] = None
                notes.append(f"test is left out: {why}")
    there = {name: found["train"] if splits[name] == "train" else split for name, split in found.items()}
    return Layout(layout.format, {name: split for name, split in there.items() if split}, tuple(notes))


def why_absent(root: Path, split: Split, format: str) -> str | None:
    """Why nothing can be measured on a split, or None: a file or folder is not there, or has nothing in it."""
    if format == LITDATA.name:
        return None  # its reader says what is wrong
    images = split["images"]
    entries = [str(images)] if isinstance(images, str) else [str(entry) for entry in images]
    for entry in [*entries, *(split[key] for key in ("annotations", "list") if split.get(key))]:
        if not (root / entry).exists():
            return f"there is no {root / entry}"
    if all((root / entry).is_dir() and not image_files(root / entry) for entry in entries):
        return f"there is no image in {', '.join(str(root / entry) for entry in entries)}"
    file = root / split["annotations"] if format == "coco" else None
    if file and "annotations" not in peek(file, ("annotations",)).keys:
        return f"{file} has no annotations"
    return None


@dataclass(frozen=True)
class Source:
    """A dataset as the data tasks take it: all its splits, as they are."""

    root: Path
    format: str
    splits: dict[str, Split]
    first_pixel: str | int = "auto"
    difficult: str = "keep"
    box_corners: bool = False
    notes: tuple[str, ...] = ()
    """How the folder was read; see `Layout`."""

    @classmethod
    def of(cls, config: Mapping[str, Any], *, shards: bool = False) -> Source:
        """From a data config (`configs/data/`). DataError where there is nothing, or shards that are not wanted."""
        root = local_folder(config["root"], config.get("shard_cache"))
        said = {name: config.get(name) for name in SPLIT_WORDS}
        layout = located(root, config.get("format", "coco"), said)
        if layout.format == LITDATA.name and not shards:
            raise DataError(read_index(root).no_files(root))
        there: dict[str, Split] = {name: split for name, split in layout.splits.items() if _is_there(root, split, name)}
        if not there:
            raise DataError(f"there is no split in {root}; check data.root, or say where they lie with "
                            "data.train.images=... and so on")  # fmt: skip
        how = config.get("first_pixel", "auto"), config.get("difficult", "keep"), config.get("box_corners", False)
        return cls(root, layout.format, there, *how, layout.notes)

    @classmethod
    def found(cls, root: str | Path) -> Source:
        """A folder, its format and splits as they are found by look. DataError where there is nothing."""
        return cls.of({"root": root, "format": "auto", **dict.fromkeys(SPLIT_WORDS, "auto")})

    def print_notes(self) -> None:
        """Say how the folder was read, a line each."""
        for note in self.notes:
            print(note)

    def trees(self) -> dict[str, Tree]:
        """Each split's content; one name has one category id in all of them."""
        found: dict[str, Tree] = {}
        known: dict[str, int] = {}
        for name in self.splits:
            found[name] = self.tree(name, known)
            if self.format != "coco":
                known |= {category["name"]: category["id"] for category in found[name].content["categories"]}
        return found

    def tree(self, name: str, known: Mapping[str, int]) -> Tree:
        """A split's content. `known`: names of categories that have an id already (ignored for COCO)."""
        return read_tree(
            self.root, self.splits[name], name, self.format, first_pixel=self.first_pixel, difficult=self.difficult,
            box_corners=self.box_corners, categories=Categories(tuple(known.values()), tuple(known)) if known else None,
        )  # fmt: skip


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
    """What lies below a folder, whatever the folders are called: the format and the splits that `FORMATS` recognise.

    `format`: the one that it is known to have. Of several readings the one with more annotations counts if the other
    has none; else the first in `FORMATS`, and the notes name the others. DataError where nothing is found.
    """
    root = Path(root)
    if format == LITDATA.name:
        read_index(root)  # an error says more than that nothing was recognised
    if not root.is_dir():
        raise DataError(f"there is no folder {root}{on_this_host()}; check data.root")
    found = Listing(root)
    readings = [layout for kind, known in FORMATS.items() if format in (None, kind) and (layout := known.look(found))]
    if not readings:
        raise DataError(why_unknown(found, format, [known.title or kind for kind, known in FORMATS.items()]))
    best = next((layout for layout in readings if layout.labelled), readings[0])
    others = [layout.format for layout in readings if layout is not best and layout.labelled]
    notes = [f"{root} is read as {best.format.upper()}", *best.notes]
    notes += [f"there is {other.upper()}, too; data.format={other} reads that" for other in others]
    return replace(best, notes=tuple(notes))
