"""Annotations and image files together: a split is checked whole; what is clipped or left out is counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from detr_mini.categories import Categories
from detr_mini.environment import on_this_host
from detr_mini.errors import ConfigError, DataError, some_of
from detr_mini.formats.box_rules import (
    CORNERS,
    ROUNDING,
    SHARES,
    BoxFault,
    as_read,
    look_like_corners,
    look_like_shares,
)
from detr_mini.formats.category_records import align, categories_of
from detr_mini.formats.coco_fast import read_columns
from detr_mini.formats.columns import Columns
from detr_mini.formats.faults import OF_IMAGES, Kind
from detr_mini.formats.listing import Listing, moved_notice, names_below
from detr_mini.formats.load_report import SplitReport
from detr_mini.formats.split import CocoSet, ImageRecords, InShards
from detr_mini.images.header import image_size
from detr_mini.images.whole import refuse_cut
from detr_mini.progress import track
from detr_mini.safe_files import is_file, name_fault, shown, spelled_on_disk
from detr_mini.shards.store import ShardStore

LISTED = 100
"""At most this many names stand in one error."""


@dataclass(frozen=True)
class Reading:
    """What to do with data that cannot be used as they are."""

    on_bad_box: str = "drop"
    """Boxes without size are dropped and boxes past the edge clipped, both counted, or the set is refused."""
    on_turned: str = "enclose"
    """Of a box with an angle beside it the upright box around the turned one is used, or it is dropped, or refused."""
    on_missing: str = "refuse"
    """A listed image file is not there."""
    on_bad_image: str = "refuse"
    """A file is no image, or is cut off. Headers and ends are looked at; what is broken in between, the check finds."""
    on_wrong_size: str = "refuse"
    """An image's size differs from the one that is said, so that its boxes mean something else (turned photographs)."""
    on_crowd: str = "ignore"
    """Crowd regions are neither trained on nor scored, or each counts as an object."""
    box_corners: bool = False
    """The four numbers of a box are left, top, right, bottom (COCO: pixels, YOLO: shares of the image, CSV: both)."""

    def __post_init__(self) -> None:
        for name, known in (
            ("on_bad_box", ("drop", "refuse")),
            ("on_turned", ("enclose", "drop", "refuse")),
            ("on_missing", ("refuse", "skip")),
            ("on_bad_image", ("refuse", "skip")),
            ("on_wrong_size", ("refuse", "skip")),
            ("on_crowd", ("ignore", "object")),
            ("box_corners", (False, True)),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"data.{name} is {value!r}; it must be {' or '.join(map(repr, known))}")


def read_coco(
    annotations: str | Path,
    images: str | Path,
    *,
    split: str = "train",
    categories: Categories | None = None,
    limit: int | None = None,
    root: str | Path | None = None,
    **reading: Any,
) -> CocoSet:
    """Read the COCO JSON `annotations` of the image files under `images`.

    `categories`: those of the training set, which this file's are mapped to by id and name; None: this is the
    training set. `limit`: the first images only, by id. `root`: the folder that no file name may lead out of; None:
    `images`. `reading`: see `Reading`. Outlines stand in for boxes that are missing. Images' headers are read, not
    their pixels. DataError, in one sentence, for whatever cannot be trained on.
    """
    rules, path, folder = Reading(**reading), Path(annotations), Path(images)
    columns = read_columns(path, corners=rules.box_corners)
    outside = [name for name in columns.file_names if name_fault(name, folder, Path(root or folder))]
    if outside and (moved := names_below(Listing(folder), outside, columns.file_names)):
        names = [moved.get(name, name) for name in columns.file_names]
        columns = replace(columns, file_names=names, notices=[*columns.notices, moved_notice(moved)])
    for image_id, name in zip(columns.image_ids, columns.file_names, strict=True) if outside else ():
        if fault := name_fault(name, folder, Path(root or folder)):
            raise DataError(f"image {image_id} of {path} has the file_name {shown(name)}, which {fault}; "
                            "give the file's path below the image folder")  # fmt: skip
    return build_set(columns, folder, split, rules, categories, limit, may_be_corners=not rules.box_corners)


