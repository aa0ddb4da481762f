"""CSV files of boxes: what four numbers are, columns that are asked for, names in two forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_parts import source, write_coco, write_images
from detr_mini.checking.check import check
from detr_mini.checking.report import write_fixed_copy
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.discover import find_layout
from detr_mini.formats.load import read_split
from detr_mini.formats.split import CocoSet

CORNERS = [[20, 15, 50, 38], [30, 10, 59, 30], [5, 4, 12, 9], [40, 20, 58, 39]]
"""Boxes of an image of 60 x 40 pixels as left, top, right, bottom."""
WANTED = [[a, b, c - a, d - b] for a, b, c, d in CORNERS]
SPLIT = {"images": ".", "annotations": "boxes.csv"}


def csv_set(root: Path, *rows: str) -> Path:
    """`rows` as the file boxes.csv, beside the image a.png of 60 x 40 pixels."""
    write_images(root, ["a.png"])
    (root / "boxes.csv").write_text("".join(f"{row}\n" for row in rows))
    return root


def read(root: Path, **how: Any) -> CocoSet:
    return read_split(root, find_layout(root).splits["train"], format="csv", **how)


def rows_of(kind: str) -> list[str]:
    """The corners in a column called bbox, in columns that say width and height, as shares, or without a header."""
    shares = [[a / 60, b / 40, c / 60, d / 40] for a, b, c, d in CORNERS]
    return {
        "bbox": ["image,class,bbox", *(f'a.png,cat,"[{a}, {b}, {c}, {d}]"' for a, b, c, d in CORNERS)],
        "sized": ["image,class,x,y,w,h", *(f"a.png,cat,{a},{b},{c},{d}" for a, b, c, d in CORNERS)],
        "with sizes": [
            "image,image_width,image_height,class,bbox",
            *(f'a.png,60,40,cat,"{a} {b} {c} {d}"' for a, b, c, d in CORNERS),
        ],
        "shares": ["image,class,x,y,w,h", *(f"a.png,cat,{a},{b},{c},{d}" for a, b, c, d in shares)],
        "no header": [f"cat,{a},{b},{c},{d},a.png" for a, b, c, d in CORNERS],
    }[kind]


@pytest.mark.parametrize("kind", ["bbox", "sized", "with sizes", "shares", "no header"])
def test_d26_numbers_of_a_csv_file_that_are_corners_are_reported_and_read_on_demand(tmp_path: Path, kind: str) -> None:
    root = csv_set(tmp_path / "set", *rows_of(kind))
    with pytest.raises(DataError, match=r"look like left, top, right, bottom.*data\.box_corners=true"):
        read(root)
    done = check(source(root), pixels=False)
    assert done.counts["boxes that look like corners"] == 1
    with pytest.raises(DataError, match="look like corners"):
        write_fixed_copy(done, tmp_path / "fixed")
    coco = read(root, box_corners=True)
    assert coco.boxes_xywh.tolist() == [pytest.approx(box) for box in WANTED]
    right = source(root, box_corners=True)
    assert right.trees()["train"].content["annotations"][0]["bbox"] == pytest.approx(WANTED[0])
    assert not check(right, pixels=False).counts["boxes that look like corners"]


def test_a_csv_file_of_widths_and_heights_is_not_taken_for_corners(tmp_path: Path) -> None:
    root = csv_set(tmp_path, "image,class,bbox", *(f'a.png,cat,"[{a}, {b}, {c}, {d}]"' for a, b, c, d in WANTED))
    assert read(root).boxes_xywh.tolist() == WANTED


@pytest.mark.parametrize("form", ["voc", "cvat", "via", "label_studio", "litdata"])
def test_box_corners_is_refused_where_a_format_says_what_its_numbers_are(tmp_path: Path, form: str) -> None:
    split = {"images": "."} if form in ("voc", "litdata") else SPLIT
    with pytest.raises(ConfigError, match=rf"data\.box_corners=true has no meaning in {form}.*for yolo, coco, csv"):
        read_split(tmp_path, split, format=form, box_corners=True)


def test_a_subset_without_its_column_is_one_sentence(tmp_path: Path) -> None:
    root = csv_set(tmp_path, "image,class,xmin,ymin,xmax,ymax", "a.png,cat,15,10,45,30")
    with pytest.raises(DataError, match=r"boxes\.csv has no column of splits for subset=train; give the file a column"):
        read_split(root, {**SPLIT, "subset": "train"}, format="csv")


@pytest.mark.parametrize("edge", ["1.0", "1.0000001", "1.009"])
def test_shares_of_a_csv_file_may_pass_1_by_a_rounding_error(tmp_path: Path, edge: str) -> None:
    root = csv_set(tmp_path, "image,class,x1,y1,x2,y2", f"a.png,cat,0.5,0.25,{edge},1", "a.png,cat,-0.001,0,0.5,0.5")
    assert read(root).boxes_xywh.tolist() == [pytest.approx([30, 10, 30, 30]), pytest.approx([0, 0, 30, 20])]


def test_a_csv_file_of_shares_with_one_in_pixels_is_refused_and_not_trained_on_as_dots(tmp_path: Path) -> None:
    rows = ["a.png,cat,0.25,0.25,0.75,0.75"] * 99
    root = csv_set(tmp_path, "image,class,x1,y1,x2,y2", *rows, "a.png,cat,15,10,45,30")
    with pytest.raises(DataError, match="look like shares of the image"):
        read(root)


@pytest.mark.parametrize("number", ["1e400", "nan", "9" * 5000, "1e12"])
def test_a_number_of_a_csv_file_that_is_no_pixel_is_a_row_that_is_no_box(tmp_path: Path, number: str) -> None:
    rows = ["a.png,cat,15,10,45,30", f"a.png,cat,15,10,{number},30"]
    root = csv_set(tmp_path, "image,class,xmin,ymin,xmax,ymax", *rows)
    coco = read(root)
    assert coco.report.dropped == {"row that is no box": 1}
    assert coco.boxes_xywh.tolist() == [[15, 10, 30, 20]]


@pytest.mark.parametrize("count", [1, 5])
def test_d21_boxes_of_coco_that_are_shares_are_refused(tmp_path: Path, count: int) -> None:
    boxes = [{"bbox": [0.25, 0.5, 0.5, 0.25 + k / 100]} for k in range(count)]
    path, folder = write_coco(tmp_path / "set", annotations=boxes)
    with pytest.raises(DataError, match=r"train\.json look like shares of the image.*; multiply x and width by"):
        read_coco(path, folder)
    done = check(source(tmp_path / "set"), pixels=False)
    assert any("look like shares of the image" in fault.text for fault in done.faults)
    with pytest.raises(DataError, match="look like shares of the image"):
        write_fixed_copy(done, tmp_path / "fixed")


@pytest.mark.parametrize(
    ("boxes", "size"),
    [
        ([[0, 0, 1, 1]], (40, 60)),
        ([[0.25, 0.5, 0.5, 0.25]], (4, 4)),
        ([[0.2, 0.2, 0.5, 0.5], [2, 3, 20, 12]], (40, 60)),
    ],
)
def test_d21_small_boxes_alone_are_not_taken_for_shares(
    tmp_path: Path, boxes: list[list[float]], size: tuple[int, int]
) -> None:
    coco = read_coco(*write_coco(tmp_path, annotations=[{"bbox": box} for box in boxes], size=size))
    assert coco.boxes_xywh.tolist() == boxes


SIZES_AND_CLASSES = {
    "a.png,60,40,15,10,45,30": "object",
    "a.png,15,10,45,30,60,40": "object",
    "a.png,60,40,15,10,45,30,7": "7",
    "a.png,15,10,45,30,7,60,40": "7",
    "a.png,60,40,7,15,10,45,30": "7",
    "a.png,7,15,10,45,30,60,40": "7",
    "7,15,10,30,20,a.png": "7",
    "a.png,cat,60,40,15,10,45,30": "cat",
    "a.png,15,10,45,30,60,40,cat": "cat",
    "a.png,15,10,45,30,train": "train",
    "a.png,15,10,45,30,cat,train": "cat",
}
"""Rows without a header that have one box, in orders that its size and its class allow, and the class."""


@pytest.mark.parametrize("row", SIZES_AND_CLASSES)
def test_numbers_without_a_header_are_the_box_the_size_and_the_class_that_fit(tmp_path: Path, row: str) -> None:
    coco = read(csv_set(tmp_path, row))
    assert coco.boxes_xywh.tolist() == [[15, 10, 30, 20]]
    assert coco.categories.names == (SIZES_AND_CLASSES[row],)


def test_boxes_by_size_beside_the_size_of_their_image_are_found_too(tmp_path: Path) -> None:
    assert read(csv_set(tmp_path, "a.png,60,40,30,20,15,10,30")).boxes_xywh.tolist() == [[30, 20, 15, 10]]


@pytest.mark.parametrize("row", ["a.png,60,40,1,5,10,20,30", "a.png,1,2,3,4,5,6,7,8", "a.png,15,10,45,30,10,8"])
def test_numbers_without_a_header_that_several_orders_or_none_explain_are_not_guessed(tmp_path: Path, row: str) -> None:
    with pytest.raises(DataError):
        read(csv_set(tmp_path, row))


OPEN_IMAGES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside",
    "a,xclick,/m/01yrx,1,0.25,0.75,0.25,0.75,0,0,0,0,0",
    "a,xclick,/m/01yrx,1,0,1,0,1,0,0,1,0,0",
)


def test_groups_of_open_images_are_crowd_regions_and_its_codes_have_their_names(tmp_path: Path) -> None:
    root = csv_set(tmp_path, *OPEN_IMAGES)
    (root / "class-descriptions-boxable.csv").write_text('/m/0bt9lr,Dog\n/m/01yrx,"Cat, of a house"\n')
    coco = read(root)
    assert (coco.report.boxes, coco.report.crowd) == (1, 1)
    assert coco.categories.names == ("Cat, of a house",)
    assert not any("class-descriptions" in notice for notice in coco.report.notices)


def test_codes_of_open_images_without_their_names_are_reported(tmp_path: Path) -> None:
    coco = read(csv_set(tmp_path, *OPEN_IMAGES))
    assert coco.categories.names == ("/m/01yrx",)
    assert any("for example /m/01yrx; put its file class-descriptions-boxable.csv" in n for n in coco.report.notices)


def split_rows(*subsets: str) -> list[str]:
    return ["image,split,class,x1,y1,x2,y2", *(f"a.png,{subset},cat,{k},1,20,9" for k, subset in enumerate(subsets))]


def test_rows_of_a_subset_that_is_no_split_are_reported(tmp_path: Path) -> None:
    layout = find_layout(csv_set(tmp_path, *split_rows("extra", "train", "test")))
    assert {name: split["subset"] for name, split in layout.splits.items()} == {"train": "train", "test": "test"}
    assert "subset extra of boxes.csv is not used: train is train already" in layout.notes


def test_rows_of_a_subset_that_is_no_split_are_train_where_no_other_rows_are(tmp_path: Path) -> None:
    layout = find_layout(csv_set(tmp_path, *split_rows("mine", "test", "mine")))
    assert {name: split["subset"] for name, split in layout.splits.items()} == {"train": "mine", "test": "test"}


def test_rows_with_a_blank_in_the_column_of_splits_are_reported(tmp_path: Path) -> None:
    coco = read(csv_set(tmp_path, *split_rows("train", "", "test", "")))
    assert coco.report.boxes == 1
    assert "2 rows of boxes.csv name no split and are left out" in coco.report.notices


def test_the_sets_of_automl_are_the_splits(tmp_path: Path) -> None:
    sets = ("TRAINING", "UNASSIGNED", "VALIDATION", "TEST")
    rows = [f"{name},gs://bucket/a.png,cat,0.{k}5,0.25,,,0.75,0.75,," for k, name in enumerate(sets)]
    layout = find_layout(csv_set(tmp_path, *rows))
    assert {name: split["subset"] for name, split in layout.splits.items()} == {
        "train": "TRAINING", "val": "VALIDATION", "test": "TEST",
    }  # fmt: skip
    assert any(note.startswith("subset UNASSIGNED of boxes.csv is not used") for note in layout.notes)


def test_of_four_corners_the_third_lies_opposite_the_first(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"], (60, 80))
    (tmp_path / "boxes.csv").write_text("image,x1,y1,x2,y2,x3,y3,x4,y4,label\na.png,10,10,60,10,60,40,10,40,plate\n")
    (box,) = source(tmp_path).trees()["train"].content["annotations"]
    assert box["bbox"] == [10, 10, 50, 30]
