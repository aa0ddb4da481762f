"""What several tests share: tiny COCO sets, made scenes, and the way to real photographs where there are some."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detr_mini.data.shapes import ensure_scenes

CATEGORIES = ({"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}, {"id": 3, "name": "washer"})
MakeCoco = Callable[..., tuple[Path, Path]]


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


@pytest.fixture
def make_coco(tmp_path: Path) -> MakeCoco:
    """`write_coco` in this test's own folder: `path, folder = make_coco(annotations=[{"bbox": [1, 2, 3, 4]}])`."""

    def make(split: str = "train", **parts: Any) -> tuple[Path, Path]:
        return write_coco(tmp_path, split, **parts)

    return make


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made scenes of 64 px: 16 train, 8 val, 6 test. Read only."""
    root = tmp_path_factory.mktemp("scenes") / "shapes"
    ensure_scenes(root, train=16, val=8, test=6, seed=0, size=64, processes=1)
    return root


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("coco_mini")`: the folder of a real data set, or the test is skipped."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("DETR_MINI_DATA", beside))

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"no real data: set DETR_MINI_DATA to a folder that holds {name}")
        return root / name

    return find
