"""What real annotation files hold: byte order marks, files of Macs, capitals, poses, crowds, corners."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_parts import AUTO, edited, source, write_coco, write_images, write_voc, write_yolo
from detr_mini.captions.captions_of_split import read_captions
from detr_mini.captions.mdetr_format import caption_records, write_json
from detr_mini.checking.check import check
from detr_mini.checking.report import write_fixed_copy
from detr_mini.data.module import DetectionData
from detr_mini.data.statistics import split_stats
from detr_mini.errors import DataError
from detr_mini.formats.coco import read_coco, repeated_rows
from detr_mini.formats.discover import find_layout
from detr_mini.formats.faults import Kind
from detr_mini.formats.load import read_split
from detr_mini.formats.outlines import box_of_outline
from detr_mini.formats.split import CocoSet
from detr_mini.phrases import Caption, Phrase

BOX = {"bbox": [2, 3, 20, 12]}
ROW = "0 0.5 0.5 0.2 0.2"
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def read(root: Path, split: str = "train", **how: Any) -> CocoSet:
    layout = find_layout(root)
    return read_split(root, layout.splits[split], split, format=layout.format, **how)


def two_splits(root: Path, names: str | None = None) -> Path:
    """A YOLO set of two images in train, one in val."""
    return write_yolo(root, {"train": {"a": [ROW], "b": [ROW]}, "val": {"c": [ROW]}})


def module(root: Path, **how: Any) -> DetectionData:
    plain = {"size": 64, "mean": [0.5] * 3, "std": [0.2] * 3, "stride": 8, "seed": 0, "batch_size": 1}
    return DetectionData(root=root, **AUTO, **plain, **how)


@pytest.fixture(params=["msgspec", "json"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With msgspec, and as if it were not installed."""
    if request.param == "json":
        monkeypatch.setitem(sys.modules, "msgspec", None)
    return str(request.param)


@pytest.mark.parametrize("key", ["categories", "images", "annotations"])
def test_d15_a_split_without_one_of_its_lists_is_reported_and_never_left_out(tmp_path: Path, key: str) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path / "set", split, annotations=[BOX])
    edited(tmp_path / "set" / "annotations" / "train.json", lambda c: c.pop(key))
    with pytest.raises(DataError, match=f"train.json has no list '{key}'"):
        read(tmp_path / "set")
    done = check(source(tmp_path / "set"), pixels=False)
    assert done.counts["broken annotation file"] == 1
    assert any(f"train.json has no list '{key}'" in fault.sentence for fault in done.faults)
    with pytest.raises(DataError, match="broken annotation file"):
        write_fixed_copy(done, tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_d16_files_with_a_byte_order_mark_lose_nothing(tmp_path: Path, encoding: str) -> None:
    def again(path: Path) -> None:
        path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))

    yolo = two_splits(tmp_path / "yolo")
    for path in (yolo / "data.yaml", *(yolo / "labels" / "train").iterdir()):
        again(path)
    coco = read(yolo)
    assert (coco.report.boxes, coco.categories.names) == (2, ("bolt", "nut", "washer"))
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_text("bolt\nnut\nwasher\n", encoding=encoding)
    assert read(yolo).categories.names == ("bolt", "nut", "washer")
    voc = write_voc(tmp_path / "voc", {"train": {"a": [("bolt", (2, 3, 30, 39))], "b": [("nut", (2, 3, 30, 39))]}})
    for path in (voc / "ImageSets" / "Main" / "train.txt", *(voc / "Annotations").iterdir()):
        again(path)
    assert [record.file_name for record in read(voc).records] == ["a.png", "b.png"]
    path, folder = write_coco(tmp_path / "coco", annotations=[BOX])
    again(path)
    assert read_coco(path, folder).report.boxes == 1


