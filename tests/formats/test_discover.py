from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_parts import AUTO, voc_text, write_coco, write_images, write_voc, write_yolo
from detr_mini.checking.check import check
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.convert import convert
from detr_mini.formats.discover import Source, find_layout, located, names_used
from detr_mini.formats.faults import Kind
from detr_mini.formats.load import read_split
from detr_mini.formats.path_words import split_of_name
from detr_mini.formats.voc import _corner_texts, _xywh
from detr_mini.formats.yolo import fractions, pixels
from detr_mini.formats.yolo_names import read_data_file

TREE = {"train": {"a": ["0 0.5 0.5 0.5 0.5"], "b": ["2 0.25 0.25 0.5 0.5"]}, "val": {"c": ["1 0.5 0.5 0.5 0.5"]}}
VOC = {"images": "JPEGImages", "annotations": "Annotations", "list": "ImageSets/Main/train.txt"}
YOLO = {"images": "images/train"}


def test_yolo_rows_become_pixels(tmp_path: Path) -> None:
    write_yolo(tmp_path, TREE)
    coco = read_split(tmp_path, YOLO, format="yolo")
    assert coco.boxes_xywh.tolist() == [[15, 10, 30, 20], [0, 0, 30, 20]]
    assert coco.labels.tolist() == [0, 2]
    assert coco.categories.ids == (0, 1, 2)
    assert [r.file_name for r in coco.records] == ["images/train/a.png", "images/train/b.png"]


