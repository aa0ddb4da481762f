"""From the annotations of a split, in any format, to the arrays of training (`CocoSet`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from detr_mini.categories import Categories
from detr_mini.errors import DataError
from detr_mini.formats.annotation_cache import kept
from detr_mini.formats.coco import Reading, build_set, read_coco, read_sharded
from detr_mini.formats.columns import columns_of
from detr_mini.formats.discover import Split, check_split, read_tree
from detr_mini.formats.faults import FATAL, LOSSLESS, NOTICES
from detr_mini.formats.load_report import SplitReport
from detr_mini.formats.split import CocoSet, InShards
from detr_mini.formats.tree import Tree
from detr_mini.shards.store import ShardStore


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
    annotation_cache: str | Path | None = None,
    **reading: Any,
) -> CocoSet:
    """One split below `root`, in whatever form it is there; `split` says where (see `Format.keys`).

    `categories`: those of the training set. `limit`: the first images only, by id. `first_pixel`, `difficult`: see
    `read_voc`; `annotation_cache`: see `annotation_cache.kept`; `reading`: see `coco.Reading`. DataError, in one
    sentence, for whatever cannot be trained on.
    """
    root, rules = Path(root), Reading(**reading)
    settings = {"split": name, "limit": limit, "root": os.path.abspath(root), **asdict(rules)}
    settings |= {"categories": None if categories is None else categories.to_dict()}
    if format == "coco":
        check_split(split, name, format)
        paths = root / split["annotations"], root / split["images"]

        def read() -> CocoSet:
            return read_coco(*paths, split=name, categories=categories, limit=limit, root=root, **reading)

        return kept(annotation_cache, *paths, settings, read)
    if format == "litdata":
        check_split(split, name, format, rules.box_corners)
        store = ShardStore(root, split["images"])
        settings |= {"content": store.split.annotations.sha256}
        # what is kept depends on the annotations alone: the shards have checksums of their own
        found = kept(annotation_cache, store.annotations, store.annotations, settings,
                     lambda: read_sharded(store, name, rules, categories, limit))  # fmt: skip
        places = InShards(store, torch.arange(len(found.records)))
        return replace(found, records=replace(found.records, folder=store.root / store.name, in_shards=places))
    tree = read_tree(
        root, split, name, format, first_pixel=first_pixel, difficult=difficult, box_corners=rules.box_corners,
        categories=categories,
    )  # fmt: skip
    report = SplitReport(name, notices=list(tree.notices))
    _take_faults(tree, report, rules)
    columns = columns_of(tree.content, tree.path)
    return build_set(columns, tree.folder, name, rules, categories, limit, report, tree.sizes)


def read_fixed(
    tree: Tree, name: str, categories: Categories | None, limit: int | None, reading: Mapping[str, Any]
) -> CocoSet:
    """A split as fixed by `check`."""
    columns = columns_of(tree.content, tree.path)
    return build_set(columns, tree.folder, name, Reading(**reading), categories, limit)


def _take_faults(tree: Tree, report: SplitReport, rules: Reading) -> None:
    """Refuse, drop and count, or mention what the reader could not use."""
    fatal = [fault for fault in tree.faults if fault.kind in FATAL]
    bad = [fault for fault in tree.faults if fault.kind not in (*FATAL, *LOSSLESS)]
    refused = fatal or (bad if rules.on_bad_box == "refuse" else [])
    if refused:
        fix = "fix it" if fatal else "fix them, or set data.on_bad_box=drop"
        raise DataError(f"{refused[0].kind}: {refused[0].text} ({len(refused)} like this; 'detr-mini data check' "
                        f"lists them); {fix}")  # fmt: skip
    for fault in bad:
        report.drop(fault.kind, fault.text, fault.image)
    for kind in NOTICES:
        found = [fault for fault in tree.faults if fault.kind is kind]
        if found:
            examples = ", ".join(fault.image for fault in found[:3])
            report.notices.append(f"{kind}: {len(found)}, for example {examples}")
