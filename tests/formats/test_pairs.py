"""Which label file belongs to which image: where one is missing, another folder's file of its name is not taken."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from data_parts import source, voc_text, write_coco, write_images
from detr_mini.checking.check import check
from detr_mini.checking.report import write_fixed_copy
from detr_mini.errors import DataError
from detr_mini.formats.discover import find_layout
from detr_mini.formats.faults import Kind
from detr_mini.formats.load import read_split
from detr_mini.formats.tree import Tree
from detr_mini.formats.voc import read_voc
from detr_mini.formats.yolo import read_yolo

CAMERAS = ["cam1/5", "cam1/6", "cam2/5", "cam2/6"]
LAYOUTS: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    "the same folders": (CAMERAS, CAMERAS, {name: name for name in CAMERAS}),
    "a label file is missing": (CAMERAS, CAMERAS[1:], {name: name for name in CAMERAS[1:]}),
    "an image and a label file are missing": (
        ["cam1/5", "cam1/6", "cam2/6"], CAMERAS[1:], {"cam1/6": "cam1/6", "cam2/6": "cam2/6"}),
    "a folder has no label files": (["cam1/5", "cam2/5"], ["cam2/5"], {"cam2/5": "cam2/5"}),
    "a folder has no images": (["cam1/5"], ["cam1/5", "cam2/5"], {"cam1/5": "cam1/5"}),
    "beside a folder": (["5", "cam2/5"], ["cam2/5"], {"cam2/5": "cam2/5"}),
    "scenes": (["s1/img/5", "s2/img/5"], ["s1/ann/5", "s2/ann/5"], {"s1/img/5": "s1/ann/5", "s2/img/5": "s2/ann/5"}),
    "scenes, a label file is missing": (["s1/img/5", "s2/img/5"], ["s2/ann/5"], {"s2/img/5": "s2/ann/5"}),
    "scenes, an image and a label file are missing": (
        ["s1/img/5", "s1/img/6", "s2/img/6"], ["s2/ann/5", "s1/ann/6", "s2/ann/6"],
        {"s1/img/6": "s1/ann/6", "s2/img/6": "s2/ann/6"}),
    "another name of the folder": (["cam1/5", "cam1/6"], ["first/5"], {"cam1/5": "first/5"}),
    "labels below": (["5", "6"], ["obj/data/5", "obj/data/6"], {"5": "obj/data/5", "6": "obj/data/6"}),
    "images below": (["day/5", "night/6"], ["5", "6"], {"day/5": "5", "night/6": "6"}),
    "capitals": (["Cam1/5", "Cam2/5"], ["cam1/5"], {"Cam1/5": "cam1/5"}),
}  # fmt: skip
"""Images below one folder, label files below another (both without ending), and which label file each image has."""


def write(root: Path, images: list[str], labels: list[str], form: str) -> None:
    """The box of each label file has a class of its own: class_K of YOLO, the file's path in VOC."""
    write_images(root / "img", [f"{name}.png" for name in images])
    for number, label in enumerate(labels):
        yolo = f"{number} 0.5 0.5 0.5 0.5\n"
        name = Path(label).name
        path = root / "ann" / (f"{label}.txt" if form == "yolo" else f"{label}.xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yolo if form == "yolo" else voc_text(f"{name}.png", [(label, (1, 1, 9, 9))]))


def classes(tree: Tree) -> dict[str, list[str]]:
    """The names of the boxes of each image that has some and is there."""
    names = {c["id"]: c["name"] for c in tree.content["categories"]}
    files = {image["id"]: image["file_name"] for image in tree.content["images"]}
    found = defaultdict(list)
    for box in tree.content["annotations"]:
        if (tree.folder / files[box["image_id"]]).is_file():
            found[files[box["image_id"]]].append(names[box["category_id"]])
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_of_yolo_has_its_own_labels_or_none(tmp_path: Path, layout: str) -> None:
    images, labels, wanted = LAYOUTS[layout]
    write(tmp_path, images, labels, "yolo")
    tree = read_yolo(tmp_path, "img", "ann")
    assert classes(tree) == {f"img/{i}.png": [f"class_{labels.index(label)}"] for i, label in wanted.items()}
    without = [fault.image for fault in tree.faults if fault.kind is Kind.NO_LABEL_FILE]
    assert without == [f"img/{name}.png" for name in sorted(set(images) - set(wanted))]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_of_voc_has_its_own_labels_or_none(tmp_path: Path, layout: str, listed: bool) -> None:
    images, labels, wanted = LAYOUTS[layout]
    write(tmp_path, images, labels, "voc")
    (tmp_path / "all.txt").write_text("".join(f"{name}\n" for name in images))
    tree = read_voc(tmp_path, "img", "ann", "all.txt" if listed else None)
    assert classes(tree) == {f"{image}.png": [label] for image, label in wanted.items()}
    if not listed:  # an XML file without its image keeps its boxes for the image that is missing
        assert len(tree.content["annotations"]) == len(labels)


def test_an_image_that_is_missing_in_voc_is_refused_and_not_replaced(tmp_path: Path) -> None:
    write(tmp_path, ["cam1/6", "cam2/5", "cam2/6"], CAMERAS, "voc")
    where = {"images": "img", "annotations": "ann"}
    with pytest.raises(DataError, match=r"1 of 4 images that .* are not in .*: cam1/5\.png"):
        read_split(tmp_path, where, format="voc")
    left = read_split(tmp_path, where, format="voc", on_missing="skip")
    assert [record.file_name for record in left.records] == ["cam1/6.png", "cam2/5.png", "cam2/6.png"]
    assert left.report.boxes == 3


@pytest.mark.parametrize(
    ("images", "xmls", "wanted"),
    [
        (["cam1/5"], ["cam1/5", "cam2/5"], {"cam1/5.png": ["cam1/5"]}),
        (["cam1/5", "cam2/5"], ["cam2/5"], {"cam2/5.png": ["cam2/5"]}),
        (["cam1/5", "cam1/6", "cam2/6"], ["cam2/5", "cam1/6", "cam2/6"], {}),
    ],
)
def test_a_list_of_plain_names_in_voc_finds_an_image_and_its_own_xml_file(
    tmp_path: Path, images: list[str], xmls: list[str], wanted: dict[str, list[str]]
) -> None:
    write(tmp_path, images, xmls, "voc")
    (tmp_path / "list.txt").write_text("5\n")
    tree = read_voc(tmp_path, "img", "ann", "list.txt")
    assert classes(tree) == wanted
    assert len(tree.content["images"]) == 1


def test_an_image_that_a_list_of_voc_names_is_not_found_in_another_folder(tmp_path: Path) -> None:
    write(tmp_path, CAMERAS[1:], CAMERAS[1:], "voc")
    (tmp_path / "list.txt").write_text("cam1/5\ncam1/6\n")
    tree = read_voc(tmp_path, "img", "ann", "list.txt")
    assert classes(tree) == {"cam1/6.png": ["cam1/6"]}
    assert [image["file_name"] for image in tree.content["images"]] == ["cam1/5.jpg", "cam1/6.png"]


def test_an_xml_file_that_names_another_image_in_the_folder_is_that_ones(tmp_path: Path) -> None:
    write_images(tmp_path / "img", ["cam1/photo.png", "cam2/photo7.png"])
    for stem, said in (("cam1/a", "photo.png"), ("cam1/b", "photo7.png")):
        (tmp_path / "ann" / stem).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ann" / f"{stem}.xml").write_text(voc_text(said, [("bolt", (1, 1, 9, 9))]))
    write_images(tmp_path / "img", ["cam1/c.png"])
    (tmp_path / "ann" / "cam1" / "c.xml").write_text(voc_text("c.png", []))
    tree = read_voc(tmp_path, "img", "ann")
    assert classes(tree) == {"cam1/photo.png": ["bolt"]}  # cam2/photo7.png is not in the folder of cam1/b.xml


def test_a_label_file_of_two_images_is_refused_and_two_of_one_image_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "one", ["cats/1", "dogs/1"], ["1"], "yolo")
    with pytest.raises(DataError, match=r"1\.txt in .* may belong to cats/1\.png or to dogs/1\.png; give each file"):
        read_yolo(tmp_path / "one", "img", "ann")
    write(tmp_path / "two", ["1"], ["first/1", "second/1"], "yolo")
    tree = read_yolo(tmp_path / "two", "img", "ann")
    assert classes(tree) == {"img/1.png": ["class_0"]}
    assert [(f.kind, f.text) for f in tree.faults] == [(Kind.TWO_LABEL_FILES, "ann/second/1.txt is not used")]


