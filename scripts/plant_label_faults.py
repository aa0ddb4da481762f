"""Plants faults in the labels of a set, and measures how many of them `data doubt` shows first.

    python scripts/plant_label_faults.py plant DATA OUTPUT [--share 0.05] [--seed 0]
    detr-mini data doubt data.root=OUTPUT output=DOUBTS shown=1000000 ...
    python scripts/plant_label_faults.py precision OUTPUT DOUBTS

A share of the training labels is made faulty, in equal parts: missing (the label is removed), displaced (moved by 0.3
to 0.6 of its width or height and by up to 0.3 of the other side) and misnamed (given another name; not in a set of one
category). OUTPUT is a COCO dataset; OUTPUT.faults.json, beside it, lists the faults. `precision` looks at the first
doubts, as many as the share is of the labels, and of each kind at as many as were planted.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detr_mini.boxes import box_iou, xywh_to_xyxy
from detr_mini.data.tree_parts import write_splits
from detr_mini.formats.convert import check_sizes
from detr_mini.formats.discover import Source

KINDS = ("missing", "displaced", "misnamed")
SAME = 0.5
"""IoU from which a detection shows where a fault's box was."""


def plant(data: Path, output: Path, share: float, seed: int) -> list[dict[str, Any]]:
    """Write a faulty copy of `data`; the faults."""
    trees = Source.found(data).trees()
    tree = trees["train"]
    check_sizes("train", tree)
    content, rng = tree.content, random.Random(seed)
    images = {image["id"]: image for image in content["images"]}
    names = {c["id"]: c["name"] for c in content["categories"]}
    used = sorted({a["category_id"] for a in content["annotations"]})
    kinds = KINDS if len(used) > 1 else KINDS[:2]
    sound = [a for a in content["annotations"] if not a.get("iscrowd") and min(a["bbox"][2:]) > 0]
    chosen = rng.sample(sound, round(share * len(sound)))
    faults, gone = [], set()
    for number, annotation in enumerate(chosen):
        kind, before = kinds[number % len(kinds)], list(annotation["bbox"])
        image = images[annotation["image_id"]]
        fault = {"kind": kind, "file_name": image["file_name"], "before": before,
                 "name": names[annotation["category_id"]]}  # fmt: skip
        if kind == "missing":
            gone.add(id(annotation))
        elif kind == "displaced":
            annotation["bbox"] = _moved(before, image["width"], image["height"], rng)
        else:
            annotation["category_id"] = rng.choice([c for c in used if c != annotation["category_id"]])
        faults.append({**fault, "after": None if kind == "missing" else annotation["bbox"]})
    content["annotations"] = [a for a in content["annotations"] if id(a) not in gone]
    print(write_splits(output, "coco", trees, "link"))
    record = {"labels": len(sound), "share": share, "faults": faults}
    Path(f"{output}.faults.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return faults


def _moved(box: Sequence[float], width: int, height: int, rng: random.Random) -> list[float]:
    """The box elsewhere, inside its image where there is room."""
    x, y, w, h = map(float, box)
    far, near = rng.choice((-1, 1)) * rng.uniform(0.3, 0.6), rng.uniform(-0.3, 0.3)
    dx, dy = (far * w, near * h) if rng.random() < 0.5 else (near * w, far * h)
    new_x, new_y = x + dx, y + dy
    if not 0 <= new_x <= width - w:
        new_x = x - dx
    if not 0 <= new_y <= height - h:
        new_y = y - dy
    return [min(max(new_x, 0.0), max(width - w, 0.0)), min(max(new_y, 0.0), max(height - h, 0.0)), w, h]


def fault_of(doubt: dict[str, Any], faults: Sequence[dict[str, Any]]) -> int | None:
    """The fault that a doubt points at: by its label, or by the place of what was found."""
    for number, fault in enumerate(faults):
        if Path(fault["file_name"]).name != Path(doubt["file_name"]).name:
            continue
        label, found = doubt.get("label"), doubt.get("found")
        if label is not None:
            if fault["after"] is not None and _iou(label["bbox"], fault["after"]) > 0.99:
                return number
        elif found is not None and fault["kind"] != "misnamed" and _iou(found["bbox"], fault["before"]) >= SAME:
            return number
    return None


def _iou(one: Sequence[float], two: Sequence[float]) -> float:
    boxes = [xywh_to_xyxy(torch.tensor([list(map(float, box))], dtype=torch.float64)) for box in (one, two)]
    return float(box_iou(*boxes))


def precision(planted: Path, doubts: Path) -> dict[str, Any]:
    """How many of the first doubts point at a planted fault, over all and by kind; and which faults were found."""
    record = json.loads(Path(f"{planted}.faults.json").read_text(encoding="utf-8"))
    faults = record["faults"]
    listed = json.loads((doubts / "doubts.json").read_text(encoding="utf-8"))["doubts"]
    first = listed[: round(record["share"] * record["labels"])]
    hits = [fault_of(doubt, faults) for doubt in first]
    shown, right = Counter(d["kind"] for d in first), Counter[str]()
    for doubt, hit in zip(first, hits, strict=True):
        right[doubt["kind"]] += hit is not None
    found = Counter(faults[hit]["kind"] for hit in {hit for hit in hits if hit is not None})
    total = Counter(fault["kind"] for fault in faults)
    own = {}
    for kind in KINDS:  # as many of each kind as were planted
        ranked = [doubt for doubt in listed if doubt["kind"] == kind][: total[kind]]
        right_ones = sum(fault_of(doubt, faults) is not None for doubt in ranked)
        own[kind] = {"shown": len(ranked), "right": right_ones}
    return {
        "labels": record["labels"], "shown": len(first), "right": sum(hit is not None for hit in hits),
        "precision": sum(hit is not None for hit in hits) / max(1, len(first)),
        "by_kind_of_doubt": {kind: {"shown": n, "right": right[kind]} for kind, n in sorted(shown.items())},
        "faults_found": {kind: {"planted": total[kind], "found": found[kind]} for kind in KINDS if total[kind]},
        "first_of_each_kind": own,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    planting = tasks.add_parser("plant")
    planting.add_argument("data", type=Path)
    planting.add_argument("output", type=Path)
    planting.add_argument("--share", type=float, default=0.05)
    planting.add_argument("--seed", type=int, default=0)
    measuring = tasks.add_parser("precision")
    measuring.add_argument("planted", type=Path)
    measuring.add_argument("doubts", type=Path)
    given = parser.parse_args(argv)
    if given.task == "plant":
        faults = plant(given.data, given.output, given.share, given.seed)
        print(f"{len(faults)} faults: {dict(Counter(fault['kind'] for fault in faults))}")
    else:
        print(json.dumps(precision(given.planted, given.doubts), indent=1))


if __name__ == "__main__":
    main()
