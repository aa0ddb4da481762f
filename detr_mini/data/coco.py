"""COCO JSON in: one function reads a split, checks it whole, and counts what it clips or leaves out."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detr_mini.data.categories import align, categories_of
from detr_mini.data.images import image_size
from detr_mini.data.report import SplitReport
from detr_mini.errors import ConfigError, DataError
from detr_mini.structures import Categories, Target

ROUNDING = 0.5
"""Pixels by which a box may stick out of its image before that is worth a line in the report."""
LISTED = 100
"""So many names at most stand in one error."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a set."""

    image_id: int
    file_name: str
    """As the JSON has it."""
    path: Path
    size: tuple[int, int]
    """(height, width) of the upright image."""


@dataclass(frozen=True)
class CocoSet:
    """One split, read and checked. Images stand in the order of their ids."""

    records: tuple[ImageRecord, ...]
    categories: Categories
    report: SplitReport
    first: tuple[int, ...]
    """Image i owns the boxes from first[i] to first[i + 1]."""
    boxes_xywh: Float[Tensor, "n 4"]
    """float64, pixels of the upright image."""
    labels: Int[Tensor, "n"]
    is_crowd: Bool[Tensor, "n"]
    area: Float[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The data's ids, ascending."""
        return tuple(record.image_id for record in self.records)

    def target(self, image_id: int) -> Target:
        """The truth of an image, crowd regions included (and marked). KeyError for an unknown id."""
        index = self._index[image_id]
        own = slice(self.first[index], self.first[index + 1])
        return Target(
            boxes=self._boxes_cxcywh[own],
            labels=self.labels[own],
            image_id=image_id,
            original_size=self.records[index].size,
            is_crowd=self.is_crowd[own],
            area=self.area[own],
        )

    @cached_property
    def truth(self) -> dict[str, Any]:
        """COCO JSON content of what is kept: the category ids of `categories`, annotation ids counted from 1."""
        images = [
            {"id": r.image_id, "file_name": r.file_name, "height": r.size[0], "width": r.size[1]} for r in self.records
        ]
        owners = [r.image_id for i, r in enumerate(self.records) for _ in range(self.first[i], self.first[i + 1])]
        columns = zip(
            owners, self.labels.tolist(), self.boxes_xywh.tolist(), self.area.tolist(), self.is_crowd.tolist(),
            strict=True,
        )  # fmt: skip
        annotations = [
            {
                "id": number,
                "image_id": image_id,
                "category_id": self.categories.ids[label],
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
            for number, (image_id, label, box, area, crowd) in enumerate(columns, start=1)
        ]
        return {"info": {}, "images": images, "annotations": annotations, "categories": self.categories.records()}

    @cached_property
    def _index(self) -> dict[int, int]:
        return {record.image_id: index for index, record in enumerate(self.records)}

    @cached_property
    def _boxes_cxcywh(self) -> Float[Tensor, "n 4"]:
        """float32, in [0, 1] of the image."""
        counts = torch.tensor(self.first).diff()
        size = torch.tensor([(r.size[1], r.size[0]) for r in self.records], dtype=torch.float64).reshape(-1, 2)
        per_box = size.repeat_interleave(counts, 0)
        x_y, w_h = self.boxes_xywh[:, :2], self.boxes_xywh[:, 2:]
        return torch.cat([(x_y + w_h / 2) / per_box, w_h / per_box], 1).float()


def read_coco(
    annotations: str | Path,
    images: str | Path,
    *,
    split: str = "train",
    categories: Categories | None = None,
    on_bad_box: str = "drop",
    on_missing: str = "refuse",
    on_wrong_size: str = "refuse",
    limit: int | None = None,
) -> CocoSet:
    """Read the COCO JSON `annotations` of the image files under `images`.

    `categories`: those of the training set, which this file's are mapped to by id and name; None: this is the
    training set. `on_bad_box`: boxes without size are dropped and boxes past the edge clipped, both counted, or the
    file is refused. `on_missing`: what happens where a listed image file is not there. `on_wrong_size`: what happens
    to an image whose size differs from the one in the JSON, so that its boxes mean something else (turned photographs).
    `limit`: the first images only, by id. Segmentations are ignored. Images' headers are read, not their pixels.
    DataError, in one sentence, for whatever cannot be trained on.
    """
    for name, value, known in (
        ("on_bad_box", on_bad_box, ("drop", "refuse")),
        ("on_missing", on_missing, ("refuse", "skip")),
        ("on_wrong_size", on_wrong_size, ("refuse", "skip")),
    ):
        if value not in known:
            raise ConfigError(f"data.{name} is {value!r}; it must be {known[0]!r} or {known[1]!r}")
    path = Path(annotations)
    content = read_json(path)
    report = SplitReport(split)
    listed = _listed_images(content, path)
    used = _checked_references(content, path, listed, report)
    if categories is None:
        categories, label_of, notices = categories_of(content, path, used)
    else:
        label_of, notices = align(content, path, used, categories)
    report.notices += notices
    chosen = {i: listed[i] for i in sorted(listed)[:limit]}
    records = _records(chosen, Path(images), path, report, on_missing, on_wrong_size)
    return _with_boxes(content["annotations"], records, categories, label_of, path, report, on_bad_box)


def read_json(path: Path) -> dict[str, Any]:
    """The content of a COCO JSON file: its lists `images`, `annotations` and `categories`. DataError where broken."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"there is no annotation file {path}; check data.root and the file's name") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and the rights") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not whole JSON ({error.msg} at line {error.lineno}, column {error.colno}); "
                        "it may be cut off: copy or export it again") from None  # fmt: skip
    except UnicodeDecodeError:
        raise DataError(f"{path} is not JSON text; give a COCO annotation file") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no COCO annotations: a JSON object with 'images' and 'annotations' is expected")
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path} has no list '{key}' of records; give a COCO file for detection (instances)")
    return content


def _listed_images(content: Mapping[str, Any], path: Path) -> dict[int, dict[str, Any]]:
    listed: dict[int, dict[str, Any]] = {}
    for number, image in enumerate(content["images"], start=1):
        image_id, name = image.get("id"), image.get("file_name")
        if not _is_whole(image_id):
            raise DataError(f"image number {number} of {path} has the id {image_id!r}; image ids are whole numbers")
        if not isinstance(name, str) or not name:
            raise DataError(f"image {image_id} of {path} has no file_name; add it")
        if image_id in listed:
            raise DataError(f"two images of {path} have the id {image_id} ({listed[image_id]['file_name']} "
                            f"and {name}); give each its own")  # fmt: skip
        listed[image_id] = image
    if not listed:
        raise DataError(f"{path} lists no images; give a file with some")
    return listed


def _checked_references(
    content: Mapping[str, Any], path: Path, listed: Mapping[int, Any], report: SplitReport
) -> Counter[int]:
    """How many annotations each category id has; DataError where one points at nothing or has no box."""
    known = {category.get("id") for category in content["categories"]}
    used: Counter[int] = Counter()
    ids: Counter[Any] = Counter()
    for number, annotation in enumerate(content["annotations"], start=1):
        where = _where(annotation, number, path)
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if not _is_whole(image_id) or image_id not in listed:
            raise DataError(f"{where} belongs to image id {image_id!r}, which is not among the images; "
                            "add the image or remove the annotation")  # fmt: skip
        if not _is_whole(category_id) or category_id not in known:
            raise DataError(f"{where} has category id {category_id!r}, which is not among the categories; "
                            "add the category or mend the id")  # fmt: skip
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
            raise DataError(f"{where} has the bbox {box!r}; it must be four numbers [left, top, width, height]")
        used[category_id] += 1
        ids[annotation.get("id", number)] += 1
    repeated = [i for i, count in ids.items() if count > 1]
    if repeated:
        report.notices.append(
            f"{len(repeated)} annotation ids stand more than once (the first is {repeated[0]!r}); each box counts"
        )
    return used


def _records(
    chosen: Mapping[int, dict[str, Any]],
    folder: Path,
    path: Path,
    report: SplitReport,
    on_missing: str,
    on_wrong_size: str,
) -> tuple[ImageRecord, ...]:
    """The images that are there, with the size of the upright file."""
    if not folder.is_dir():
        raise DataError(f"there is no image folder {folder}; check data.root and data.{report.split}.images")
    missing = [image["file_name"] for image in chosen.values() if not (folder / image["file_name"]).is_file()]
    report.missing += missing
    if missing and on_missing == "refuse":
        names = ", ".join(missing[:LISTED]) + (f" and {len(missing) - LISTED} more" if len(missing) > LISTED else "")
        raise DataError(f"{len(missing)} of {len(chosen)} images that {path} lists are not in {folder}: {names}; "
                        "add them, or leave them out with data.on_missing=skip")  # fmt: skip
    for name in missing:
        report.drop("image file missing", name)
    gone = set(missing)
    records, wrong = [], []
    present = {i: image for i, image in chosen.items() if image["file_name"] not in gone}
    for image_id, image in _tracked(present.items(), len(present), f"Checking the {report.split} images"):
        name = image["file_name"]
        size, turned = image_size(folder / name)
        said = (image.get("height"), image.get("width"))
        if all(said) and said != size:
            sideways = turned and said == (size[1], size[0])
            why = "its size before turning it upright by its EXIF orientation" if sideways else "another size"
            wrong.append(f"{name} is {size[1]} x {size[0]} pixels, the JSON says {said[1]} x {said[0]}, {why}")
            continue
        report.turned += turned
        records.append(ImageRecord(image_id, name, folder / name, size))
    if wrong and on_wrong_size == "refuse":
        raise DataError(f"{wrong[0]} ({len(wrong)} such in {path}): its boxes would land elsewhere; annotate the "
                        "upright image, or leave such images out with data.on_wrong_size=skip")  # fmt: skip
    for sentence in wrong:
        report.drop("image of another size than the JSON says", sentence)
    report.images = len(records)
    if not records:
        raise DataError(f"no image of {path} can be used: none of the {len(chosen)} listed is left in {folder}")
    return tuple(records)


def _with_boxes(
    annotations: list[dict[str, Any]],
    records: tuple[ImageRecord, ...],
    categories: Categories,
    label_of: Mapping[int, int],
    path: Path,
    report: SplitReport,
    on_bad_box: str,
) -> CocoSet:
    """The boxes of the records' images, clipped, those without size left out."""
    index = {record.image_id: i for i, record in enumerate(records)}
    rows: list[list[tuple[list[float], int, bool, float]]] = [[] for _ in records]
    bad = []
    for number, annotation in enumerate(annotations, start=1):
        image = index.get(annotation["image_id"])
        if image is None:
            continue
        height, width = records[image].size
        original = [float(v) for v in annotation["bbox"]]
        box, fault = _clip(original, width, height)
        if fault:
            where = f"{_where(annotation, number, path)} ({records[image].file_name})"
            example = f"{where}: bbox {annotation['bbox']} {fault}"
            bad.append(example)
            if box is None:
                report.drop("box outside its image" if "outside" in fault else "box without size", example)
                continue
            report.clip(example)
        assert box is not None
        area = annotation.get("area")
        area = float(area) if isinstance(area, int | float) and 0 < area < math.inf else box[2] * box[3]
        rows[image].append((box, label_of[annotation["category_id"]], bool(annotation.get("iscrowd", 0)), area))
    if bad and on_bad_box == "refuse":
        raise DataError(f"{bad[0]} ({len(bad)} such boxes in all); mend them, or set data.on_bad_box=drop")
    flat = [row for image_rows in rows for row in image_rows]
    first = [0]
    for image_rows in rows:
        first.append(first[-1] + len(image_rows))
    report.crowd = sum(crowd for _, _, crowd, _ in flat)
    report.boxes = len(flat) - report.crowd
    report.background = sum(all(crowd for _, _, crowd, _ in image_rows) for image_rows in rows)
    counts = Counter(label for _, label, crowd, _ in flat if not crowd)
    report.per_category = {name: counts[label] for label, name in enumerate(categories.names)}
    report.finish()
    return CocoSet(
        records=records,
        categories=categories,
        report=report,
        first=tuple(first),
        boxes_xywh=torch.tensor([box for box, *_ in flat], dtype=torch.float64).reshape(-1, 4),
        labels=torch.tensor([label for _, label, _, _ in flat], dtype=torch.long),
        is_crowd=torch.tensor([crowd for _, _, crowd, _ in flat], dtype=torch.bool),
        area=torch.tensor([area for *_, area in flat], dtype=torch.float32),
    )


def _clip(box: list[float], width: int, height: int) -> tuple[list[float] | None, str]:
    """(xywh box inside the image, or None where nothing is left of it; what is wrong with it, or nothing)."""
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return None, f"has no {'width' if w <= 0 else 'height'}"
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if right <= left or bottom <= top:
        return None, f"lies outside the image of {width} x {height}"
    if max(left - x, top - y, x + w - right, y + h - bottom) <= 0:
        return box, ""
    # a box that sticks out by a rounding error is cut too, for boxes in [0, 1], but is no news
    news = max(left - x, top - y, x + w - right, y + h - bottom) > ROUNDING
    return [left, top, right - left, bottom - top], f"sticks out of the image of {width} x {height}" if news else ""


def _where(annotation: Mapping[str, Any], number: int, path: Path) -> str:
    return f"annotation {annotation['id']} of {path}" if "id" in annotation else f"annotation number {number} of {path}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _tracked(items: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    """`items`, with a bar where there are so many that it takes seconds."""
    if total < 10_000:
        return items
    from rich.progress import track

    return track(items, title, total=total, transient=True)