def test_a_label_file_whose_image_is_missing_is_reported_though_another_folder_has_its_name(tmp_path: Path) -> None:
    write(tmp_path, ["cam1/5", "cam1/6", "cam2/6"], CAMERAS[1:], "yolo")
    unused = [f.text for f in read_yolo(tmp_path, "img", "ann").faults if f.kind is Kind.NO_IMAGE_FOR_LABELS]
    assert unused == ["ann/cam2/5.txt belongs to no image"]
    write(tmp_path / "voc", ["cam1/5", "cam1/6", "cam2/6"], CAMERAS[1:], "voc")
    (tmp_path / "voc" / "list.txt").write_text("cam1/6\ncam2/6\n")
    tree = read_voc(tmp_path / "voc", "img", "ann", "list.txt")
    assert [f.text for f in tree.faults if f.kind is Kind.NO_IMAGE_FOR_LABELS] == ["ann/cam2/5.xml belongs to no image"]


def test_images_of_a_list_have_the_labels_of_their_own_folder(tmp_path: Path) -> None:
    write(tmp_path, CAMERAS, CAMERAS[1:], "yolo")
    wanted = {f"img/{name}.png": [f"class_{k}"] for k, name in enumerate(CAMERAS[1:])}
    (tmp_path / "list.txt").write_text("".join(f"img/{name}.png\n" for name in CAMERAS))
    assert classes(read_yolo(tmp_path, "list.txt", "ann")) == wanted
    assert classes(read_yolo(tmp_path, ["img/cam1", "img/cam2"], "ann")) == wanted
    assert classes(read_yolo(tmp_path, "img/cam2", "ann")) == {k: v for k, v in wanted.items() if "cam2" in k}