def read_sharded(
    store: ShardStore,
    split: str,
    reading: Reading,
    categories: Categories | None = None,
    limit: int | None = None,
) -> CocoSet:
    """The split of a store, as `read_coco` reads the dataset that its shards were made of."""
    columns, is_coco = read_columns(store.annotations), store.index.format == "coco"
    return build_set(
        columns, store.root / store.name, split, reading, categories, limit, may_be_corners=is_coco, store=store
    )


def build_set(
    columns: Columns,
    images: Path,
    split: str,
    reading: Reading,
    categories: Categories | None = None,
    limit: int | None = None,
    report: SplitReport | None = None,
    sizes: Mapping[int, tuple[tuple[int, int], bool]] | None = None,
    may_be_corners: bool = False,
    store: ShardStore | None = None,
) -> CocoSet:
    """What `columns` say of the files under `images`, or in `store`; see `read_coco`.

    `report`: has what the reader has dropped already. `sizes`: of images whose header is read already, by id: what
    `image_size` gives. `may_be_corners`: refuse boxes that look like corners.
    """
    report = report or SplitReport(split)
    report.notices += columns.notices
    used = columns.used
    if categories is None:
        categories, label_of, notices = categories_of({"categories": columns.categories}, columns.path, used)
    else:
        label_of, notices = align({"categories": columns.categories}, columns.path, used, categories)
    report.notices += notices
    if store is None:
        records = _records(columns, images, report, reading, limit, sizes or {})
    else:
        records = _stored_records(columns, images, report, limit, store)
    return _with_boxes(columns, records, categories, label_of, report, reading, may_be_corners)


def _records(
    columns: Columns,
    folder: Path,
    report: SplitReport,
    reading: Reading,
    limit: int | None,
    known: Mapping[int, tuple[tuple[int, int], bool]],
) -> ImageRecords:
    """The images that are there, with the size of the upright file."""
    if not folder.is_dir():
        raise DataError(
            f"there is no image folder {folder}{on_this_host()}; check data.root and data.{report.split}.images"
        )
    path, order = columns.path, np.argsort(columns.image_ids, kind="stable")[:limit].tolist()
    names = {i: columns.file_names[i] for i in order}
    missing = [name for name in names.values() if not is_file(folder / name)]
    if respelled := spelled_on_disk(folder, missing):
        names = {i: respelled.get(name, name) for i, name in names.items()}
        missing = [name for name in missing if name not in respelled]
        report.notices.append(f"{len(respelled)} image files are spelled differently on disk and used: "
                              f"{some_of([f'{a!a} is {b!a}' for a, b in respelled.items()], 3)}")  # fmt: skip
    if missing and (moved := names_below(Listing(folder), missing, columns.file_names)):
        names = {i: moved.get(name, name) for i, name in names.items()}
        missing = [name for name in missing if name not in moved]
        report.notices.append(moved_notice(moved))
    listed = Counter(map(os.path.normpath, names.values()))  # one file may be spelled in several ways
    if twice := [name for name, count in listed.items() if count > 1]:
        report.notices.append(f"{len(twice)} image files are listed more than once: {some_of(twice, 3)}; each record "
                              "counts as an image of its own")  # fmt: skip
    report.missing += missing
    if missing and reading.on_missing == "refuse":
        raise DataError(f"{len(missing)} of {len(names)} images that {path} lists are not in {folder}: "
                        f"{some_of(missing, LISTED)}; "
                        "add them, or leave them out with data.on_missing=skip")  # fmt: skip
    for name in missing:
        report.drop(Kind.IMAGE_MISSING, name, name)
    gone = set(missing)
    kept: list[tuple[int, str, tuple[int, int]]] = []
    wrong: list[tuple[str, str]] = []
    broken: list[tuple[str, str]] = []
    present = [i for i in order if names[i] not in gone]
    for i in track(present, f"Checking the {report.split} images", at_least=10_000):
        image_id, name = int(columns.image_ids[i]), names[i]
        try:
            size, turned = known[image_id] if image_id in known else image_size(folder / name)
            refuse_cut(folder / name)
        except DataError as error:
            broken.append((name, str(error)))
            continue
        said = (int(columns.image_sizes[i, 0]), int(columns.image_sizes[i, 1]))
        if all(said) and said != size:
            sideways = turned and said == (size[1], size[0])
            why = "its size before turning it upright by its EXIF orientation" if sideways else "another size"
            sentence = f"{name} is {size[1]} x {size[0]} pixels, the {_kind(path)} says {said[1]} x {said[0]}, {why}"
            wrong.append((name, sentence))
            continue
        report.turned += turned
        kept.append((image_id, name, size))
    if broken and reading.on_bad_image == "refuse":
        raise DataError(f"{broken[0][1]} ({len(broken)} like this in {path}; data.on_bad_image=skip leaves them out)")
    for name, sentence in broken:
        report.drop(Kind.UNREADABLE_IMAGE, sentence, name)
    if wrong and reading.on_wrong_size == "refuse":
        raise DataError(f"{wrong[0][1]} ({len(wrong)} like this in {path}), so its boxes would be in the wrong "
                        "place; annotate the upright image, or leave such images out with "
                        "data.on_wrong_size=skip")  # fmt: skip
    for name, sentence in wrong:
        report.drop(f"image of another size than the {_kind(path)} says", sentence, name)
    report.images = len(kept)
    if not kept:
        raise DataError(f"no image of {path} can be used: none of the {len(names)} listed is left in {folder}")
    ids, files, sizes = zip(*kept, strict=True)
    return ImageRecords.of(folder, ids, files, sizes)


