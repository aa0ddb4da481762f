"""Folders of shards (`detr-mini data shard`): recognised by their index. Only annotations are read here."""

from __future__ import annotations

from pathlib import Path

from detr_mini.formats.columns import read_json
from detr_mini.formats.format import Format
from detr_mini.formats.layout import Layout
from detr_mini.formats.listing import Listing
from detr_mini.formats.path_words import SPLIT_WORDS
from detr_mini.formats.tree import Tree
from detr_mini.shards.index import INDEX, is_index, read_index
from detr_mini.shards.store import ShardStore


def look_shards(found: Listing) -> Layout | None:
    """The splits that the index names."""
    if INDEX not in found.files or not is_index(found.root / INDEX):
        return None
    splits = read_index(found.root).splits
    images = sum(split.images for split in splits.values())
    counts = {name: len(split.shards) for name, split in splits.items()}
    each = ", ".join(f"{name} in {count} shard{'' if count == 1 else 's'}" for name, count in counts.items())
    return Layout("litdata", {name: {"images": name} for name in SPLIT_WORDS if name in splits}, (each,), images)


def read_shards(root: Path, images: str) -> Tree:
    """The annotations of a split; its images are no files."""
    store = ShardStore(root, images)
    ids, *sizes, turned = (store.column(name).tolist() for name in ("image_id", "height", "width", "turned"))
    known = {i: (size, bool(t)) for i, size, t in zip(ids, zip(*sizes, strict=True), turned, strict=True)}
    return Tree(read_json(store.annotations), root / images, store.annotations, known)


LITDATA = Format("litdata", look_shards, ("images",), 1, read_shards, options=(), title="Shards (shards.json)")