def test_text_files_that_are_no_labels_do_not_part_images_from_their_labels(tmp_path: Path) -> None:
    write(tmp_path, ["5", "6"], ["5", "6"], "yolo")
    (tmp_path / "img" / "readme.txt").write_text("photographs\n")
    write_images(tmp_path / "ann", ["overview.png"])
    assert classes(read_yolo(tmp_path, ".", ".")) == {"img/5.png": ["class_0"], "img/6.png": ["class_1"]}


def two_cameras(root: Path, names: tuple[str, ...], there: tuple[str, ...]) -> Path:
    """A COCO set of these names, a box in each image, of which these files are there."""
    images = [{"id": k, "file_name": name} for k, name in enumerate(names, start=1)]
    boxes = [{"image_id": k, "bbox": [1, 1, 9, 9 + k]} for k in range(1, len(names) + 1)]
    write_coco(root, images=images, annotations=boxes, write=False)
    write_images(root / "train", list(there))
    return root


MISSING: dict[str, tuple[tuple[str, ...], tuple[str, ...], list[str]]] = {
    "the other one is listed": (("cam1/5.png", "cam2/5.png"), ("cam2/5.png",), ["cam1/5.png"]),
    "its folder is there": (("/data/cam1/5.png", "cam1/6.png"), ("cam2/5.png", "cam1/6.png"), ["/data/cam1/5.png"]),
    "two claim one": (("one/5.png", "two/5.png", "6.png"), ("5.png", "6.png"), ["one/5.png", "two/5.png"]),
}  # fmt: skip
"""Names that a COCO file lists, the files that are there, and the names of which the image is missing."""