def _stored_records(
    columns: Columns, folder: Path, report: SplitReport, limit: int | None, store: ShardStore
) -> ImageRecords:
    """The images of a store. What is wrong with one was found when the shards were written."""
    if not np.array_equal(np.sort(columns.image_ids), store.column("image_id")):
        raise DataError(f"{columns.path} lists other images than the shards beside it; {store.index.again(store.root)}")
    order = np.argsort(columns.image_ids, kind="stable")[:limit]
    report.images, report.turned = len(order), int(store.column("turned")[: len(order)].sum())
    sizes = np.stack([store.column("height"), store.column("width")], 1)[: len(order)].tolist()
    names = [columns.file_names[i] for i in order.tolist()]
    ids = columns.image_ids[order].tolist()
    places = InShards(store, torch.arange(len(order)))
    return ImageRecords.of(folder, ids, names, [(height, width) for height, width in sizes], in_shards=places)


def _with_boxes(
    columns: Columns,
    records: ImageRecords,
    categories: Categories,
    label_of: Mapping[int, int],
    report: SplitReport,
    reading: Reading,
    may_be_corners: bool,
) -> CocoSet:
    """The boxes of the records' images, clipped, those without size left out."""
    ids = records.ids.numpy()
    image = np.minimum(np.searchsorted(ids, columns.owners), len(ids) - 1)
    own = np.flatnonzero(ids[image] == columns.owners)
    own = own[np.argsort(image[own], kind="stable")]
    image, sizes = image[own], records.sizes.numpy()
    raw = columns.boxes_xywh[own]
    rotation = columns.rotation[own]
    boxes, area, turned, faults = as_read(raw, rotation, sizes[image], columns.area[own])
    edges = sizes[image][:, ::-1].astype(np.float64)
    if look_like_shares(raw, edges):
        raise DataError(SHARES.format(path=columns.path))
    if may_be_corners and not turned.any() and look_like_corners(raw, raw, edges, ROUNDING):
        raise DataError(CORNERS.format(path=columns.path, read="left, top, width, height"))
    keep = np.ones(len(own), bool)
    bad = []
    for row in np.flatnonzero(np.array([fault is not None for fault in faults], bool) | turned).tolist():
        name = records[int(image[row])].file_name
        text = f"{columns.where(int(own[row]))} ({name}): bbox [{', '.join(f'{v:.12g}' for v in raw[row])}]"
        if turned[row]:
            if reading.on_turned == "refuse":
                raise DataError(f"{text} is turned by {rotation[row]:g} degrees ({int(turned.sum())} boxes like "
                                "this); set data.on_turned=enclose for the upright box around each")  # fmt: skip
            if reading.on_turned == "drop":
                report.drop(Kind.TURNED_BOX, f"{text} is turned by {rotation[row]:g} degrees", name)
                keep[row] = False
                continue
            report.turn(f"{text} is turned by {rotation[row]:g} degrees", name)
        if fault := faults[row]:
            example = f"{text} {fault.text(sizes[image[row]].tolist())}"
            bad.append(example)
            if fault is BoxFault.PAST_EDGE:
                report.clip(example, name)
            else:
                report.drop(fault.kind, example, name)
                keep[row] = False
    if bad and reading.on_bad_box == "refuse":
        raise DataError(f"{bad[0]} ({len(bad)} boxes like this); fix them, or set data.on_bad_box=drop")
    own, image, boxes, area = own[keep], image[keep], boxes[keep], area[keep]
    labels = np.array([label_of[c] for c in columns.category_ids[own].tolist()], np.int64)
    crowd = columns.is_crowd[own] & (reading.on_crowd == "ignore")
    per_image = np.bincount(image, minlength=len(ids))
    report.crowd = int(crowd.sum())
    report.boxes = len(own) - report.crowd
    report.background = int((np.bincount(image[~crowd], minlength=len(ids)) == 0).sum())
    counts = Counter(labels[~crowd].tolist())
    report.per_category = {name: counts[label] for label, name in enumerate(categories.names)}
    if not report.boxes:
        _refuse_without_boxes(columns.path, report)
    for label, count in Counter(labels[crowd].tolist()).items():
        if not counts[label]:
            report.notices.append(f"category {categories.names[label]!r} has crowd regions only ({count}) and cannot "
                                  "be learned; data.on_crowd=object takes crowd regions as objects")  # fmt: skip
    single = np.flatnonzero(~crowd)
    if len(again := single[repeated_rows(np.column_stack([image, labels, boxes])[single])]):
        report.notices.append(f"{len(again)} boxes repeat another one of their image and category: "
                              f"{columns.where(int(own[again[0]]))}; 'detr-mini data check' lists them")  # fmt: skip
    report.finish()
    return CocoSet(
        records=records,
        categories=categories,
        report=report,
        first=torch.from_numpy(np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64)),
        boxes_xywh=torch.from_numpy(np.ascontiguousarray(boxes)),
        labels=torch.from_numpy(labels),
        is_crowd=torch.from_numpy(crowd.copy()),
        area=torch.from_numpy(area),
    )


