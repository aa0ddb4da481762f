from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_parts import AUTO, write_yolo
from detr_mini.data.statistics import split_stats, tables
from detr_mini.drawing.statistics import statistics
from detr_mini.formats.tree import Tree
from detr_mini.verbs.data_stats import data_stats


def tree(annotations: list[dict[str, Any]]) -> Tree:
    images = [{"id": i, "height": h, "width": w} for i, h, w in ((5, 100, 200), (9, 400, 300), (2, 50, 50))]
    categories = [{"id": 3, "name": "bolt"}, {"id": 1, "name": "nut"}, {"id": 2, "name": "washer"}]
    return Tree({"images": images, "annotations": annotations, "categories": categories}, Path(), Path())


BOXES = [
    {"image_id": 9, "category_id": 3, "bbox": [0, 0, 20, 5]},
    {"image_id": 5, "category_id": 1, "bbox": [100, 50, 40, 40]},
    {"image_id": 9, "category_id": 3, "bbox": [0, 0, 100, 400]},
    {"image_id": 9, "category_id": 3, "bbox": [0, 0, 300, 0]},
    {"image_id": 2, "category_id": 3, "bbox": [0, 0, 30, 30], "iscrowd": 1},
]


def test_boxes_are_counted_and_measured_on_their_own_image() -> None:
    stats = split_stats(tree(BOXES))
    assert (len(stats.boxes), stats.crowd, stats.without_size) == (3, 1, 1)
    assert stats.per_image.tolist() == [1, 2, 0]
    assert stats.boxes_of == {"bolt": 2, "nut": 1, "washer": 0}
    assert stats.images_of == {"bolt": 1, "nut": 1, "washer": 0}
    assert stats.side.tolist() == pytest.approx([10, 40, 200])
    assert stats.relative_side.tolist() == pytest.approx([10 / 400, 40 / 200, 200 / 400])
    assert stats.aspect.tolist() == [4, 1, 0.25]
    assert stats.centres.tolist() == [pytest.approx(c) for c in ([10 / 300, 2.5 / 400], [0.6, 0.7], [50 / 300, 0.5])]
    assert stats.small_medium_large() == (1, 1, 1)


def test_boxes_are_measured_as_a_training_reads_them() -> None:
    boxes = [
        {"image_id": 9, "category_id": 3, "bbox": [250, 0, 100, 100], "area": 10_000},
        {"image_id": 9, "category_id": 3, "bbox": [310, 0, 20, 20]},
        {"image_id": 9, "category_id": 1, "bbox": [100, 100, 60, 20], "attributes": {"rotation": 90}},
        {"image_id": 9, "category_id": 1, "bbox": [100, 100, 60, 0], "attributes": {"rotation": 45}},
    ]
    stats = split_stats(tree(boxes))
    assert (len(stats.boxes), stats.outside, stats.without_size) == (2, 1, 1)
    np.testing.assert_allclose(stats.boxes, [[250, 0, 50, 100], [120, 80, 20, 60]])
    np.testing.assert_allclose(stats.area, [5000, 1200])
    assert stats.boxes_of == {"bolt": 1, "nut": 1, "washer": 0}
    assert stats.to_dict()["boxes_outside"] == 1


def test_a_set_without_boxes_has_numbers_and_a_picture_too(tmp_path: Path) -> None:
    stats = split_stats(tree([]))
    assert stats.to_dict()["images_without_boxes"] == 3
    assert stats.to_dict()["box_side_pixels"] == {}
    json.dumps(stats.to_dict())
    assert len(tables({"train": stats})) == 2
    statistics({"train": stats}, tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).std() > 0


def test_the_verb_prints_tables_and_writes_numbers_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["0 0.5 0.5 0.5 0.5"]
    write_yolo(tmp_path / "set", {"train": {"a": rows, "b": []}, "val": {"c": rows}}, names='["[bolt]", nut]')
    data_stats({"data": {"root": tmp_path / "set", **AUTO}, "output": tmp_path / "out"})
    shown = capsys.readouterr().out
    assert "[bolt]" in shown
    numbers = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert numbers["train"]["categories"]["[bolt]"] == {"images": 1, "boxes": 1}
    assert Image.open(tmp_path / "out" / "stats.png").size[0] > 1000


def test_blood_cells_in_numbers(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    data_stats({"data": {"root": shared_data("bccd_voc"), **AUTO}, "output": tmp_path})
    train = json.loads((tmp_path / "stats.json").read_text())["train"]
    assert (train["images"], train["boxes"], train["boxes_without_size"]) == (205, 2804, 1)
    assert 100 < train["box_side_pixels"]["50 %"] < 106
