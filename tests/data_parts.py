"""Small COCO, VOC and YOLO sets, and files of noise, for the tests of what comes in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from detr_mini.formats.discover import Source

AUTO = {"format": "auto", "train": "auto", "val": "auto", "test": "auto"}
"""A data config that finds out by itself."""


CATEGORIES = ({"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}, {"id": 3, "name": "washer"})


def write_coco(
    root: Path,
    split: str = "train",
    *,
    images: Sequence[Mapping[str, Any]] = ({"id": 1}, {"id": 2}),
    annotations: Sequence[Mapping[str, Any]] = (),
    categories: Sequence[Mapping[str, Any]] = CATEGORIES,
    size: tuple[int, int] = (40, 60),
    write: bool = True,
) -> tuple[Path, Path]:
    """A COCO set under `root`: its JSON file and its image folder. `size` is (height, width) of all images.

    An image record says at least its id; an annotation at least `bbox`. `write`: write the image files too.
    """
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for image in images:
        record = {"file_name": f"{image['id']}.png", "height": size[0], "width": size[1], **image}
        records.append(record)
        if write:
            pixels = np.random.default_rng(int(image["id"])).integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / record["file_name"])
    boxes = [
        {"id": k, "image_id": images[0]["id"], "category_id": categories[0]["id"], "iscrowd": 0, **annotation}
        for k, annotation in enumerate(annotations, start=1)
    ]
    path = root / "annotations" / f"{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": records, "annotations": boxes, "categories": list(categories)}))
    return path, folder


def write_plates(root: Path) -> Path:
    """A COCO set of one TIFF stored in tiles in each of two splits, 400 x 300 pixels with seven small objects."""
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        picture = np.random.default_rng(len(split)).integers(0, 256, (300, 400, 3), np.uint8)
        tifffile.imwrite(root / split / "a.tif", picture, photometric="rgb", tile=(128, 128), compression="zlib")
        boxes = [[40 * k, 30 * k, 20, 12] for k in range(1, 8)]
        content = {
            "images": [{"id": 5, "file_name": "a.tif", "height": 300, "width": 400}],
            "annotations": [
                {"id": k, "image_id": 5, "category_id": 3, "iscrowd": 0, "bbox": box} for k, box in enumerate(boxes, 1)
            ],
            "categories": [{"id": 3, "name": "bolt"}],
        }
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def write_images(folder: Path, names: Sequence[str], size: tuple[int, int] = (40, 60)) -> None:
    """Files of noise, a different one each; `size` is (height, width)."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_voc(
    root: Path,
    splits: Mapping[str, Mapping[str, Sequence[tuple[str, Sequence[float]]]]],
    *,
    size: tuple[int, int] = (40, 60),
    extra: str = "",
) -> Path:
    """A VOC tree: of each split its images' stems, of each its (name, corners). `extra`: XML in each object."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    write_images(root / "JPEGImages", [f"{stem}.png" for split in splits.values() for stem in split], size)
    for name, images in splits.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in images))
        for stem, things in images.items():
            (root / "Annotations" / f"{stem}.xml").write_text(voc_text(f"{stem}.png", things, size, extra))
    return root


def voc_text(
    file: str, things: Sequence[tuple[str, Sequence[float]]], size: tuple[int, int] = (40, 60), extra: str = ""
) -> str:
    """A VOC file of (name, corners)."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox>{extra}</object>"
        for name, (a, b, c, d) in things
    )
    measure = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{file}</filename>{measure}{objects}</annotation>"


def write_yolo(
    root: Path,
    splits: Mapping[str, Mapping[str, Sequence[str] | None]],
    *,
    names: str = "[bolt, nut, washer]",
    size: tuple[int, int] = (40, 60),
) -> Path:
    """A YOLO tree: of each split its images' stems, of each the rows of its label file (None: no such file)."""
    root.mkdir(parents=True, exist_ok=True)
    write_images(root / "images", [f"{name}/{stem}.png" for name, split in splits.items() for stem in split], size)
    for name, images in splits.items():
        for stem, rows in images.items():
            label = root / "labels" / name / f"{stem}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            if rows is not None:
                label.write_text("".join(f"{row}\n" for row in rows))
    lines = [f"{name}: images/{name}" for name in splits]
    (root / "data.yaml").write_text("\n".join([*lines, f"names: {names}", ""]))
    return root


def write_large(
    path: Path, images: int, boxes: int, *, outlines: bool = False, size: tuple[int, int] = (480, 640)
) -> Path:
    """A COCO file as long as the real one: 118,000 images and 860,000 boxes are COCO's training set."""
    rng = np.random.default_rng(0)
    owners, classes = rng.integers(1, images + 1, boxes).tolist(), rng.integers(1, 81, boxes).tolist()
    places = rng.uniform(1, 200, (boxes, 4)).round(2).tolist()
    shape = json.dumps([rng.uniform(0, 600, 50).round(2).tolist()] if outlines else [])
    with path.open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        file.write(
            ",".join(
                f'{{"license": 4, "file_name": "{i:012d}.jpg", "coco_url": "http://images.example.org/{i:012d}.jpg", '
                f'"height": {size[0]}, "width": {size[1]}, "date_captured": "2013-11-14 17:02:52", '
                f'"flickr_url": "http://farm7.example.org/6116/{i}_z.jpg", "id": {i}}}'
                for i in range(1, images + 1)
            )
        )
        file.write('], "annotations": [')
        file.write(
            ",".join(
                f'{{"segmentation": {shape}, "area": {w * h * 0.7:.4f}, "iscrowd": 0, "image_id": {owner}, '
                f'"bbox": [{x}, {y}, {w}, {h}], "category_id": {kind}, "id": {k}}}'
                for k, ((x, y, w, h), owner, kind) in enumerate(zip(places, owners, classes, strict=True), start=1)
            )
        )
        categories = ",".join(f'{{"supercategory": "thing", "id": {k}, "name": "thing {k}"}}' for k in range(1, 81))
        file.write(f'], "categories": [{categories}]}}')
    return path


def source(root: Path, **how: Any) -> Source:
    """The dataset below `root`, its form and splits detected."""
    return Source.of({"root": root, **AUTO, **how})


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A JSON file with its content changed in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path