def test_stems_that_are_numbers_are_the_images_ids(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": {"000000000139": [], "42": []}})
    assert read_split(tmp_path, YOLO, format="yolo").image_ids == (42, 139)


def test_a_list_of_files_is_a_split_too(tmp_path: Path) -> None:
    write_yolo(tmp_path, TREE)
    (tmp_path / "some.txt").write_text("./images/train/b.png\n")
    coco = read_split(tmp_path, {"images": "some.txt"}, format="yolo")
    assert [r.file_name for r in coco.records] == ["images/train/b.png"]
    assert coco.report.notices == []  # a.txt belongs to an image, if not to one of this split


def test_labels_lie_where_they_are_said_to(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", ["deep/a.png"])
    (tmp_path / "boxes" / "deep").mkdir(parents=True)
    (tmp_path / "boxes" / "deep" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("bolt\nnut\n")
    coco = read_split(tmp_path, {"images": "photos", "labels": "boxes"}, format="yolo")
    assert coco.report.boxes == 1
    assert coco.categories.names == ("bolt", "nut")


def test_a_blank_line_in_a_list_of_names_is_a_class_without_a_name(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": {"a": ["0 0.5 0.5 0.5 0.5", "2 0.5 0.5 0.2 0.2"]}})
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("\n  \nbolt\n\nnut\n\n\n")  # blank lines around the names do not count
    coco = read_split(tmp_path, YOLO, format="yolo")
    assert coco.report.per_category == {"bolt": 1, "nut": 1}
    assert coco.categories.ids == (0, 2)
    (tmp_path / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    with pytest.raises(DataError, match=r"class index out of range: .*: 1, but classes.txt has 2 names, 0 to 2"):
        read_split(tmp_path, YOLO, format="yolo")


@pytest.mark.parametrize(
    ("name", "text"),
    [("classes.txt", ""), ("labels.txt", "\n \n"), ("obj.names", "\n"), ("notes.json", '{"categories": []}')],
)
def test_a_list_without_a_name_is_no_list_of_names(tmp_path: Path, name: str, text: str) -> None:
    write_yolo(tmp_path, {"train": {"a": ["1 0.5 0.5 0.5 0.5"]}})
    (tmp_path / "data.yaml").unlink()
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name} has no names; write "):
        read_data_file(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} has no names; write "):
        read_split(tmp_path, {**YOLO, "names": name}, format="yolo")
    layout = find_layout(tmp_path)
    assert layout.notes[1].startswith("no list of class names")
    assert read_split(tmp_path, layout.splits["train"], format="yolo").categories.names == ("class_0", "class_1")
    done = check(Source.of({"root": tmp_path, **AUTO, "format": "yolo", "train": {**YOLO, "names": name}}))
    assert Kind.BROKEN_FILE in [fault.kind for fault in done.faults]


OF_ANOTHER_PROGRAM = "apiVersion: v1\nkind: Pod\nnamespace: cats\nmetadata:\n  names: [a]\n"


@pytest.mark.parametrize(
    "text", [OF_ANOTHER_PROGRAM, "names: pods\nkind: List\n", "names: {a: [b\n", "names: [x\ntrain: y\n"]
)
def test_a_yaml_file_of_another_program_does_not_hide_a_dataset(tmp_path: Path, text: str) -> None:
    coco_files(tmp_path / "coco", ["instances_train.json"])
    write_images(tmp_path / "coco", ["train/a.png"])
    write_voc(tmp_path / "voc", {"train": {"a": [("nut", (1, 1, 9, 9))]}})
    write_yolo(tmp_path / "yolo", {"train": {"a": ["0 0.5 0.5 0.5 0.5"]}})
    for form in ("coco", "voc"):
        for folder in ("deploy", "more"):
            (tmp_path / form / folder).mkdir()
            (tmp_path / form / folder / "pod.yaml").write_text(text)
        assert find_layout(tmp_path / form).format == form
    (tmp_path / "yolo" / "namespace.yaml").write_text(OF_ANOTHER_PROGRAM)
    assert find_layout(tmp_path / "yolo").splits["train"]["names"] == "data.yaml"
    assert read_split(tmp_path / "yolo", YOLO, format="yolo").report.boxes == 1
    (tmp_path / "yolo" / "data.yaml").write_text("'names' : [bolt]\ntrain: images/train\n")
    assert find_layout(tmp_path / "yolo").splits["train"]["names"] == "data.yaml"


def test_outlines_and_turned_boxes_of_four_corners_are_enclosed(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": {"a": ["0 0.5 0 1 0.5 0.5 1 0 0.5", "1 0.1 0.1 0.3 0.1 0.2 0.5"]}})
    coco = read_split(tmp_path, YOLO, format="yolo")
    assert coco.boxes_xywh.tolist() == [[0, 0, 60, 40], pytest.approx([6, 4, 12, 16])]
    assert any("outline: 2" in notice for notice in coco.report.notices)


@pytest.mark.parametrize(
    "row",
    [
        "0 0.5 0.5 0.5",
        "0 0.5 0.5 0.5 0.5 0.9",
        "bolt 0.5 0.5 0.5 0.5",
        "0 nan 0.5 0.5 0.5",
        "0 0.5 0.5 0.2 0.2 0.1 0.1 snan 0.1 0.1 1",
    ],
)
def test_a_row_that_is_no_box_is_dropped_and_counted_or_refused(tmp_path: Path, row: str) -> None:
    write_yolo(tmp_path, {"train": {"a": ["0 0.5 0.5 0.5 0.5", row]}})
    coco = read_split(tmp_path, YOLO, format="yolo")
    assert coco.report.dropped == {"row that is no box": 1}
    assert "row 2 of labels/train/a.txt" in coco.report.examples["row that is no box"][0]
    with pytest.raises(DataError, match=r"row that is no box: row 2 of labels/train/a\.txt"):
        read_split(tmp_path, YOLO, format="yolo", on_bad_box="refuse")


@pytest.mark.parametrize("index", ["3", "-1", "1.5"])
def test_a_class_that_has_no_name_is_refused(tmp_path: Path, index: str) -> None:
    write_yolo(tmp_path, {"train": {"a": [f"{index} 0.5 0.5 0.5 0.5"]}})
    with pytest.raises(DataError, match=r"class index out of range: row 1 of labels/train/a.txt: .* 3 names, 0 to 2"):
        read_split(tmp_path, YOLO, format="yolo")


def test_what_no_one_uses_is_mentioned(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": {"a": ["0 0.5 0.5 0.5 0.5"], "b": None}})
    (tmp_path / "labels" / "train" / "gone.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "labels" / "train" / "readme.txt").write_text("how these were made\n")
    notices = read_split(tmp_path, YOLO, format="yolo").report.notices
    assert len(notices) == 2
    assert "images/train/b.png" in notices[0]
    assert "labels/train/gone.txt" in notices[1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: images/train\n", "has no names"),
        ("names: [a, [b]]\n", "has the name"),
        ("names: {x: a}\n", "has the name 'a' for the class 'x'"),
        ("names: [a\n", "cannot be read"),
    ],
)
def test_a_broken_data_file_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_data_file(tmp_path / "data.yaml")


def test_voc_categories_stand_by_name_and_other_splits_take_over_their_ids(tmp_path: Path) -> None:
    box = (1, 1, 10, 10)
    write_voc(tmp_path, {"train": {"a": [("nut", box), ("bolt", box)]}, "val": {"b": [("nut", box)]}})
    train = read_split(tmp_path, VOC, format="voc")
    assert train.categories.names == ("bolt", "nut")
    val_split = {**VOC, "list": "ImageSets/Main/val.txt"}
    val = read_split(tmp_path, val_split, "val", format="voc", categories=train.categories)
    assert val.labels.tolist() == [1]
    assert val.report.notices == []


def test_a_class_in_val_that_train_lacks_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    box = (1, 1, 10, 10)
    write_voc(tmp_path, {"train": {"a": [("washer", box)]}, "val": {"b": [("wascher", box)]}})
    train = read_split(tmp_path, VOC, format="voc")
    with pytest.raises(DataError, match=r"'wascher' .* unknown to the training set .* did you mean 'washer'"):
        read_split(
            tmp_path, {**VOC, "list": "ImageSets/Main/val.txt"}, "val", format="voc", categories=train.categories
        )


def test_difficult_objects_are_kept_or_ignored_and_counted(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": {"a": [("nut", (1, 1, 10, 10)), ("nut", (11, 1, 20, 10))]}})
    path = tmp_path / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    kept = read_split(tmp_path, VOC, format="voc")
    assert (kept.report.boxes, kept.report.crowd) == (2, 0)
    assert "1 objects are marked as difficult and kept" in kept.report.notices[0]
    ignored = read_split(tmp_path, VOC, format="voc", difficult="ignore")
    assert (ignored.report.boxes, ignored.report.crowd) == (1, 1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda root: (root / "Annotations" / "a.xml").write_text("<annotation><obj"), "broken annotation file"),
        (lambda root: (root / "ImageSets" / "Main" / "train.txt").write_text("\n"), "is empty"),
        (lambda root: (root / "ImageSets" / "Main" / "train.txt").unlink(), "there is no list"),
        (lambda root: (root / "JPEGImages" / "a.png").unlink(), "are not in"),
        (lambda root: (root / "JPEGImages").rename(root / "Images"), "there is no folder"),
    ],
)
def test_a_broken_voc_tree_is_refused_in_one_sentence(
    tmp_path: Path, change: Callable[[Path], Any], sentence: str
) -> None:
    write_voc(tmp_path, {"train": {"a": [("nut", (1, 1, 10, 10))], "b": []}})
    change(tmp_path)
    with pytest.raises(DataError, match=sentence) as error:
        read_split(tmp_path, VOC, format="voc")
    assert "\n" not in str(error.value)


def test_a_size_that_differs_from_the_xml_is_refused_or_skipped(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": {"a": [("nut", (1, 1, 9, 9))], "b": []}})
    write_images(tmp_path / "JPEGImages", ["b.png"], (50, 60))
    with pytest.raises(DataError, match=r"b\.png is 60 x 50 pixels, the annotation says 60 x 40"):
        read_split(tmp_path, VOC, format="voc")
    assert len(read_split(tmp_path, VOC, format="voc", on_wrong_size="skip")) == 1


whole = st.integers(0, 5000).map(float)
parts = st.floats(0, 5000, allow_nan=False).map(lambda v: round(v, 6)) | st.floats(1e-9, 5000) | whole
boxes = st.lists(parts, min_size=4, max_size=4)


@given(boxes)
def test_any_box_goes_through_voc_and_comes_back_the_same(box: list[float]) -> None:
    from decimal import Decimal

    texts = _corner_texts(box)
    corners = tuple(Decimal(text) for text in texts)
    assert _xywh(corners, 1, any("." in text for text in texts)) == box  # type: ignore[arg-type]


@settings(max_examples=300)
@given(boxes, st.integers(1, 6000), st.integers(1, 6000))
def test_any_box_goes_through_yolo_and_comes_back_the_same(box: list[float], width: int, height: int) -> None:
    from decimal import Decimal

    assert pixels([Decimal(text) for text in fractions(box, width, height)], width, height) == box


@given(st.lists(st.integers(0, 10**6).map(lambda v: v / 10**6), min_size=4, max_size=4), st.integers(1, 4000))
def test_six_decimals_come_back_as_the_same_numbers(row: list[float], width: int) -> None:
    from decimal import Decimal

    box = pixels([Decimal(repr(v)) for v in row], width, 640)
    assert [float(text) for text in fractions(box, width, 640)] == pytest.approx(row, abs=5e-7)


def coco_files(root: Path, names: list[str], folder: str = "annotations") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        content = {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [],
            "categories": [{"id": 1, "name": "x"}],
        }
        (root / folder / name).write_text(json.dumps(content))


def test_coco_s_own_layout_is_found(tmp_path: Path) -> None:
    coco_files(tmp_path, ["instances_train2017.json", "instances_val2017.json", "captions_val2017.json"])
    write_images(tmp_path, ["train2017/a.png", "val2017/a.png"])
    layout = find_layout(tmp_path)
    assert layout.format == "coco"
    assert layout.splits == {
        "train": {"images": "train2017", "annotations": "annotations/instances_train2017.json"},
        "val": {"images": "val2017", "annotations": "annotations/instances_val2017.json"},
    }


def test_exports_with_the_json_beside_the_images_are_found(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        coco_files(tmp_path, ["_annotations.coco.json"], split)
        write_images(tmp_path, [f"{split}/a.png"])
    layout = find_layout(tmp_path)
    assert {name: split["images"] for name, split in layout.splits.items()} == {
        "train": "train", "val": "valid", "test": "test",
    }  # fmt: skip


def test_one_json_and_its_images_are_a_training_set(tmp_path: Path) -> None:
    coco_files(tmp_path, ["labels.json"], ".")
    write_images(tmp_path, ["a.png"])
    assert find_layout(tmp_path).splits == {"train": {"images": ".", "annotations": "labels.json"}}


def test_yolo_exports_that_say_dot_dot_are_found(tmp_path: Path) -> None:
    write_images(tmp_path, ["train/images/a.png", "valid/images/b.png"])
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: [x]\n")
    layout = find_layout(tmp_path)
    assert layout.format == "yolo"
    assert [r.file_name for r in read_split(tmp_path, layout.splits["val"], format="yolo").records] == [
        "valid/images/b.png"
    ]


def test_xml_files_beside_their_images_are_found(tmp_path: Path) -> None:
    write_images(tmp_path, ["train/a.png", "valid/b.png"])
    for path in ("train/a", "valid/b"):
        (tmp_path / f"{path}.xml").write_text(voc_text("x.png", [("nut", (1, 1, 5, 5))]))
    layout = find_layout(tmp_path)
    assert layout.format == "voc"
    assert read_split(tmp_path, layout.splits["val"], format="voc").report.boxes == 1


@pytest.mark.parametrize(
    ("images", "other"),
    [("images/{}.jpg", "annotations/trimaps/{}.png"), ("images/{}.png", "thumbs/{}.jpg")],
)
def test_images_that_xml_files_name_are_not_taken_for_others_of_their_names(
    tmp_path: Path, images: str, other: str
) -> None:
    write_images(tmp_path, [place.format(stem) for place in (images, other) for stem in "XY"])
    (tmp_path / "annotations" / "xmls").mkdir(parents=True)
    for stem in "XY":
        text = voc_text(f"{stem}.jpg", [("cat", (1, 1, 9, 9))])
        (tmp_path / "annotations" / "xmls" / f"{stem}.xml").write_text(text)
    layout = find_layout(tmp_path)
    assert layout.format == "voc"
    assert layout.splits["train"]["images"] == images.partition("/")[0]
    assert any(f"images of the same names are in {other.rpartition('/')[0]}, too" in note for note in layout.notes)
    train = read_split(tmp_path, layout.splits["train"], format="voc")
    assert [record.file_name for record in train.records] == [Path(images.format(stem)).name for stem in "XY"]


@pytest.mark.parametrize("form", ["coco", "csv", "via"])
def test_depth_images_are_not_taken_for_the_images_of_the_same_names(tmp_path: Path, form: str) -> None:
    write_images(tmp_path, ["depth/a.png", "rgb/a.png"])
    shape = {"name": "rect", "x": 1, "y": 1, "width": 8, "height": 8}
    region = {"shape_attributes": shape, "region_attributes": {"class": "cat"}}
    if form == "coco":
        coco_files(tmp_path, ["labels.json"], ".")
    elif form == "csv":
        (tmp_path / "labels.csv").write_text("filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,1,9,9\n")
    else:
        (tmp_path / "labels.json").write_text(json.dumps({"k": {"filename": "a.png", "regions": [region]}}))
    layout = find_layout(tmp_path)
    assert layout.format == form
    assert layout.splits["train"]["images"] == "rgb"


@pytest.mark.parametrize("line", ["{}", "{}.png", "JPEGImages/{}.png", "JPEGImages\\{}.png"])
@pytest.mark.parametrize("stems", [("day 1/a", "day 1/b"), ("my photo 1", "my photo 2"), ("day 1/no 1", "day 2/no 0")])
def test_lists_of_voc_may_have_blanks_in_their_names_and_folders(
    tmp_path: Path, stems: tuple[str, str], line: str
) -> None:
    write_images(tmp_path / "JPEGImages", [f"{stem}.png" for stem in stems])
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for stem, split in zip(stems, ("Train", "Validation"), strict=True):
        path = tmp_path / "Annotations" / f"{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(voc_text(f"{path.stem}.png", [("cat", (1, 1, 9, 9))]))
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{line.format(stem)}\n")
    layout = find_layout(tmp_path)
    assert {name: split["list"] for name, split in layout.splits.items()} == {
        "train": "ImageSets/Main/Train.txt", "val": "ImageSets/Main/Validation.txt",
    }  # fmt: skip
    for stem, (name, split) in zip(stems, layout.splits.items(), strict=True):
        coco = read_split(tmp_path, split, name, format="voc")
        assert [record.path for record in coco.records] == [tmp_path / "JPEGImages" / f"{stem}.png"]
        assert coco.report.boxes == 1


@pytest.mark.parametrize("extra", [True, False])
def test_label_files_of_yolo_in_a_folder_of_no_split_are_reported(tmp_path: Path, extra: bool) -> None:
    write_yolo(tmp_path, {**TREE, **({"extra": {"d": ["0 0.5 0.5 0.5 0.5"]}} if extra else {})})
    (tmp_path / "data.yaml").unlink()
    layout = find_layout(tmp_path)
    assert list(layout.splits) == ["train", "val"]
    noted = "1 label files, for example labels/extra/d.txt, belong to images of no split and are not used"
    assert (noted in layout.notes) == extra
    assert any("of no split" in note for note in layout.notes) == extra


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="looks like no dataset"):
        find_layout(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        find_layout(tmp_path / "gone")


def test_settings_that_make_no_sense_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.format is 'yollo'; did you mean 'yolo'"):
        located(tmp_path, "yollo", {"train": YOLO})
    with pytest.raises(ConfigError, match=r"data\.train\.image does not exist in yolo; did you mean 'images'"):
        located(tmp_path, "yolo", {"train": {"image": "x"}})
    with pytest.raises(ConfigError, match=r"data\.val\.annotations is not set"):
        located(tmp_path, "coco", {"val": {"images": "x"}})


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_names_used_are_those_with_boxes(tmp_path: Path, format: str) -> None:
    write_yolo(tmp_path, TREE)
    write_voc(tmp_path, {"train": {"a": [("bolt", (1, 1, 9, 9)), ("washer", (1, 1, 9, 9))]}})
    assert names_used(tmp_path, {"voc": VOC, "yolo": YOLO}[format], "train", format) == {"bolt", "washer"}


def test_the_three_real_sets_are_found_and_read(shared_data: Callable[[str], Path]) -> None:
    counts = {"coco_mini": [80, 79], "coco128_yolo": [128, 128], "bccd_voc": [205, 87, 72]}
    for name, images in counts.items():
        source = Source.of({"root": shared_data(name), **AUTO})
        assert [len(tree.content["images"]) for tree in source.trees().values()] == images


def test_splits_below_several_folders_stay_apart(tmp_path: Path) -> None:
    for camera in ("cam1", "cam2"):
        for split, stem in (("train", "a"), ("val", "b")):
            write_images(tmp_path / camera / split / "images", [f"{camera}{stem}.png"])
            label = tmp_path / camera / split / "labels" / f"{camera}{stem}.txt"
            label.parent.mkdir(parents=True)
            label.write_text("0 0.5 0.5 0.5 0.5\n")
    trees = Source.found(tmp_path).trees()
    names = {split: sorted(Path(i["file_name"]).name for i in tree.content["images"]) for split, tree in trees.items()}
    assert names == {"train": ["cam1a.png", "cam2a.png"], "val": ["cam1b.png", "cam2b.png"]}
    assert all(len(tree.content["annotations"]) == 2 for tree in trees.values())


@pytest.mark.parametrize(("name", "split"), [("VisDrone2019-DET-test-dev", "test"), ("test_dev", "test"),
                                             ("dev", "val"), ("val", "val")])  # fmt: skip
def test_the_split_that_a_name_speaks_of(name: str, split: str) -> None:
    assert split_of_name(name) == split


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_an_image_that_is_listed_once_for_each_box_keeps_all_of_them(tmp_path: Path, form: str) -> None:
    write_coco(
        tmp_path / "coco",
        images=[{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}],
        annotations=[{"bbox": [1, 2, 10, 10], "image_id": 1}, {"bbox": [20, 2, 10, 10], "image_id": 2}],
    )
    convert(Source.of({"root": tmp_path / "coco", **AUTO}), tmp_path / form, form)
    tree = Source.found(tmp_path / form).trees()["train"]
    assert sorted(round(a["bbox"][0]) for a in tree.content["annotations"]) == [1, 20]


def test_linked_images_are_the_files_themselves_where_the_source_has_links(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", annotations=[{"bbox": [1, 2, 10, 10]}])
    for image in [*(tmp_path / "coco").rglob("*.png")]:
        (tmp_path / "coco" / "blobs").mkdir(exist_ok=True)
        blob = image.rename(tmp_path / "coco" / "blobs" / f"{image.stem}.bin")
        image.symlink_to(os.path.relpath(blob, image.parent))
    convert(Source.of({"root": tmp_path / "coco", **AUTO}), tmp_path / "far" / "away" / "yolo", "yolo", images="link")
    made = [*(tmp_path / "far").rglob("*.png")]
    assert made and all(path.is_file() for path in made)