def test_d17_files_that_macs_add_to_copies_are_ignored(tmp_path: Path) -> None:
    yolo, coco = two_splits(tmp_path / "yolo"), tmp_path / "coco"
    voc = write_voc(tmp_path / "voc", {"train": {"a": [("bolt", (2, 3, 30, 39))]}})
    for split in ("train", "val"):
        write_coco(coco, split, annotations=[BOX, {**BOX, "image_id": 2}])
    boxes = [read(root).report.boxes for root in (yolo, voc, coco)]
    for root in (yolo, voc, coco):
        for path in [*root.rglob("*"), root / "x.yaml"]:
            if not path.is_dir():
                path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\xff\xfe" + b"Mac OS X" * 9)
            else:
                (path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1\xff")
    assert [read(root).report.boxes for root in (yolo, voc, coco)] == boxes
    for root in (yolo, voc, coco):
        found = check(source(root), pixels=False).faults
        assert not [fault.sentence for fault in found if "._" in fault.sentence or fault.kind is Kind.BROKEN_FILE]
    (voc / "ImageSets" / "Main" / "train.txt").unlink()
    (voc / "ImageSets" / "Main" / "._train.txt").unlink()
    assert len(read(voc)) == 1


def test_d18_endings_in_capitals_are_read(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc", {"train": {k: [("bolt", (2, 3, 30, 39))] for k in "abc"}})
    for stem, ending in (("b", "XML"), ("c", "Xml")):
        (voc / "Annotations" / f"{stem}.xml").rename(voc / "Annotations" / f"{stem}.{ending}")
    (voc / "JPEGImages" / "c.png").rename(voc / "JPEGImages" / "c.PNG")
    assert read(voc).report.boxes == 3
    (voc / "ImageSets" / "Main" / "train.txt").unlink()
    assert read(voc).report.boxes == 3
    yolo = two_splits(tmp_path / "yolo")
    (yolo / "labels" / "train" / "b.txt").rename(yolo / "labels" / "train" / "b.TXT")
    (yolo / "images" / "train" / "a.png").rename(yolo / "images" / "train" / "a.PNG")
    (yolo / "data.yaml").rename(yolo / "data.YAML")
    assert read(yolo).report.boxes == 2
    path, folder = write_coco(tmp_path / "coco", annotations=[BOX])
    (folder / "1.png").rename(folder / "1.PNG")
    coco = read_coco(path, folder)
    assert [record.path.is_file() for record in coco.records] == [True, True]
    assert any("spelled differently" in notice for notice in coco.report.notices)


def test_text_files_beside_a_list_of_voc_may_be_anything(tmp_path: Path) -> None:
    box = [("bolt", (2, 3, 30, 39))]
    root = write_voc(tmp_path, {"train": {"a": box}, "val": {"b": box}})
    lists = root / "ImageSets" / "Main"
    (lists / "README.txt").write_bytes("Gr\u00f6\u00dfe der Bilder\n".encode("cp1252"))
    (lists / "notes.txt").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(lists / "pipe.txt")
    assert read(root).report.boxes == read(root, "val").report.boxes == 1


@pytest.mark.parametrize("flags", [("", ""), (" 1", " -1"), ("  0", " 1")])
def test_d19_names_in_a_list_may_end_in_0_or_1(tmp_path: Path, flags: tuple[str, str]) -> None:
    names = ["cell 0", "cell 1"]
    root = write_voc(tmp_path, {"train": {name: [("bolt", (2, 3, 30, 39))] for name in [*names, "cell"]}})
    lines = [f"{name}{flag}" for name, flag in zip(names, flags, strict=True)]
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(lines))
    assert [record.file_name for record in read(root).records] == ["cell 0.png", "cell 1.png"]


@pytest.mark.parametrize(("shape", "points"), [("[4, 3]", 12), ("[2, 2]", 4), (None, 12), (None, 6)])
def test_d20_rows_with_keypoints_are_boxes(tmp_path: Path, shape: str | None, points: int) -> None:
    places = [0.01, 0.02, 2] if points % 3 == 0 else [0.01, 0.02]
    row = f"0 0.5 0.5 0.2 0.4 {' '.join(map(str, places * (points // len(places))))}"
    root = write_yolo(tmp_path, {"train": {"a": [row], "b": [ROW]}})
    if shape:
        (root / "data.yaml").write_text(f"{(root / 'data.yaml').read_text()}kpt_shape: {shape}\n")
    coco = read(root)
    assert coco.boxes_xywh[0].tolist() == pytest.approx([24, 12, 12, 16])
    assert not [notice for notice in coco.report.notices if "outline" in notice]
    outline = "0 0.1 0.1 0.9 0.1 0.9 0.5"
    (root / "labels" / "train" / "b.txt").write_text(outline)
    assert read(root).boxes_xywh[1].tolist() == pytest.approx([6, 4, 48, 16])


def test_d20_an_outline_that_looks_like_keypoints_is_an_outline_where_not_all_do(tmp_path: Path) -> None:
    like_pose = "0 0.2 0.2 0.3 0.2 0.9 0.5 0 0.8 0.5 1"  # five corners, two of them on an edge of the image
    outline = "0 0.1 0.1 0.9 0.1 0.9 0.5 0.5 0.9 0.2 0.7"
    root = write_yolo(tmp_path, {"train": {"a": [like_pose], "b": [outline, ROW]}})
    coco = read(root)
    assert coco.boxes_xywh[0].tolist() == pytest.approx([0, 8, 54, 32])
    assert any(notice.startswith("box given as an outline: 2") for notice in coco.report.notices)
    (root / "labels" / "train" / "b.txt").write_text(f"{like_pose}\n{ROW}\n")
    coco = read(root)
    assert coco.boxes_xywh[0].tolist() == coco.boxes_xywh[1].tolist() == pytest.approx([3, 4, 18, 8])
    assert any(notice.startswith("keypoints beside the box: 2") for notice in coco.report.notices)


UNUSABLE = ["0 0,5 0,5 0,2 0,2", "0 30 20 12 8", "0 0.5 0.5 0 0.2", "0 0.5 0.5", "bolt 0.5 0.5 0.2 0.2"]


@pytest.mark.parametrize("row", UNUSABLE)
def test_d21_a_split_of_which_no_row_can_be_used_is_refused(tmp_path: Path, row: str) -> None:
    root = write_yolo(tmp_path, {"train": {"a": [row, row], "b": [row]}, "val": {"c": [ROW]}})
    with pytest.raises(
        DataError, match=r"no box of .* \(train\) can be used .*: 3; the first: .*row 1 of|row 1 of"
    ) as e:
        read(root)
    assert ("comma" in str(e.value)) == ("," in row)
    with pytest.raises(DataError, match=r"no box of|index out of range"):
        module(root).setup("fit")


@pytest.mark.parametrize("box", [[70, 3, 9, 9], [2, 3, 0, 12], [2, 3, -5, 12]])
def test_d21_a_coco_file_of_which_no_box_can_be_used_is_refused(tmp_path: Path, box: list[int]) -> None:
    path, folder = write_coco(tmp_path, annotations=[{"bbox": box}, {"bbox": box, "image_id": 2}])
    with pytest.raises(DataError, match=r"no box of .* can be used \(box .*: 2; the first: annotation 1 of"):
        read_coco(path, folder)


def test_d21_crowd_regions_alone_are_refused_or_taken_as_objects(tmp_path: Path) -> None:
    crowd = {**BOX, "iscrowd": 1}
    path, folder = write_coco(tmp_path, annotations=[crowd, {**crowd, "image_id": 2}])
    with pytest.raises(DataError, match=r"all 2 annotations .* crowd regions.*; set data\.on_crowd=object"):
        read_coco(path, folder)
    coco = read_coco(path, folder, on_crowd="object")
    assert (coco.report.boxes, coco.report.crowd, coco.is_crowd.tolist()) == (2, 0, [False, False])
    path, folder = write_coco(tmp_path, annotations=[BOX, {**crowd, "category_id": 2}])
    notices = read_coco(path, folder).report.notices
    assert any("category 'nut' has crowd regions only (1)" in n and "data.on_crowd=object" in n for n in notices)


def test_d21_a_training_set_without_a_box_does_not_train(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no box to learn from"):
        module(write_yolo(tmp_path, {"train": {"a": [], "b": []}, "val": {"c": [ROW]}})).setup("fit")


@pytest.mark.parametrize(
    ("value", "crowd"),
    [("0", False), ("1", True), (0.0, False), (1.0, True), (False, False), (True, True), (None, False)],
)
def test_d22_iscrowd_is_read_as_the_number_it_stands_for(tmp_path: Path, parser: str, value: Any, crowd: bool) -> None:
    path, folder = write_coco(tmp_path, annotations=[{**BOX, "iscrowd": value}, {**BOX, "image_id": 2}])
    assert read_coco(path, folder).is_crowd.tolist() == [crowd, False]


@pytest.mark.parametrize("value", ["yes", "false", "", 2, -1, 0.5, [], {}, "2"])
def test_d22_an_iscrowd_that_is_no_number_is_refused(tmp_path: Path, parser: str, value: Any) -> None:
    path, folder = write_coco(tmp_path, annotations=[{**BOX, "iscrowd": value}, {**BOX, "image_id": 2}])
    with pytest.raises(DataError, match=r"annotation 1 of .* has iscrowd .*; it must be 0 \(an object\) or 1"):
        read_coco(path, folder)


@pytest.mark.parametrize("value", ["yes", "true", 2, -1, 0.5, [], {"a": 1}])
def test_d22_an_ignore_that_is_no_flag_is_refused_like_an_iscrowd(tmp_path: Path, parser: str, value: Any) -> None:
    marked = [{**BOX, "ignore": value}, {**BOX, "image_id": 2, "ignore": 0}]
    path, folder = write_coco(tmp_path, annotations=marked)
    with pytest.raises(DataError, match=r"annotation 1 of .* has ignore .*; it must be 0 \(an object\) or 1"):
        read_coco(path, folder)
    assert check(source(tmp_path), pixels=False).counts["iscrowd is neither 0 nor 1"] == 1


@pytest.mark.parametrize(
    ("text", "difficult", "reported"),
    [
        ("1", True, False), ("True", True, False), ("1.0", True, False), (" true ", True, False), ("0", False, False),
        ("False", False, False), ("", False, False), ("Unspecified", False, False), ("yes", False, True),
        ("2", False, True),
    ],
)  # fmt: skip
def test_d22_difficult_of_voc_is_read_as_what_it_stands_for(
    tmp_path: Path, text: str, difficult: bool, reported: bool
) -> None:
    root = write_voc(tmp_path, {"train": {"a": [("bolt", (2, 3, 30, 39))], "b": [("nut", (2, 3, 30, 39))]}})
    xml = root / "Annotations" / "a.xml"
    xml.write_text(xml.read_text().replace("<difficult>0<", f"<difficult>{text}<"))
    coco = read(root, difficult="ignore")
    assert coco.is_crowd.tolist() == [difficult, False]
    assert ("number written as text: 1, for example a.png" in coco.report.notices) == reported
    said = [f.text for f in check(source(root), pixels=False).faults if f.kind is Kind.NUMBER_AS_TEXT]
    assert said == [f"object 1 of Annotations/a.xml: difficult {text!r} is neither 0 nor 1"] * reported


def test_d22_an_iscrowd_of_voc_that_is_no_flag_is_refused(tmp_path: Path) -> None:
    things = {"a": [("bolt", (2, 3, 30, 39))]}
    root = write_voc(tmp_path, {"train": things}, extra="<iscrowd>yes</iscrowd>")
    with pytest.raises(DataError, match=r"object 1 of .* has iscrowd 'yes'"):
        read(root)
    assert check(source(root), pixels=False).counts["iscrowd is neither 0 nor 1"] == 1


@pytest.mark.parametrize("write", [str, float, lambda number: f" {number}.0 "])
def test_d22_whole_numbers_in_other_writing_are_the_same_numbers(
    tmp_path: Path, parser: str, write: Callable[[int], Any]
) -> None:
    path, folder = write_coco(tmp_path, annotations=[BOX, {**BOX, "image_id": 2, "category_id": 2, "area": 77}])
    plain = read_coco(path, folder)

    def rewrite(content: dict[str, Any]) -> None:
        for kind, keys in (
            ("images", ("id", "height", "width")),
            ("annotations", ("id", "image_id", "category_id", "iscrowd", "area")),
            ("categories", ("id",)),
        ):
            for entry in content[kind]:
                entry.update({key: write(entry[key]) for key in keys if key in entry})

    edited(path, rewrite)
    coco = read_coco(path, folder)
    assert coco.truth == plain.truth
    assert coco.image_ids == plain.image_ids
    assert ("number written as text" in " ".join(coco.report.notices)) == (write is not float)


def test_d22_a_phrase_is_asked_for_by_what_is_written_not_by_its_truth(tmp_path: Path) -> None:
    coco = read_coco(*write_coco(tmp_path, annotations=[BOX]))
    caption = Caption("a bolt", "", (Phrase(((0, 6),), (0,), False),))
    content = caption_records([({"id": 1, "file_name": "1.png"}, [{"bbox": [2, 3, 20, 12]}], [caption])])
    path = tmp_path / "captions.json"
    for asked, expected in (("0", False), (0, False), (1.0, True), ("1", True)):
        content["annotations"][0]["asked"] = asked
        write_json(path, {**content, "categories": []})
        assert read_captions(path, coco)[1][0].phrases[0].asked is expected
    content["annotations"][0]["asked"] = "false"
    write_json(path, {**content, "categories": []})
    with pytest.raises(DataError, match="has asked 'false'; it must be true or false"):
        read_captions(path, coco)


@pytest.mark.parametrize("value", [1, "1", True])
def test_d23_what_is_marked_to_be_ignored_is_neither_trained_on_nor_scored(
    tmp_path: Path, parser: str, value: Any
) -> None:
    marked = [{**BOX, "ignore": value}, {**BOX, "image_id": 2, "ignore": 0}]
    path, folder = write_coco(tmp_path, annotations=marked)
    coco = read_coco(path, folder)
    assert coco.is_crowd.tolist() == [True, False]
    assert [a["iscrowd"] for a in coco.truth["annotations"]] == [1, 0]
    assert any("marked as ignored: 1" in notice for notice in coco.report.notices)


SQUARE = [[10, 5, 30, 5, 30, 25, 10, 25]]


@pytest.mark.parametrize("missing", ["no key", None, []])
def test_d24_an_outline_without_a_box_gets_its_box_and_is_counted(tmp_path: Path, parser: str, missing: Any) -> None:
    outlined = {"bbox": missing, "segmentation": SQUARE}
    path, folder = write_coco(tmp_path, annotations=[outlined, {**BOX, "image_id": 2}])
    if missing == "no key":
        edited(path, lambda c: c["annotations"][0].pop("bbox"))
    coco = read_coco(path, folder)
    assert coco.boxes_xywh.tolist() == [[10, 5, 20, 20], [2, 3, 20, 12]]
    assert any(notice.startswith("box given as an outline: 1") for notice in coco.report.notices)
    assert check(source(tmp_path), pixels=False).counts["box given as an outline"] == 1


@pytest.mark.parametrize("missing", [None, []])
def test_d24_the_box_of_an_outline_is_never_taken_for_corners(tmp_path: Path, missing: Any) -> None:
    corners = {**BOX, "image_id": 2, "bbox": [2, 3, 22, 15]}
    path, folder = write_coco(tmp_path, annotations=[{"bbox": missing, "segmentation": SQUARE}, corners])
    coco = read_coco(path, folder, box_corners=True)
    assert coco.boxes_xywh.tolist() == [[10, 5, 20, 20], [2, 3, 20, 12]]


def test_d24_boxes_of_outlines_are_those_of_pycocotools() -> None:
    from pycocotools import mask

    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 12, 2)
        pixels = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        if not pixels.any():
            continue
        coded = mask.encode(np.asfortranarray(pixels))
        wanted = mask.toBbox(coded).tolist()
        runs, value, flat = [], 0, pixels.T.ravel().tolist()
        while flat:
            length = next((k for k, v in enumerate(flat) if v != value), len(flat))
            runs, flat, value = [*runs, length], flat[length:], 1 - value
        size = [int(height), int(width)]
        found = [box_of_outline({"counts": c, "size": size}) for c in (runs, coded["counts"].decode())]
        if (wanted[3] == height) == (found[0][3] == height):  # pycocotools counts a run over columns as whole columns
            assert found == [wanted, wanted]
    assert box_of_outline([[1, 2, 3, 4, 2, 9], [0, 5, 1, 1, 1, 6]]) == [0, 1, 3, 8]
    for broken in (
        {},
        {"counts": "~~~", "size": [3, 3]},
        {"counts": [9, 9], "size": [2, 2]},
        [[1, 2]],
        [[]],
        "x",
        [["a"] * 6],
    ):
        assert box_of_outline(broken) is None


def test_d25_two_lists_of_names_that_disagree_stop_with_both(tmp_path: Path) -> None:
    root = two_splits(tmp_path)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("B\nA\nC\n")
    notes = {"categories": [{"id": 2, "name": "B"}, {"id": 0, "name": "A"}, {"id": 1, "name": "C"}]}
    (root / "notes.json").write_text(json.dumps(notes))
    with pytest.raises(DataError, match=r"classes.txt and notes.json in .* 0 B, 1 A, 2 C .* 0 A, 1 C, 2 B .*remove"):
        read(root)
    notes["categories"] = [{"id": k, "name": name} for k, name in enumerate("BAC")]
    (root / "notes.json").write_text(json.dumps(notes))
    assert read(root).categories.names == ("B", "A", "C")
    (root / "data.yaml").write_text("names: [B, C, A]\n")
    with pytest.raises(DataError, match=r"data.yaml and classes.txt in .* disagree"):
        read(root)
    (root / "classes.txt").unlink()
    (root / "notes.json").unlink()
    assert read(root).categories.names == ("B", "C", "A")


CORNERS = [[20, 15, 50, 38], [30, 10, 59, 30], [5, 4, 12, 9], [40, 20, 58, 39]]


def test_d26_boxes_that_are_corners_are_said_to_be_and_not_fixed(tmp_path: Path, parser: str) -> None:
    path, folder = write_coco(tmp_path / "set", annotations=[{"bbox": box} for box in CORNERS])
    with pytest.raises(DataError, match=r"look like left, top, right, bottom.*data\.box_corners=true"):
        read_coco(path, folder)
    done = check(source(tmp_path / "set"), pixels=False)
    assert done.counts["boxes that look like corners"] == 1
    with pytest.raises(DataError, match="look like corners"):
        write_fixed_copy(done, tmp_path / "fixed")
    coco = read_coco(path, folder, box_corners=True)
    wanted = [[a, b, c - a, d - b] for a, b, c, d in CORNERS]
    assert coco.boxes_xywh.tolist() == wanted
    right = source(tmp_path / "set", box_corners=True)
    assert [a["bbox"] for a in right.trees()["train"].content["annotations"]] == wanted
    assert not check(right, pixels=False).counts["boxes that look like corners"]


def test_d26_rows_of_yolo_that_are_corners_are_said_to_be(tmp_path: Path) -> None:
    rows = [f"0 {a / 60} {b / 40} {c / 60} {d / 40}" for a, b, c, d in CORNERS]
    root = write_yolo(tmp_path, {"train": {"a": rows, "b": [ROW]}})
    (root / "labels" / "train" / "b.txt").write_text("")
    with pytest.raises(DataError, match=r"look like left, top, right, bottom.*data\.box_corners=true"):
        read(root)
    assert check(source(root), pixels=False).counts["boxes that look like corners"] == 1
    wanted = [[a, b, c - a, d - b] for a, b, c, d in CORNERS]
    np.testing.assert_allclose(read(root, box_corners=True).boxes_xywh.numpy(), wanted, atol=1e-6)


def test_d26_boxes_past_the_edge_alone_are_not_taken_for_corners(tmp_path: Path) -> None:
    sticking = [[0, 0, 61, 42], [2, 1, 70, 41], [1, 1, 60, 45], [30, 30, 40, 40]]
    path, folder = write_coco(tmp_path, annotations=[{"bbox": box} for box in sticking])
    assert read_coco(path, folder).report.clipped == 4


def test_d31_one_name_in_two_forms_is_one_category(tmp_path: Path) -> None:
    for split, name in (("train", COMPOSED), ("val", DECOMPOSED)):
        write_coco(tmp_path / "coco", split, annotations=[BOX], categories=[{"id": 1, "name": name}])
    train = read(tmp_path / "coco")
    val = read(tmp_path / "coco", "val", categories=train.categories)
    assert (train.categories.names, val.report.per_category) == ((COMPOSED,), {COMPOSED: 1})
    assert any("cafe\\u0301" in notice for notice in val.report.notices)
    both = [{"id": 1, "name": COMPOSED}, {"id": 2, "name": DECOMPOSED}]
    path, folder = write_coco(tmp_path / "both", annotations=[BOX], categories=both)
    with pytest.raises(DataError, match="stands twice"):
        read_coco(path, folder)
    voc = write_voc(
        tmp_path / "voc", {"train": {k: [(n, (2, 3, 30, 39))] for k, n in (("a", COMPOSED), ("b", DECOMPOSED))}}
    )
    assert read(voc).report.per_category == {COMPOSED: 2}


def test_d31_names_in_files_of_tools_are_composed(tmp_path: Path) -> None:
    box = "".join(f'<box label="{n}" xtl="2" ytl="3" xbr="22" ybr="15"/>' for n in (DECOMPOSED, COMPOSED))
    labels = f"<meta><labels><label><name>{DECOMPOSED}</name></label></labels></meta>"
    region = {"shape_attributes": {"name": "rect", "x": 2, "y": 3, "width": 20, "height": 12}}
    value = {"x": 25, "y": 25, "width": 50, "height": 50}
    size = {"original_width": 60, "original_height": 40}
    files = {
        "cvat": ("a.xml", f'<annotations>{labels}<image name="1.png">{box}</image></annotations>'),
        "via": ("a.json", json.dumps({"a": {"filename": "1.png", "regions": [
            {**region, "region_attributes": {"class": name}} for name in (COMPOSED, DECOMPOSED)]}})),
        "label_studio": ("a.json", json.dumps([{"data": {"image": "1.png"}, "annotations": [{"result": [
            {**size, "value": {**value, "rectanglelabels": [name]}} for name in (COMPOSED, DECOMPOSED)]}]}])),
        "csv": ("a.csv", f"image,class,x1,y1,x2,y2\n1.png,{COMPOSED},2,3,22,15\n1.png,{DECOMPOSED},4,3,22,15\n"),
    }  # fmt: skip
    for form, (name, text) in files.items():
        write_images(tmp_path / form, ["1.png"])
        (tmp_path / form / name).write_text(text, encoding="utf-8")
        coco = read_split(tmp_path / form, {"images": ".", "annotations": name}, format=form)
        assert coco.report.per_category == {COMPOSED: 2}, form


@pytest.mark.parametrize(("said", "stored"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_d31_file_names_in_two_forms_are_one_file(tmp_path: Path, said: str, stored: str) -> None:
    path, folder = write_coco(tmp_path / "coco", annotations=[BOX])
    (folder / "1.png").rename(folder / f"{stored}.png")
    if unicodedata.normalize("NFC", next(iter(folder.iterdir())).name) == stored:
        pytest.skip("this disk changes names")
    edited(path, lambda c: c["images"][0].update(file_name=f"{said}.png"))
    assert read_coco(path, folder).records[0].path.is_file()
    assert source(tmp_path / "coco").trees()["train"].content["images"][0]["file_name"] == f"{stored}.png"
    voc = write_voc(tmp_path / "voc", {"train": {said: [("bolt", (2, 3, 30, 39))]}})
    (voc / "JPEGImages" / f"{said}.png").rename(voc / "JPEGImages" / f"{stored}.png")
    assert read(voc).report.boxes == 1
    yolo = write_yolo(tmp_path / "yolo", {"train": {said: [ROW]}})
    (yolo / "images" / "train" / f"{said}.png").rename(yolo / "images" / "train" / f"{stored}.png")
    assert read(yolo).report.boxes == 1


def test_d32_files_and_boxes_that_stand_twice_are_said_at_load(tmp_path: Path) -> None:
    boxes = [BOX, BOX, {**BOX, "image_id": 2}, BOX, {**BOX, "category_id": 2}]
    path, folder = write_coco(tmp_path, annotations=boxes)
    notices = " | ".join(read_coco(path, folder).report.notices)
    assert "2 boxes repeat another one of their image and category: annotation 2 of" in notices
    assert "listed more than once" not in notices
    edited(path, lambda c: c["images"][1].update(file_name="1.png"))
    assert "1 image files are listed more than once: 1.png" in " | ".join(read_coco(path, folder).report.notices)
    (folder / "2.png").unlink()
    for spelling in ("1.PNG", "./1.png"):  # both records are of the one file
        edited(path, lambda c, name=spelling: c["images"][1].update(file_name=name))
        assert "1 image files are listed more than once: 1.png" in " | ".join(read_coco(path, folder).report.notices)
    rows = np.random.default_rng(0).integers(0, 3, (400, 4)).astype(float)
    seen: set[tuple[float, ...]] = set()
    wanted = [k for k, row in enumerate(map(tuple, rows)) if row in seen or seen.add(row)]  # type: ignore[func-returns-value]
    assert repeated_rows(rows).tolist() == wanted


def test_d30_areas_keep_every_digit_and_size_classes_go_by_area(tmp_path: Path) -> None:
    area = 1024.00001
    path, folder = write_coco(tmp_path, annotations=[{"bbox": [1, 1, 50, 38], "area": area}], size=(40, 60))
    coco = read_coco(path, folder)
    assert coco.area.dtype == torch.float64
    assert coco.target(1).area.tolist() == [area]
    assert coco.truth["annotations"][0]["area"] == area
    from pycocotools.cocoeval import Params

    boxes = [[1, 1, 50, 38]] * 5
    areas = [1023.9, 1024.0, area, 900.0, None]
    given = [{"bbox": box, **({} if a is None else {"area": a})} for box, a in zip(boxes, areas, strict=True)]
    write_coco(tmp_path, annotations=given)
    tree = source(tmp_path).trees()["train"]
    counted = [sum(low <= (a or 1900.0) <= high for a in areas) for low, high in Params("bbox").areaRng[1:]]
    assert list(split_stats(tree).small_medium_large()) == counted == [3, 3, 0]
