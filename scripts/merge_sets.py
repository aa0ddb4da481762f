"""Many COCO folders as one dataset, of one category "thing" or of all their own: what `experiment=start` learns from.

    python scripts/merge_sets.py FURTHER OUTPUT [--names] [--leave-out NAME ...]

FURTHER holds one folder a dataset: `annotations.json` and `images/`. A twentieth of each becomes val. Images are
linked, not copied, where the file system can; their names in OUTPUT begin with their dataset and its folders. With
`--names`, each box keeps the name of its category, in lower case; one name is one category, whichever datasets have it.
OUTPUT/SOURCES.json lists each dataset with its counts and its licence, from FURTHER/LICENCES.tsv (columns `set` and
`licence`): a checkpoint that learned from OUTPUT holds this list.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

VAL_SHARE = 0.05
LEAST_SIDE = 4
"""Pixels: smaller boxes are left out, nothing can be seen in them at the sizes of a start."""


def merge(further: Path, output: Path, leave_out: set[str], names: bool = False) -> None:
    """Write `output`/train and `output`/val, each with its images and `_annotations.coco.json`."""
    categories: list[dict[str, Any]] = [] if names else [{"id": 1, "name": "thing"}]
    merged: dict[str, dict[str, Any]] = {
        split: {"images": [], "annotations": [], "categories": categories} for split in ("train", "val")
    }
    ids: dict[str, int] = {}
    taken: dict[str, Path] = {}
    sources, licences = [], _licences(further / "LICENCES.tsv")
    for folder in sorted(p.parent for p in further.glob("*/annotations.json") if p.parent.name not in leave_out):
        content = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        own = {category["id"]: category["name"].strip().lower() for category in content["categories"]}
        boxes: dict[int, list[tuple[list[float], int, int]]] = {}
        for record in content["annotations"]:
            if min(record["bbox"][2:]) >= LEAST_SIDE:
                kind = ids.setdefault(own[record["category_id"]], len(ids) + 1) if names else 1
                found = (record["bbox"], kind, int(record.get("iscrowd") or 0))
                boxes.setdefault(record["image_id"], []).append(found)
        images = sorted(content["images"], key=lambda record: str(record["file_name"]))
        random.Random(0).shuffle(images)
        held_out = max(1, round(VAL_SHARE * len(images)))
        for place, record in enumerate(images):
            split = merged["val" if place < held_out else "train"]
            source = folder / "images" / record["file_name"]
            name = "__".join([folder.name, *PurePosixPath(record["file_name"]).parts])
            if taken.setdefault(name, source) != source:
                raise SystemExit(f"{taken[name]} and {source} would both become {name}; rename one of them")
            target = output / ("val" if place < held_out else "train") / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(source, target)
            image_id = len(merged["train"]["images"]) + len(merged["val"]["images"]) + 1
            size = {side: record[side] for side in ("width", "height")}
            split["images"].append({"id": image_id, "file_name": name, **size})
            for box, kind, crowd in boxes.get(record["id"], []):
                number = len(split["annotations"]) + 1
                split["annotations"].append(
                    {"id": number, "image_id": image_id, "category_id": kind, "bbox": box, "area": box[2] * box[3],
                     "iscrowd": crowd}
                )  # fmt: skip
        boxes_here = sum(map(len, boxes.values()))
        sources.append({"name": folder.name, "images": len(images), "boxes": boxes_here,
                        "licence": licences.get(folder.name)})  # fmt: skip
    categories += [{"id": number, "name": name} for name, number in ids.items()]
    for split, content in merged.items():
        (output / split / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")
    (output / "SOURCES.json").write_text(json.dumps(sources, indent=1), encoding="utf-8")
    print(f"{len(sources)} datasets: {len(merged['train']['images'])} images to train on, "
          f"{len(merged['val']['images'])} of val")  # fmt: skip


def _licences(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {row["set"]: row["licence"] for row in csv.DictReader(file, delimiter="\t")}


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)  # of an earlier call, whose datasets may have been others
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copy(source, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("further", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--names", action="store_true", help="keep the categories' names")
    parser.add_argument("--leave-out", nargs="*", default=[])
    options = parser.parse_args()
    merge(options.further, options.output, set(options.leave_out), options.names)
