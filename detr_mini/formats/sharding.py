"""Writes a dataset of any format as shards (`detr-mini data shard`)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detr_mini.errors import ConfigError, DataError, nearest
from detr_mini.formats.coco_format import write_json
from detr_mini.formats.columns import columns_of
from detr_mini.formats.convert import check_sizes
from detr_mini.formats.discover import Source
from detr_mini.formats.licences import MERGED, sources_of
from detr_mini.formats.tree import Tree
from detr_mini.formats.writing import new_folder, owned_by
from detr_mini.images.header import image_size
from detr_mini.images.whole import refuse_cut
from detr_mini.progress import track
from detr_mini.safe_files import name_fault, read_bytes, reason, shown
from detr_mini.shards.index import INDEX, Index, SplitIndex, stored
from detr_mini.shards.writing import MOST_BYTES, ShardWriter

BAR_FROM = 500
"""Images from which on a bar is shown."""


@dataclass(frozen=True)
class Sharded:
    """What was written."""

    images: dict[str, int]
    shards: dict[str, int]
    bytes: dict[str, int]
    notices: list[str]


def shard(
    source: Source, output: str | Path, *, megabytes: int | float = 64, splits: Sequence[str] | None = None
) -> Sharded:
    """Write splits of `source` (None: all) as shards of about `megabytes` into the new folder `output`.

    Image files are written byte for byte, with their annotations, categories and sizes. DataError where an image or an
    annotation cannot be read.
    """
    most = int(megabytes * 2**20)
    if not 0 < most <= MOST_BYTES:
        raise ConfigError(f"shard_megabytes is {megabytes}; it must be above 0 and at most {MOST_BYTES // 2**20}")
    wanted = list(source.splits) if splits is None else list(splits)
    for name in wanted or ("",):
        if name not in source.splits:
            raise ConfigError(f"split names {name!r}{nearest(str(name), source.splits)}; {source.root} has "
                              f"{', '.join(source.splits)}")  # fmt: skip
    done = Sharded({}, {}, {}, [])
    trees = {name: tree for name, tree in source.trees().items() if name in wanted}
    for name, tree in trees.items():
        columns_of(tree.content, tree.path)  # says what cannot be used
        done.notices.extend(check_sizes(name, tree))
    with new_folder(output) as folder:
        index = {name: _write_split(folder, name, tree, most) for name, tree in trees.items()}
        sources = sources_of(source.root, len(trees.get("train", next(iter(trees.values()))).content["images"]))
        (folder / MERGED).write_text(json.dumps(sources, indent=1), encoding="utf-8")
        content = Index(str(source.root), source.format, stored(folder, MERGED), index)
        (folder / INDEX).write_text(content.text(), encoding="utf-8")
    for name, split in index.items():
        done.images[name], done.shards[name] = split.images, len(split.shards)
        done.bytes[name] = sum(file.bytes for file in split.files)
    return done


def _write_split(folder: Path, name: str, tree: Tree, most: int) -> SplitIndex:
    """Images stand in the order of their ids, so that an evaluation reads from front to back."""
    writer = ShardWriter(folder, name, most)
    owned, categories = owned_by(tree), {c["id"]: c.get("name") for c in tree.content["categories"]}
    images = sorted(tree.content["images"], key=lambda image: image["id"])
    rows = []
    for image in track(images, f"Writing the {name} shards", at_least=BAR_FROM):
        path = tree.folder / image["file_name"]
        if fault := name_fault(image["file_name"], folder, folder):
            raise DataError(f"image {image['id']} of {tree.path} has the file_name {shown(image['file_name'])}, which "
                            f"{fault}; 'detr-mini data convert' gives it another name")  # fmt: skip
        refuse_cut(path)
        try:
            content = read_bytes(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({reason(error)}); check the file and its permissions") from None
        (height, width), turned = tree.sizes.get(image["id"]) or image_size(path)
        writer.add(content, _record(image, owned.get(image["id"], ()), categories))
        rows.append((image["id"], len(content), zlib.crc32(content), height, width, int(turned)))
    writer.close()
    table = np.array([(row[0], *place, *row[1:]) for row, place in zip(rows, writer.places, strict=True)], np.int64)
    np.save(folder / name / "table.npy", table)
    _write_annotations(folder / name / "annotations.coco", tree)
    annotations, of_images = (stored(folder, f"{name}/{file}") for file in ("annotations.coco", "table.npy"))
    return SplitIndex(len(images), annotations, of_images, tuple(writer.files))


def _record(image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Mapping[int, Any]) -> bytes:
    """What other programs find beside an image. Training reads the split's COCO file."""
    keys = ("bbox", "category_id", "area", "iscrowd")
    boxes = [{**{key: a[key] for key in keys if key in a}, "category": names[a["category_id"]]} for a in annotations]
    said = {key: image[key] for key in ("id", "file_name", "height", "width")}
    return json.dumps({**said, "annotations": boxes}).encode()


def _write_annotations(path: Path, tree: Tree) -> None:
    annotations = ({k: v for k, v in a.items() if k != "where"} for a in tree.content["annotations"])
    write_json(path, {**tree.content, "annotations": annotations})
