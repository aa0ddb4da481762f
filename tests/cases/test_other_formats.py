"""The rows D-04 to D-07 and C-04 of the cases from public reports: VOC, turned boxes, YOLO."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_parts import AUTO, write_images, write_voc, write_yolo
from detr_mini.errors import DataError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.convert import convert
from detr_mini.formats.discover import Source, find_layout
from detr_mini.formats.load import read_split

MakeCoco = Callable[..., tuple[Path, Path]]
VOC = {"images": "JPEGImages", "annotations": "Annotations", "list": "ImageSets/Main/train.txt"}


def test_D_04_voc_corners_count_from_one_and_include_the_last_pixel(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": {"a": [("bolt", (1, 1, 200, 100))]}}, size=(100, 200))
    coco = read_split(tmp_path, VOC, format="voc")
    assert coco.boxes_xywh.tolist() == [[0, 0, 200, 100]]
    assert coco.report.clipped == 0


def test_D_04_a_file_with_a_corner_at_zero_counts_from_zero_and_is_reported(tmp_path: Path) -> None:
    files = {"a": [("bolt", (1, 1, 200, 100))], "b": [("bolt", (0, 0, 200, 100)), ("bolt", (10, 20, 30, 40))]}
    write_voc(tmp_path, {"train": files}, size=(100, 200))
    coco = read_split(tmp_path, VOC, format="voc")
    assert coco.boxes_xywh.tolist() == [[0, 0, 200, 100], [0, 0, 200, 100], [10, 20, 20, 20]]
    assert coco.boxes_xywh.min() == 0
    assert coco.report.clipped == 0
    assert any("1 of 2 files have a corner at 0" in notice for notice in coco.report.notices)
    all_from_zero = read_split(tmp_path, VOC, format="voc", first_pixel=0)
    assert all_from_zero.boxes_xywh[0].tolist() == [1, 1, 199, 99]


def test_D_04_voc_to_coco_and_back_is_exact(tmp_path: Path) -> None:
    files = {"a": [("bolt", (1, 1, 200, 100)), ("nut", (17, 33, 18, 90))], "b": [("nut", (5, 5, 5, 5))]}
    write_voc(tmp_path / "voc", {"train": files}, size=(100, 200))
    convert(Source.of({"root": tmp_path / "voc", **AUTO}), tmp_path / "coco", "coco")
    convert(Source.of({"root": tmp_path / "coco", **AUTO}), tmp_path / "back", "voc")
    for name in files:
        before, after = ((tmp_path / k / "Annotations" / f"{name}.xml").read_text() for k in ("voc", "back"))
        assert corners(before) == corners(after)


def corners(text: str) -> list[str]:
    import re

    return re.findall(r"<[xy]m(?:in|ax)>(.*?)<", text)


def test_D_05_the_upright_box_around_a_turned_one_is_used_and_counted(make_coco: MakeCoco) -> None:
    turned = {"bbox": [50, 50, 80, 20], "attributes": {"rotation": 60}}
    path, folder = make_coco(
        annotations=[turned, {"bbox": [1, 2, 3, 4], "attributes": {"rotation": 0}}], size=(200, 200)
    )
    coco = read_coco(path, folder)
    wide, high = 80 * 0.5 + 20 * 3**0.5 / 2, 80 * 3**0.5 / 2 + 20 * 0.5
    assert coco.boxes_xywh[0].tolist() == pytest.approx([90 - wide / 2, 60 - high / 2, wide, high])
    assert coco.boxes_xywh[1].tolist() == [1, 2, 3, 4]
    assert coco.area.tolist() == pytest.approx([80 * 20, 12])  # of the object, not of the box around it
    assert coco.report.enclosed == 1
    assert "turned by 60 degrees" in coco.report.examples["turned box, enclosed"][0]


def test_D_05_a_turned_box_can_be_refused_or_left_out(make_coco: MakeCoco) -> None:
    turned = {"bbox": [20, 10, 20, 10], "attributes": {"rotation": 60}}
    path, folder = make_coco(annotations=[turned, {"bbox": [1, 2, 3, 4]}])
    with pytest.raises(DataError, match=r"annotation 1 of .* is turned by 60 degrees \(1 boxes like this\)"):
        read_coco(path, folder, on_turned="refuse")
    coco = read_coco(path, folder, on_turned="drop")
    assert coco.boxes_xywh.tolist() == [[1, 2, 3, 4]]
    assert coco.report.dropped == {"turned box": 1}


def test_D_05_voc_files_carry_the_angle_too(tmp_path: Path) -> None:
    angle = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    write_voc(tmp_path, {"train": {"a": [("bolt", (21, 16, 40, 25))]}}, extra=angle)
    coco = read_split(tmp_path, VOC, format="voc")
    assert coco.boxes_xywh[0].tolist() == pytest.approx([25, 10, 10, 20])
    assert coco.report.enclosed == 1


def test_D_06_labels_beside_their_images_are_used_in_a_folder_called_images_too(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/x.png", "b/images/y.png"])
    for label in ("a/x.txt", "b/images/y.txt"):
        (tmp_path / label).write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: .\nnames: [bolt]\n")
    coco = read_split(tmp_path, find_layout(tmp_path).splits["train"], format="yolo")
    assert [r.file_name for r in coco.records] == ["a/x.png", "b/images/y.png"]
    assert coco.boxes_xywh.tolist() == [[15, 10, 30, 20]] * 2
    assert coco.report.background == 0


def test_D_06_a_high_share_of_background_is_pointed_out(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": {"a": None, "b": None, "c": ["0 0.5 0.5 0.2 0.2"]}})
    report = read_split(tmp_path, {"images": "images/train"}, format="yolo").report
    assert any("2 of 3 images have no box and count as background" in notice for notice in report.notices)
    assert any("image without label file: 2" in notice for notice in report.notices)


def test_D_07_a_box_that_sticks_out_is_clipped_and_its_neighbours_stay(tmp_path: Path) -> None:
    rows = ["0 0.2 0.2 0.1 0.1", "1 0.3 0.3 0.1 0.1", "0 0.95 0.5 0.2 0.1", "2 0.5 0.5 0.1 0.1", "0 0.6 0.6 0.1 0.1"]
    write_yolo(tmp_path, {"train": {"a": rows, "b": ["0 0.5 0.5 0 0.1", "0 0.5 0.5 0.1 0.1"]}}, size=(100, 200))
    report = (coco := read_split(tmp_path, {"images": "images/train"}, format="yolo")).report
    assert coco.report.boxes == 6
    assert coco.boxes_xywh[2].tolist() == pytest.approx([170, 45, 30, 10])
    assert (report.clipped, report.dropped) == (1, {"box without size": 1})
    assert report.by_image == {"images/train/a.png": {"clipped": 1}, "images/train/b.png": {"box without size": 1}}
    assert report.examples["clipped"][0].startswith("row 3 of labels/train/a.txt (images/train/a.png)")


@pytest.mark.parametrize("names", ["[yes, no, on, 7, 012]", "{0: yes, 1: no, 2: on, 3: 7, 4: 012}"])
def test_C_04_names_stay_as_they_are_written(tmp_path: Path, names: str) -> None:
    write_yolo(tmp_path / "y", {"train": {"a": [f"{k} 0.5 0.5 0.2 0.2" for k in range(5)]}}, names=names)
    coco = read_split(tmp_path / "y", {"images": "images/train"}, format="yolo")
    assert coco.categories.names == ("yes", "no", "on", "7", "012")
    convert(Source.of({"root": tmp_path / "y", **AUTO}), tmp_path / "c", "coco")
    content = json.loads((tmp_path / "c" / "annotations" / "train.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["yes", "no", "on", "7", "012"]
    convert(Source.of({"root": tmp_path / "c", **AUTO}), tmp_path / "back", "yolo")
    assert read_split(tmp_path / "back", {"images": "images/train"}, format="yolo").categories == coco.categories
