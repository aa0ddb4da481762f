"""Each fault planted alone into clean data is found, it alone, and gone from the fixed copy where it can be fixed."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from data_parts import AUTO, voc_text, write_plates, write_voc, write_yolo
from detr_mini.checking import copies, frames
from detr_mini.checking.check import check
from detr_mini.checking.pictures import AGAIN
from detr_mini.checking.report import Checked, write_fixed_copy
from detr_mini.errors import DataError
from detr_mini.formats.discover import Source
from detr_mini.formats.faults import Kind
from detr_mini.images import header
from detr_mini.verbs.data_check import data_check

SIZE = (80, 120)
BOLT, NUT, WASHER = 1, 2, 3


def noise(path: Path, seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Coarse noise: no two seeds look alike, however small they are shown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    image = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    image.save(path)
    return image


@dataclass
class CocoFolder:
    root: Path
    content: dict[str, dict[str, Any]]

    def image(self, split: str, number: int) -> Path:
        return self.root / split / f"{number}.png"

    def write(self) -> Path:
        (self.root / "annotations").mkdir(exist_ok=True)
        for split, content in self.content.items():
            (self.root / "annotations" / f"{split}.json").write_text(json.dumps(content))
        return self.root


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    """Clean: 4 train and 2 val images of three boxes each, one background image, one crowd region."""
    made = CocoFolder(tmp_path / "set", {})
    names = [{"id": i, "name": n} for i, n in ((BOLT, "bolt"), (NUT, "nut"), (WASHER, "washer"))]
    for split, numbers in (("train", (1, 2, 3, 4, 5)), ("val", (6, 7))):
        for number in numbers:
            noise(made.image(split, number), number)
        annotations = [
            {"image_id": n, "category_id": c, "bbox": [10 * c + 0.5, 5 + n, 20 + n, 30], "iscrowd": 0, "area": 500}
            for n in numbers
            for c in (BOLT, NUT, WASHER)
            if n != 5
        ]
        if split == "val":
            annotations.append({"image_id": 6, "category_id": NUT, "bbox": [60, 40, 50, 30], "iscrowd": 1, "area": 9})
        made.content[split] = {
            "images": [{"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in numbers],
            "annotations": [{"id": k, **a} for k, a in enumerate(annotations, start=1)],
            "categories": [dict(name) for name in names],
        }
    return made


def look(root: Path, **how: Any) -> Checked:
    return check(Source.of({"root": root, **AUTO}), **how)


def extra(made: CocoFolder, split: str = "train", **parts: Any) -> None:
    content = made.content[split]
    ids = [a["id"] for a in content["annotations"] if isinstance(a.get("id"), int)]
    plain = {"id": max(ids) + 1, "image_id": 1, "category_id": NUT, "bbox": [70, 9, 31, 22]}
    content["annotations"].append({k: v for k, v in {**plain, **parts}.items() if v is not None})


def annotation(made: CocoFolder, **parts: Any) -> None:
    made.content["train"]["annotations"][0].update(parts)


def record(made: CocoFolder, **parts: Any) -> None:
    made.content["train"]["images"][4].update(parts)  # the background image


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def listed(made: CocoFolder, name: str, image_id: int = 9, split: str = "train", **parts: Any) -> None:
    entry = {"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1], **parts}
    made.content[split]["images"].append(entry)


def copied(made: CocoFolder, split: str, name: str) -> None:
    shutil.copy(made.image("train", 1), made.root / split / name)
    listed(made, name, split=split)


def saved_anew(made: CocoFolder) -> None:
    image = Image.open(made.image("train", 1))
    image.save(made.root / "val" / "9.jpg", quality=60)
    listed(made, "9.jpg", split="val")


def smaller(made: CocoFolder) -> None:
    Image.open(made.image("train", 1)).resize((96, 64)).save(made.root / "val" / "9.png")
    listed(made, "9.png", split="val", width=96, height=64)


def turned(made: CocoFolder, orientation: int, *, said_as_stored: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(made.image("train", 5), 55).save(made.image("train", 5), exif=exif)
    upright = orientation >= 5
    size = SIZE if said_as_stored or not upright else SIZE[::-1]
    record(made, height=size[0], width=size[1])


def in_folder(made: CocoFolder) -> None:
    noise(made.root / "train" / "sub" / "1.png", 99)
    listed(made, "sub/1.png")


def categories(made: CocoFolder, entry: dict[str, Any], both: bool = True) -> None:
    for split in ("train", "val") if both else ("val",):
        made.content[split]["categories"].append(dict(entry))


def corners(made: CocoFolder) -> None:
    for annotation in made.content["train"]["annotations"]:
        annotation.update(bbox=[40, 30, 110, 75])
        del annotation["area"]
    for number, annotation in enumerate(made.content["train"]["annotations"]):
        annotation["bbox"][0] += 2 * (number % 3)
        annotation["bbox"][1] += 9 * (number % 3)


def accented(made: CocoFolder, **names: str) -> None:
    for split, name in names.items():
        made.content[split]["categories"][1]["name"] = name


def rare_name(made: CocoFolder, name: str, split: str = "train", both: bool = True) -> None:
    categories(made, {"id": 8, "name": name}, both)
    extra(made, split, category_id=8, image_id=1 if split == "train" else 6)


def no_train_box(made: CocoFolder) -> None:
    kept = [a for a in made.content["train"]["annotations"] if a["category_id"] != WASHER]
    made.content["train"]["annotations"] = kept


def crowd_only(made: CocoFolder) -> None:
    categories(made, {"id": 8, "name": "gear"})
    extra(made, category_id=8, iscrowd=1)


def text(made: CocoFolder, change: Callable[[str], str]) -> None:
    made.write()
    path = made.root / "annotations" / "train.json"
    path.write_text(change(path.read_text()))
    made.content = {}


def emptied(made: CocoFolder) -> None:
    made.content["val"].update(images=[], annotations=[])
    shutil.rmtree(made.root / "val")


COCO_FAULTS: list[tuple[str, str, Callable[[CocoFolder], object]]] = [
    ("file name that cannot be used", "above the root", lambda m: listed(m, "../../9.png")),
    ("file name that cannot be used", "absolute", lambda m: listed(m, "/etc/9.png")),
    ("file name spelled differently", "capitals", lambda m: record(m, file_name="5.PNG")),
    ("image in another folder", "another machine", lambda m: record(m, file_name="/data/far/5.png")),
    ("number written as text", "image_id", lambda m: annotation(m, image_id="1")),
    ("marked as ignored", "ignore", lambda m: annotation(m, ignore=1)),
    ("boxes that look like corners", "train", corners),
    ("name in decomposed characters", "val", lambda m: accented(m, train="n\u00fct", val="nu\u0308t")),
    ("box given as an outline", "polygon", lambda m: annotation(m, bbox=None, segmentation=[[9, 9, 40, 9, 40, 30]])),
    ("broken annotation file", "cut off", lambda m: text(m, lambda t: t[:-30])),
    ("broken annotation file", "no annotations", lambda m: m.content["train"].pop("annotations")),
    ("broken annotation file", "a word among the annotations", lambda m: m.content["train"]["annotations"].append("x")),
    ("image file missing", "listed, not there", lambda m: listed(m, "gone.png")),
    ("unreadable image", "cut off", lambda m: cut(m.image("train", 5))),
    ("unreadable image", "text", lambda m: m.image("train", 5).write_text("hello")),
    ("unreadable image", "nothing", lambda m: m.image("train", 5).write_bytes(b"")),
    ("size differs from the record", "another shape", lambda m: record(m, height=81, width=200)),
    ("size differs from the record", "twice as large", lambda m: record(m, height=160, width=240)),
    ("size before turning upright", "6", lambda m: turned(m, 6, said_as_stored=True)),
    ("size before turning upright", "8", lambda m: turned(m, 8, said_as_stored=True)),
    ("orientation flag", "8", lambda m: turned(m, 8, said_as_stored=False)),
    ("orientation flag", "3", lambda m: turned(m, 3, said_as_stored=False)),
    ("image that no list names", "a stray", lambda m: noise(m.root / "train" / "stray.png", 77)),
    ("image listed twice", "two records", lambda m: listed(m, "1.png")),
    ("same name in different folders", "sub", in_folder),
    ("same picture twice", "a copy", lambda m: copied(m, "train", "copy.png")),
    ("picture shared by two splits", "a copy", lambda m: copied(m, "val", "copy.png")),
    ("picture shared by two splits", "saved anew", saved_anew),
    ("picture shared by two splits", "smaller", smaller),
    ("image record incomplete", "no id", lambda m: record(m, id=None)),
    ("image record incomplete", "no name", lambda m: record(m, file_name=None)),
    ("image record incomplete", "id of text", lambda m: record(m, id="five")),
    ("image id twice", "id 1", lambda m: noise(m.root / "train" / "9.png", 9) and listed(m, "9.png", 1)),
    ("annotation incomplete", "no box", lambda m: extra(m, bbox=None)),
    ("annotation incomplete", "no category", lambda m: extra(m, category_id=None)),
    ("annotation incomplete", "no image", lambda m: extra(m, image_id=None)),
    ("annotation id twice", "id 1", lambda m: extra(m, id=1)),
    ("annotation of an unknown image", "77", lambda m: extra(m, image_id=77)),
    ("unknown category", "77", lambda m: extra(m, category_id=77)),
    ("unknown category", "text", lambda m: extra(m, category_id="nut")),
    ("iscrowd is neither 0 nor 1", "2", lambda m: annotation(m, iscrowd=2)),
    ("area that cannot be", "negative", lambda m: annotation(m, area=-4)),
    ("area that cannot be", "NaN", lambda m: annotation(m, area=float("nan"))),
    ("area that cannot be", "larger than its box", lambda m: annotation(m, area=5000)),
    ("box without numbers", "NaN", lambda m: extra(m, bbox=[1, 2, float("nan"), 4])),
    ("box without numbers", "infinite", lambda m: extra(m, bbox=[1, 2, float("inf"), 4])),
    ("box without numbers", "three", lambda m: extra(m, bbox=[1, 2, 3])),
    ("box without numbers", "five", lambda m: extra(m, bbox=[1, 2, 3, 4, 5])),
    ("box without numbers", "words", lambda m: extra(m, bbox=["1", "2", "3", "4"])),
    ("box without size", "no width", lambda m: extra(m, bbox=[1, 2, 0, 4])),
    ("box without size", "negative height", lambda m: extra(m, bbox=[1, 2, 3, -4])),
    ("box outside its image", "right", lambda m: extra(m, bbox=[120, 2, 3, 4])),
    ("box outside its image", "above", lambda m: extra(m, bbox=[10, -20, 3, 4])),
    ("box past the edge", "right", lambda m: extra(m, bbox=[100, 2, 30, 40])),
    ("box past the edge", "left", lambda m: extra(m, bbox=[-5, 2, 30, 40])),
    ("box smaller than a pixel", "wide", lambda m: extra(m, bbox=[5, 2, 30, 0.2])),
    ("turned box", "60 degrees", lambda m: extra(m, bbox=[50, 30, 20, 10], attributes={"rotation": 60})),
    ("box twice", "exactly", lambda m: extra(m, bbox=[10.5, 6, 21, 30], category_id=BOLT)),
    ("box twice", "nearly", lambda m: extra(m, bbox=[10.5, 6.1, 21, 30.1], category_id=BOLT)),
    ("box of two categories", "exactly", lambda m: extra(m, bbox=[10.5, 6, 21, 30], category_id=NUT)),
    ("category incomplete", "no name", lambda m: categories(m, {"id": 9}, both=False)),
    ("category incomplete", "true", lambda m: categories(m, {"id": 9, "name": True}, both=False)),
    ("category id twice", "id 1", lambda m: categories(m, {"id": 1, "name": "gear"}, both=False)),
    ("category name twice", "nut", lambda m: categories(m, {"id": 9, "name": "nut"}, both=False)),
    ("names that differ in writing only", "Nut", lambda m: rare_name(m, "Nut")),
    ("names that differ in writing only", "wash er", lambda m: rare_name(m, "wash er")),
    ("mistyped category", "wascher", lambda m: rare_name(m, "wascher")),
    ("mistyped category", "blot", lambda m: rare_name(m, "blot")),
    ("mistyped category", "washr in val", lambda m: rare_name(m, "washr", "val", both=False)),
    ("category unknown to training", "gear", lambda m: rare_name(m, "gear", "val", both=False)),
    ("category that training never sees", "washer", no_train_box),
    ("category without boxes", "gear", lambda m: categories(m, {"id": 9, "name": "gear"})),
    ("category without boxes", "a group", lambda m: categories(m, {"id": 0, "name": "parts", "supercategory": "none"})),
    ("category with crowd only", "gear", crowd_only),
    ("empty split", "val", lambda m: emptied(m)),
]
IDS = [f"{kind}-{how}" for kind, how, _ in COCO_FAULTS]


def test_clean_data_have_no_fault(coco: CocoFolder) -> None:
    done = look(coco.write())
    assert done.faults == []
    assert (done.images, done.boxes) == (7, 19)


@pytest.mark.parametrize(("kind", "how", "plant"), COCO_FAULTS, ids=IDS)
def test_a_fault_planted_in_coco_is_found_and_it_alone(
    coco: CocoFolder, kind: str, how: str, plant: Callable[[CocoFolder], object]
) -> None:
    coco.write()
    plant(coco)
    done = look(coco.write())
    assert dict(done.counts) == {kind: 1}, [fault.sentence for fault in done.faults]
    assert "\n" not in done.faults[0].sentence


@pytest.mark.parametrize(("kind", "how", "plant"), COCO_FAULTS, ids=IDS)
def test_a_fixed_copy_has_no_fault_that_could_be_fixed(
    coco: CocoFolder, kind: str, how: str, plant: Callable[[CocoFolder], object]
) -> None:
    coco.write()
    plant(coco)
    done = look(coco.write())
    if done.faults[0].refused or kind in ("empty split", "boxes that look like corners"):
        with pytest.raises(DataError, match=r"no fixed copy of|no usable image is left"):
            write_fixed_copy(done, coco.root.parent / "fixed")
        return
    before = sorted((path, path.read_bytes()) for path in coco.root.rglob("*") if path.is_file())
    write_fixed_copy(done, coco.root.parent / "fixed")
    assert before == sorted((path, path.read_bytes()) for path in coco.root.rglob("*") if path.is_file())
    again = look(coco.root.parent / "fixed")
    flags = {"orientation flag": 1} if kind == "size before turning upright" else {}
    left = flags if done.faults[0].fix else {kind: 1}
    assert dict(again.counts) == left, [fault.sentence for fault in again.faults]
    changes = json.loads((coco.root.parent / "fixed" / "changes.json").read_text())
    assert [change["kind"] for change in changes] == ([kind] if done.faults[0].fix else [])


def box(*parts: float) -> tuple[str, tuple[float, ...]]:
    return "bolt", parts


def clean_voc(root: Path) -> Path:
    things = [box(2, 3, 30, 40), ("nut", (40, 5, 60, 39))]
    write_voc(root, {"train": {"a": things, "b": things, "c": []}, "val": {"d": things}}, size=SIZE)
    for number, stem in enumerate("abcd"):
        noise(root / "JPEGImages" / f"{stem}.png", number)
    return root


def replaced(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


def voc_file(root: Path, *things: tuple[str, tuple[float, ...]]) -> None:
    (root / "Annotations" / "c.xml").write_text(voc_text("c.png", things, SIZE))


VOC_FAULTS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("broken annotation file", "cut off", lambda r: cut(r / "Annotations" / "c.xml")),
    ("image without label file", "no xml", lambda r: (r / "Annotations" / "c.xml").unlink()),
    ("label file without image", "xml", lambda r: shutil.copy(r / "Annotations/c.xml", r / "Annotations/x.xml")),
    ("image file missing", "listed", lambda r: (r / "JPEGImages" / "c.png").unlink()),
    ("image that no list names", "a stray", lambda r: noise(r / "JPEGImages" / "x.png", 9)),
    ("image listed twice", "a", lambda r: replaced(r / "ImageSets" / "Main" / "train.txt", "a\n", "a\na\n")),
    ("picture shared by two splits", "d", lambda r: replaced(r / "ImageSets" / "Main" / "train.txt", "a\n", "a\nd\n")),
    ("file name in the XML differs", "x", lambda r: replaced(r / "Annotations" / "c.xml", "c.png", "x.png")),
    ("size differs from the record", "wider", lambda r: replaced(r / "Annotations" / "c.xml", ">120<", ">200<")),
    ("box without size", "a click", lambda r: voc_file(r, box(5, 6, 5, 6))),
    ("box without size", "turned round", lambda r: voc_file(r, box(30, 6, 5, 60))),
    ("box without numbers", "words", lambda r: replaced(r / "Annotations" / "a.xml", "<xmin>2<", "<xmin>two<")),
    ("box without numbers", "NaN", lambda r: replaced(r / "Annotations" / "a.xml", "<xmin>2<", "<xmin>nan<")),
    ("box past the edge", "right", lambda r: voc_file(r, box(5, 6, 140, 60))),
    ("box outside its image", "right", lambda r: voc_file(r, box(125, 6, 140, 60))),
    ("box twice", "exactly", lambda r: voc_file(r, box(5, 6, 25, 66), box(5, 6, 25, 66))),
    ("corner at 0", "xmin", lambda r: voc_file(r, box(0, 6, 25, 66))),
    ("mistyped category", "botl", lambda r: voc_file(r, ("botl", (5, 6, 25, 66)))),
    ("names that differ in writing only", "Bolt", lambda r: voc_file(r, ("Bolt", (5, 6, 25, 66)))),
    ("category unknown to training", "gear", lambda r: replaced(r / "Annotations" / "d.xml", "nut", "gear")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "how", "plant"), VOC_FAULTS, ids=[f"{k}-{h}" for k, h, _ in VOC_FAULTS])
def test_a_fault_planted_in_voc_is_found_alone_and_fixed(
    tmp_path: Path, kind: str, how: str, plant: Callable[[Path], object]
) -> None:
    root = clean_voc(tmp_path / "set")
    assert look(root).faults == []
    plant(root)
    check_and_fix(root, kind)


def check_and_fix(root: Path, kind: str) -> None:
    done = look(root)
    assert dict(done.counts) == {kind: 1}, [fault.sentence for fault in done.faults]
    write_fixed_copy(done, root.parent / "fixed")
    again = look(root.parent / "fixed")
    assert len(again.faults) == (0 if done.faults[0].fix else 1), [fault.sentence for fault in again.faults]


ROWS = ["0 0.2 0.3 0.1 0.2", "1 0.6 0.7 0.2 0.1", "2 0.5 0.5 0.3 0.3"]


def clean_yolo(root: Path, names: str = "[bolt, nut, washer]") -> Path:
    write_yolo(root, {"train": {"a": ROWS, "b": ROWS, "c": []}, "val": {"d": ROWS}}, names=names, size=SIZE)
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        noise(path, number)
    return root


def row(root: Path, *rows: str) -> None:
    (root / "labels" / "train" / "c.txt").write_text("\n".join(rows))


YOLO_FAULTS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("row that is no box", "four numbers", lambda r: row(r, "0 0.5 0.5 0.2")),
    ("row that is no box", "six numbers", lambda r: row(r, "0 0.5 0.5 0.2 0.2 0.9")),
    ("row that is no box", "a word", lambda r: row(r, "bolt 0.5 0.5 0.2 0.2")),
    ("row that is no box", "NaN", lambda r: row(r, "0 nan 0.5 0.2 0.2")),
    ("class index out of range", "3", lambda r: row(r, "3 0.5 0.5 0.2 0.2")),
    ("class index out of range", "-1", lambda r: row(r, "-1 0.5 0.5 0.2 0.2")),
    ("value outside 0 to 1", "pixels", lambda r: row(r, "0 60 40 12 12")),
    ("value outside 0 to 1", "negative", lambda r: row(r, "0 -0.5 0.5 0.2 0.2")),
    ("box past the edge", "right", lambda r: row(r, "0 0.95 0.5 0.2 0.2")),
    ("box without size", "no width", lambda r: row(r, "0 0.5 0.5 0 0.2")),
    ("box twice", "exactly", lambda r: row(r, "0 0.5 0.5 0.2 0.2", "0 0.5 0.5 0.2 0.2")),
    ("box given as an outline", "triangle", lambda r: row(r, "0 0.5 0.5 0.7 0.5 0.6 0.8")),
    ("keypoints beside the box", "two", lambda r: row(r, "0 0.5 0.5 0.2 0.2 0.5 0.5 2 0.45 0.5 1")),
    ("image without label file", "c", lambda r: (r / "labels" / "train" / "c.txt").unlink()),
    ("label file without image", "x", lambda r: (r / "labels" / "train" / "x.txt").write_text("0 0.5 0.5 0.2 0.2")),
    ("label file without image", "x beside", lambda r: (r / "images" / "train" / "x.txt").write_text("0 .5 .5 .2 .2")),
    ("two label files for one image", "c", lambda r: (r / "images" / "train" / "c.txt").write_text("0 .5 .5 .2 .2")),
    ("broken annotation file", "bytes", lambda r: (r / "labels" / "train" / "c.txt").write_bytes(b"\xff\xfe\x00")),
    ("unreadable image", "cut off", lambda r: cut(r / "images" / "train" / "c.png")),
    ("picture shared by two splits", "a", lambda r: shutil.copy(r / "images/train/a.png", r / "images/val/d.png")),
    ("number of classes differs", "nc", lambda r: replaced(r / "data.yaml", "names", "nc: 4\nnames")),
    ("name that YAML takes for something else", "yes", lambda r: replaced(r / "data.yaml", "nut", "yes")),
    ("name that YAML takes for something else", "012", lambda r: replaced(r / "data.yaml", "nut", "012")),
    ("category without boxes", "gear", lambda r: replaced(r / "data.yaml", "washer", "washer, gear")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "how", "plant"), YOLO_FAULTS, ids=[f"{k}-{h}" for k, h, _ in YOLO_FAULTS])
def test_a_fault_planted_in_yolo_is_found_alone_and_fixed(
    tmp_path: Path, kind: str, how: str, plant: Callable[[Path], object]
) -> None:
    root = clean_yolo(tmp_path / "set")
    assert look(root).faults == []
    plant(root)
    check_and_fix(root, kind)


def test_all_kinds_are_planted_somewhere() -> None:
    planted = {kind for kind, _, _ in (*COCO_FAULTS, *VOC_FAULTS, *YOLO_FAULTS)}
    elsewhere = {"outline that cannot be moved", "boxes that say nothing", "like pictures in two splits"}
    assert {str(kind) for kind in Kind} - planted - elsewhere == {"caption", "many images without a box"}
    assert len(planted) >= 30


def test_all_faults_at_once_are_counted_each(coco: CocoFolder) -> None:
    for parts in ({"bbox": [1, 2, 0, 4]}, {"bbox": [1, 2, 3, 0]}, {"image_id": 77}, {"bbox": [100, 2, 30, 40]}):
        extra(coco, **parts)
    listed(coco, "gone.png")
    cut(coco.image("val", 7))
    counts = look(coco.write()).counts
    assert dict(counts) == {
        "image file missing": 1,
        "unreadable image": 1,
        "annotation of an unknown image": 1,
        "box without size": 2,
        "box past the edge": 1,
    }


def test_headers_alone_find_cut_off_files_and_copies_too(coco: CocoFolder) -> None:
    cut(coco.image("train", 5))
    copied(coco, "val", "copy.png")
    counts = look(coco.write(), pixels=False).counts
    assert dict(counts) == {"unreadable image": 1, "picture shared by two splits": 1}


def test_a_shared_picture_leaves_train_and_stays_where_it_is_measured(coco: CocoFolder) -> None:
    copied(coco, "val", "copy.png")
    done = look(coco.write())
    assert 1 not in [image["id"] for image in done.trees["train"].content["images"]]
    assert 9 in [image["id"] for image in done.trees["val"].content["images"]]


def test_empty_pictures_are_not_taken_for_one(coco: CocoFolder) -> None:
    for split, number, value in (("train", 1, 7), ("val", 6, 8)):
        Image.new("RGB", SIZE[::-1], (value,) * 3).save(coco.image(split, number))
    assert look(coco.write()).faults == []


def test_blurred_neighbours_of_a_film_are_the_same_and_strangers_are_not(coco: CocoFolder) -> None:
    Image.open(coco.image("train", 1)).filter(ImageFilter.GaussianBlur(1)).save(coco.image("val", 6))
    assert dict(look(coco.write()).counts) == {"picture shared by two splits": 1}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_turned_as_its_picture_is(tmp_path: Path, orientation: int) -> None:
    from detr_mini.images.load import load_image

    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:15, 20:50] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    x, y, w, h = (round(v) for v in frames.moved_box(frames.turned(orientation, (40, 60)), [20, 5, 30, 10]))
    upright = load_image(tmp_path / "a.png")
    assert upright[:, y : y + h, x : x + w].min() == 255
    assert int(upright.sum()) == 255 * 3 * 300


def test_boxes_follow_an_image_that_was_made_smaller(coco: CocoFolder) -> None:
    image = coco.content["train"]["images"][0]
    image.update(height=160, width=240)
    for entry in coco.content["train"]["annotations"][:3]:
        entry["bbox"] = [2 * v for v in entry["bbox"]]
    done = look(coco.write())
    assert dict(done.counts) == {"size differs from the record": 1}
    assert done.trees["train"].content["annotations"][0]["bbox"] == [10.5, 6, 21, 30]


@pytest.mark.parametrize("pixels", [True, False])
def test_a_tiff_that_is_too_large_to_be_decoded_at_once_is_as_usable_as_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: bool
) -> None:
    root = write_plates(tmp_path / "set")
    splits = {split: {"images": split, "annotations": f"{split}.json"} for split in ("train", "val")}
    plates = Source.of({"root": root, "format": "coco", **splits})
    usual = check(plates, pixels=pixels)
    assert {split: len(tree.content["images"]) for split, tree in usual.trees.items()} == {"train": 1, "val": 1}
    monkeypatch.setattr(header, "MAX_PIXELS", 50_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    done = check(plates, pixels=pixels)
    assert done.faults == usual.faults
    assert done.trees == usual.trees
    shutil.copy(root / "train" / "a.tif", root / "val" / "a.tif")
    assert check(plates, pixels=pixels).counts["picture shared by two splits"] == 1


@pytest.mark.parametrize("boxed", [(5,), (8,), (9,), (5, 8), (5, 9), (8, 9), (5, 8, 9)])
def test_of_three_copies_one_with_the_boxes_is_kept(coco: CocoFolder, boxed: tuple[int, ...]) -> None:
    for image_id in (8, 9):
        shutil.copy(coco.image("train", 5), coco.image("train", image_id))
        listed(coco, f"{image_id}.png", image_id)
    for image_id in boxed:
        extra(coco, image_id=image_id)
    done = look(coco.write())
    assert done.counts["same picture twice"] == 2
    content = done.trees["train"].content
    (kept,) = (image["id"] for image in content["images"] if image["id"] in (5, 8, 9))
    assert kept in boxed
    assert sum(a["image_id"] == kept for a in content["annotations"]) == 1


def test_a_copy_of_a_copy_that_is_left_out_is_left_out_too(coco: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(0, 2, AGAIN, False), (2, 3, AGAIN, False)]  # val 6 and train 1, train 1 and train 2
    monkeypatch.setattr(copies, "_same_pictures", lambda *_: pairs)
    done = look(coco.write())
    assert done.counts["picture shared by two splits"] == 2
    assert [image["id"] for image in done.trees["train"].content["images"]] == [3, 4, 5]
    assert [image["id"] for image in done.trees["val"].content["images"]] == [6, 7]


def test_many_images_without_a_box_are_pointed_out(coco: CocoFolder) -> None:
    content = coco.content["train"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in (1, 2)]
    assert dict(look(coco.write()).counts) == {"many images without a box": 1}


CAPTION = {"id": 1, "file_name": "1.png", "height": 80, "width": 120, "caption": "the red bolt"}


@pytest.mark.parametrize(
    ("record", "annotation", "sentence"),
    [
        ({}, {"tokens_positive": [[4, 11]]}, "cuts a word"),
        ({}, {"tokens_positive": [[4, 40]]}, "does not lie in"),
        ({}, {"tokens_positive": []}, "must be a list"),
        ({"caption": " "}, {}, "has no caption"),
        ({}, {"bbox": [1, 1, 2, 2]}, "not among the image's boxes"),
        ({}, {"image_id": 5}, "belongs to no record"),
        ({"id": 2}, {"image_id": 2}, "has 2 records with the id 2"),
    ],
)
def test_faults_of_captions_are_found(
    coco: CocoFolder, record: dict[str, Any], annotation: dict[str, Any], sentence: str
) -> None:
    plain = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10.5, 6, 21, 30], "tokens_positive": [[4, 12]]}
    other = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [10.5, 7, 22, 30], "tokens_positive": [[4, 12]]}
    images = [{**CAPTION, **record}, {**CAPTION, "id": 2, "file_name": "2.png"}]
    content = {"images": images, "annotations": [{**plain, **annotation}, other], "categories": []}
    root = coco.write()
    (root / "annotations" / "captions.json").write_text(json.dumps(content))
    data = {"root": root, **AUTO, "captions": {"train": "annotations/captions.json"}}
    config = {"data": data, "pixels": True, "report": None, "fix": False, "output": None}
    done = data_check(config)
    assert set(done.counts) == {"caption"}
    assert sentence in done.faults[0].sentence
    content["annotations"][0] = plain
    content["images"][0] = CAPTION
    (root / "annotations" / "captions.json").write_text(json.dumps(content))
    assert data_check(config).faults == []


def test_the_real_sets_show_what_is_known_of_them(shared_data: Callable[[str], Path]) -> None:
    like = {"like pictures in two splits": 2}  # two fields of view at another focus, in train and val
    assert dict(look(shared_data("bccd_voc")).counts) == {"box without size": 2, **like}
    assert look(shared_data("coco_mini")).faults == []
    done = look(shared_data("coco128_yolo"))
    unused = [fault.sentence for fault in done.faults if fault.kind is Kind.NO_IMAGE_FOR_LABELS]
    bare = [fault.image for fault in done.faults if fault.kind is Kind.NO_LABEL_FILE]
    assert [Path(name).stem for name in bare] == ["000000000250", "000000000508"]
    assert ["656" in text or "659" in text for text in unused] == [True, True]
    others = set(done.counts) - {"label file without image", "image without label file"}
    assert others == {"category that training never sees", "category without boxes"}


def test_made_scenes_are_clean(scenes_root: Path) -> None:
    assert look(scenes_root).faults == []


def test_nothing_is_written_where_nothing_is_left(coco: CocoFolder) -> None:
    for number in (6, 7):
        coco.image("val", number).unlink()
    done = look(coco.write())
    with pytest.raises(DataError, match="no usable image is left in val"):
        write_fixed_copy(done, coco.root.parent / "fixed")
    assert not (coco.root.parent / "fixed").exists()


def test_the_table_names_each_kind_once_with_its_count_and_examples(coco: CocoFolder) -> None:
    from rich.console import Console

    for k in range(5):
        extra(coco, bbox=[k, 2, 0, 4])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(look(coco.write()).table())
    shown = console.export_text()
    assert shown.count("box without size") == 1
    assert "annotation 13 of train.json (1.png): bbox [0, 2, 0, 4] has no width" in shown
    assert "and 2 more" in shown
