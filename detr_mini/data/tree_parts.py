"""Parts of a dataset as its annotation files have it, written as a new dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from detr_mini.data.choice import Choice
from detr_mini.errors import ConfigError, nearest
from detr_mini.formats.columns import columns_of
from detr_mini.formats.convert import check_sizes, write_set, written_as
from detr_mini.formats.discover import Source
from detr_mini.formats.faults import NOTICES
from detr_mini.formats.tree import Tree
from detr_mini.formats.writing import new_folder


def part(tree: Tree, ids: Collection[int], categories: Collection[str] | None = None) -> Tree:
    """The content of a split without other images, and without boxes of other categories where some are named.

    What a training only mentions of the images that go, goes with them.
    """
    kept = set(ids)
    gone = {image["file_name"] for image in tree.content["images"] if image["id"] not in kept}
    faults = [fault for fault in tree.faults if fault.kind not in NOTICES or fault.image not in gone]
    named = {c["id"] for c in tree.content["categories"] if categories is None or c["name"] in categories}
    content = {
        **tree.content,
        "images": [image for image in tree.content["images"] if image["id"] in kept],
        "annotations": [a for a in tree.content["annotations"] if a["image_id"] in kept and a["category_id"] in named],
        "categories": [c for c in tree.content["categories"] if c["id"] in named],
    }
    return replace(tree, content=content, faults=faults)


def owned_names(tree: Tree) -> tuple[dict[int, Counter[str]], dict[int, str], list[str]]:
    """Of each image its categories and their boxes (crowd regions aside) and its file name; all categories' names."""
    names = {c["id"]: c["name"] for c in tree.content["categories"]}
    owned: dict[int, Counter[str]] = {image["id"]: Counter() for image in tree.content["images"]}
    for annotation in tree.content["annotations"]:
        if not annotation.get("iscrowd"):
            owned[annotation["image_id"]][names[annotation["category_id"]]] += 1
    return owned, {image["id"]: image["file_name"] for image in tree.content["images"]}, list(names.values())


def subset_of_splits(source: Source, choice: Choice, splits: Sequence[str] | None = None) -> dict[str, Tree]:
    """Every split of `source`: those named in `splits` (None: all) cut to `choice`, the others whole.

    Only boxes of `choice.categories` stay, in every split. ConfigError for a split that does not exist.
    """
    trees = source.trees()
    chosen = list(splits or trees)
    for name in chosen:
        if name not in trees:
            raise ConfigError(f"{source.root} has no split {name!r}{nearest(name, trees)}")
    parts = {}
    for name, tree in trees.items():
        columns_of(tree.content, tree.path)
        wanted = choice if name in chosen else Choice(categories=choice.categories)
        parts[name] = part(tree, wanted.images(*owned_names(tree)), choice.categories)
    return parts


def write_splits(output: str | Path, format: str, parts: Mapping[str, Tree], images: str = "copy") -> list[str]:
    """Write `parts` in `format` into the new folder `output`: what is lost or changed, and the counts of each split.

    `images`: "copy", "link" (hard links where the disk can) or "none".
    """
    notes = [note for name, tree in parts.items() for note in check_sizes(name, tree)]
    with new_folder(output) as folder:
        notes += write_set(folder, format, parts, images)
    counts = (
        f"{name} {len(t.content['images'])} images, {len(t.content['annotations'])} boxes" for name, t in parts.items()
    )
    return [*notes, f"{output} ({written_as(format)}): {'; '.join(counts)}"]