def _refuse_without_boxes(path: Path, report: SplitReport) -> None:
    """DataError where there were boxes and none is left to learn from or to score."""
    of_boxes = {str(kind) for kind in Kind if kind not in OF_IMAGES}
    lost = {reason: count for reason, count in report.dropped.items() if reason in of_boxes}
    if lost:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in lost.items())
        example = next(report.examples[kind][0] for kind in lost)
        raise DataError(f"no box of {path} ({report.split}) can be used ({kinds}; the first: {example}); fix the "
                        "annotations, 'detr-mini data check' lists every fault")  # fmt: skip
    if report.crowd and report.split == "train":
        raise DataError(f"all {report.crowd} annotations of {path} are crowd regions, which are not objects to learn; "
                        "set data.on_crowd=object to take them as objects")  # fmt: skip


def repeated_rows(rows: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " m"]:
    """The places of rows that equal an earlier one."""
    if len(rows) < 2:
        return np.empty(0, np.int64)
    key = (rows * np.sqrt(np.arange(2.0, 2.0 + rows.shape[1]))).sum(1)  # to sort by; equal rows have the same
    order = np.argsort(key, kind="stable")
    return np.sort(order[1:][(rows[order[1:]] == rows[order[:-1]]).all(1)])


def _kind(path: Path) -> str:
    return "JSON" if path.suffix == ".json" else "annotation"