@pytest.mark.parametrize("case", MISSING)
def test_another_images_file_does_not_stand_in_for_a_missing_one(tmp_path: Path, case: str) -> None:
    names, there, missing = MISSING[case]
    root = two_cameras(tmp_path / "set", names, there)
    where = {"images": "train", "annotations": "annotations/train.json"}
    with pytest.raises(DataError, match=r"are not in|leads out of the folder"):
        read_split(root, where)
    done = check(source(root, format="coco", train=where, val=None, test=None), pixels=False)
    kinds = (Kind.IMAGE_MISSING, Kind.UNUSABLE_NAME)
    assert sum(fault.kind in kinds for fault in done.faults) == len(missing), [f.sentence for f in done.faults]
    write_fixed_copy(done, tmp_path / "fixed")
    fixed = read_split(tmp_path / "fixed", find_layout(tmp_path / "fixed").splits["train"])
    assert len(fixed) == len(names) - len(missing)
    kept = [1 + names.index(name) for name in names if name not in missing]
    assert fixed.boxes_xywh[:, 3].tolist() == [9 + k for k in kept]


def test_an_image_in_another_folder_is_said_to_be_there_and_not_to_be_spelled_differently(tmp_path: Path) -> None:
    root = two_cameras(tmp_path, ("/content/set/5.png", "6.PNG"), ("deep/5.png", "6.png"))
    faults = {f.kind: f for f in check(source(root), pixels=False).faults}
    assert {Kind.MOVED, Kind.SPELLED_DIFFERENTLY} <= set(faults)
    assert "6.png" in faults[Kind.SPELLED_DIFFERENTLY].text
    assert "'/content/set/5.png', the disk 'deep/5.png'" in faults[Kind.MOVED].text
    assert read_split(root, find_layout(root).splits["train"]).report.boxes == 2


def test_a_missing_image_of_a_table_is_not_replaced_by_a_listed_one(tmp_path: Path) -> None:
    write_images(tmp_path, ["cam2/5.png"])
    (tmp_path / "boxes.csv").write_text(
        "filename,class,xmin,ymin,xmax,ymax\ncam1/5.png,cat,1,1,9,9\ncam2/5.png,cat,1,1,9,19\n"
    )
    with pytest.raises(DataError, match=r"1 of 2 images that .* are not in .*: cam1/5\.png"):
        read_split(tmp_path, {"images": ".", "annotations": "boxes.csv"}, format="csv")


@pytest.mark.parametrize(
    ("names", "there", "missing"),
    [
        (["cam1/5", "cam2/5"], ["cam2/5.png"], 1),
        (["cam1/5", "cam1/6"], ["cam2/5.png", "cam1/6.png"], 1),
        (["one/5", "two/5", "6"], ["5.png", "6.png"], 2),
        (["one/5", "5.png"], ["5.png"], 1),
        (["one/5", "./one/5", "6"], ["5.png", "6.png"], 0),
    ],
)
def test_a_missing_image_of_a_table_without_endings_is_not_replaced_by_another(
    tmp_path: Path, names: list[str], there: list[str], missing: int
) -> None:
    write_images(tmp_path, there)
    rows = "".join(f"{name},cat,1,1,9,{9 + k}\n" for k, name in enumerate(names))
    (tmp_path / "boxes.csv").write_text(f"image_id,class,xmin,ymin,xmax,ymax\n{rows}")
    where = {"images": ".", "annotations": "boxes.csv"}
    if missing:
        with pytest.raises(DataError, match=rf"{missing} of {len(names)} images that .* are not in"):
            read_split(tmp_path, where, format="csv")
    left = read_split(tmp_path, where, format="csv", on_missing="skip")
    assert left.report.boxes == len(names) - missing
