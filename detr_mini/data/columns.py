"""What an annotation file says, as arrays: a column a key, a row a record. Images are not asked yet."""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from detr_mini.errors import DataError


@dataclass(frozen=True)
class Columns:
    """The records of one COCO file, or of a VOC or YOLO tree as a COCO file would have them."""

    path: Path
    """What an error names."""
    image_ids: Int[np.ndarray, "i"]
    file_names: Sequence[str]
    image_sizes: Int[np.ndarray, "i 2"]
    """(height, width) as said; 0 where nothing is said."""
    categories: Sequence[Mapping[str, Any]]
    boxes_xywh: Float[np.ndarray, "n 4"]
    owners: Int[np.ndarray, "n"]
    """The image id of each box."""
    category_ids: Int[np.ndarray, "n"]
    is_crowd: Bool[np.ndarray, "n"]
    area: Float[np.ndarray, "n"]
    """NaN where nothing usable is said."""
    rotation: Float[np.ndarray, "n"]
    """Degrees, clockwise, around the box's centre; 0 where nothing is said."""
    annotation_ids: Int[np.ndarray, "n"]
    """-1 where it is no whole number; the place in the file stands for it."""
    where: Callable[[int], str]
    """Names annotation i in an error."""
    notices: Sequence[str] = field(default=())

    @property
    def used(self) -> Counter[int]:
        """How many annotations each category id has."""
        ids, counts = np.unique(self.category_ids, return_counts=True)
        return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


def read_json(path: Path) -> dict[str, Any]:
    """The content of a COCO JSON file: its lists `images`, `annotations` and `categories`. DataError where broken."""
    content = any_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no COCO annotations: a JSON object with 'images' and 'annotations' is expected")
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path} has no list '{key}' of records; give a COCO file for detection (instances)")
    return content


def any_json(path: Path) -> Any:
    """What a JSON file holds; DataError where there is none, or it is broken."""
    try:
        with paused_garbage_collection():
            return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"there is no annotation file {path}; check data.root and the file's name") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and the rights") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not whole JSON ({error.msg} at line {error.lineno}, column {error.colno}); "
                        "it may be cut off: copy or export it again") from None  # fmt: skip
    except UnicodeDecodeError:
        raise DataError(f"{path} is not JSON text; give a COCO annotation file") from None


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """A parser makes millions of objects and no garbage; looking for some again and again doubles its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def columns_of(content: Mapping[str, Any], path: Path) -> Columns:
    """The records of a COCO file's content as arrays; DataError, naming the record, where one cannot be used.

    An annotation's `where` (of VOC and YOLO trees) stands for its id in errors.
    """
    images, annotations = content["images"], content["annotations"]
    listed = _listed_images(images, path)
    known = {category.get("id") for category in content["categories"]}
    for number, annotation in enumerate(annotations, start=1):
        _check_annotation(annotation, number, path, listed, known)
    ids = Counter(annotation.get("id", number) for number, annotation in enumerate(annotations, start=1))
    repeated = [i for i, count in ids.items() if count > 1]
    notices = [
        f"{len(repeated)} annotation ids stand more than once (the first is {repeated[0]!r}); each box counts"
    ] if repeated else []  # fmt: skip
    return Columns(
        path=path,
        image_ids=np.array([image["id"] for image in images], np.int64),
        file_names=[image["file_name"] for image in images],
        image_sizes=np.array([_said_size(image) for image in images], np.int64).reshape(-1, 2),
        categories=content["categories"],
        boxes_xywh=np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4),
        owners=np.array([a["image_id"] for a in annotations], np.int64),
        category_ids=np.array([a["category_id"] for a in annotations], np.int64),
        is_crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], bool),
        area=np.array([_area(a.get("area")) for a in annotations], np.float64),
        rotation=np.array([rotation_of(a) for a in annotations], np.float64),
        annotation_ids=np.array([a["id"] if is_whole(a.get("id")) else -1 for a in annotations], np.int64),
        where=lambda i: where(annotations[i], i + 1, path),
        notices=notices,
    )


def _listed_images(images: Sequence[Mapping[str, Any]], path: Path) -> dict[int, str]:
    listed: dict[int, str] = {}
    for number, image in enumerate(images, start=1):
        image_id, name = image.get("id"), image.get("file_name")
        if not is_whole(image_id):
            raise DataError(f"image number {number} of {path} has the id {image_id!r}; image ids are whole numbers")
        if not isinstance(name, str) or not name:
            raise DataError(f"image {image_id} of {path} has no file_name; add it")
        if image_id in listed:
            other = listed[image_id]
            raise DataError(f"two images of {path} have the id {image_id} ({other} and {name}); "
                            "give each its own")  # fmt: skip
        listed[image_id] = name  # type: ignore[index]
    if not listed:
        raise DataError(f"{path} lists no images; give a file with some")
    return listed


def _check_annotation(
    annotation: Mapping[str, Any], number: int, path: Path, listed: Mapping[Any, str], known: set[Any]
) -> None:
    image_id, category_id, box = [annotation.get(key) for key in ("image_id", "category_id", "bbox")]
    if not is_whole(image_id) or image_id not in listed:
        raise DataError(f"{where(annotation, number, path)} belongs to image id {image_id!r}, which is not among the "
                        "images; add the image or remove the annotation")  # fmt: skip
    if not is_whole(category_id) or category_id not in known:
        raise DataError(f"{where(annotation, number, path)} has category id {category_id!r}, which is not among the "
                        "categories; add the category or mend the id")  # fmt: skip
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box):
        raise DataError(f"{where(annotation, number, path)} has the bbox {box!r}; it must be four numbers "
                        "[left, top, width, height]")  # fmt: skip


def where(annotation: Mapping[str, Any], number: int, path: Path) -> str:
    """Names an annotation in a message."""
    if "where" in annotation:
        return str(annotation["where"])
    return f"annotation {annotation['id']} of {path}" if "id" in annotation else f"annotation number {number} of {path}"


def rotation_of(annotation: Mapping[str, Any]) -> float:
    """The angle that labelling tools put beside an unturned box (`attributes: {"rotation": 60}`), in degrees."""
    attributes = annotation.get("attributes")
    angle = attributes.get("rotation") if isinstance(attributes, Mapping) else None
    try:
        value = float(angle or 0)
    except (TypeError, ValueError):
        return 0.0
    return value % 360 if math.isfinite(value) else 0.0


def _said_size(image: Mapping[str, Any]) -> tuple[int, int]:
    said = image.get("height"), image.get("width")
    return (int(said[0]), int(said[1])) if all(is_number(v) and v > 0 for v in said) else (0, 0)  # type: ignore[arg-type,operator]


def _area(value: Any) -> float:
    return float(value) if is_number(value) and value > 0 else math.nan


def is_whole(value: Any) -> bool:
    """Whether it is a whole number (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
