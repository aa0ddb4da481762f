"""D-28, D-29, D-34: a fix never invents truth, and what it loses is reported."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_parts import AUTO, voc_text, write_coco, write_voc, write_yolo
from detr_mini.checking.check import check
from detr_mini.checking.report import Checked, write_fixed_copy
from detr_mini.cli import main
from detr_mini.errors import DataError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.discover import Source
from detr_mini.formats.faults import Fix, Kind
from training_parts import unchecked

SIZE = (80, 120)
NAMES = {1: "with_mask", 2: "without_mask", 3: "class_a", 4: "class_b"}
Box = tuple[str, tuple[float, ...], int]


def look(root: Path) -> Checked:
    return check(Source.of({"root": root, **AUTO}))


def fixed(root: Path, output: Path) -> dict[str, Any]:
    """The training annotations of the fixed copy."""
    write_fixed_copy(look(root), output)
    content: dict[str, Any] = json.loads((output / "annotations" / "train.json").read_text())
    return content


def noise(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BILINEAR)


class Planted:
    """A sound set, its truth by file, and faults that are planted one after the other."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.draw = root, random.Random(seed)
        self.truth: dict[str, list[Box]] = {}
        self.content: dict[str, dict[str, Any]] = {}
        number = 0
        for split, count in (("train", 6), ("val", 3)):
            images, annotations = [], []
            (root / split).mkdir(parents=True)
            for image_id in range(1, count + 1):
                name = f"{split}{image_id}.png"
                noise(1000 * seed + image_id + 100 * (split == "val")).save(root / split / name)
                images.append({"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
                self.truth[name] = []
                for _ in range(self.draw.randint(0 if image_id > 1 else 1, 5)):
                    number += 1
                    box = self.box()
                    kind, crowd = self.draw.choice(list(NAMES)), int(self.draw.random() < 0.1)
                    annotations.append(
                        {"id": number, "image_id": image_id, "category_id": kind, "bbox": box, "iscrowd": crowd,
                         "area": box[2] * box[3]}
                    )  # fmt: skip
                    self.truth[name].append((NAMES[kind], tuple(box), crowd))
            categories = [{"id": i, "name": name} for i, name in NAMES.items()]
            self.content[split] = {"images": images, "annotations": annotations, "categories": categories}
        self.touched: set[str] = set()

    def box(self) -> list[float]:
        w, h = self.draw.uniform(8, 50), self.draw.uniform(8, 40)
        x, y = self.draw.uniform(0, SIZE[1] - w), self.draw.uniform(0, SIZE[0] - h)
        return [round(v, 2) for v in (x, y, w, h)]

    @property
    def train(self) -> dict[str, Any]:
        return self.content["train"]

    def image(self, with_box: bool = True) -> dict[str, Any]:
        """A training image that no other fault has touched."""
        free = [i for i in self.train["images"] if i["file_name"] not in self.touched]
        free = [i for i in free if not with_box or self.truth[i["file_name"]]]
        if not free:
            raise LookupError
        chosen: dict[str, Any] = self.draw.choice(free)
        self.touched.add(chosen["file_name"])
        return chosen

    def own(self, image: dict[str, Any]) -> list[dict[str, Any]]:
        return [a for a in self.train["annotations"] if a["image_id"] == image["id"]]

    def extra(self, **parts: Any) -> None:
        plain = {"id": 10_000 + self.draw.randrange(10**6), "image_id": 1, "category_id": 1, "bbox": self.box()}
        self.train["annotations"].append({**plain, **parts})

    def write(self) -> Path:
        (self.root / "annotations").mkdir(exist_ok=True)
        for split, content in self.content.items():
            (self.root / "annotations" / f"{split}.json").write_text(json.dumps(content))
        return self.root


def one_id_for_two_images(p: Planted) -> None:
    one, two = p.image(), p.image(with_box=False)
    for annotation in p.own(two):
        annotation["image_id"] = one["id"]
    two["id"] = one["id"]


def one_id_for_two_categories(p: Planted) -> None:
    for category in p.train["categories"]:
        if category["id"] == 2:
            category["id"] = 1
    for annotation in p.train["annotations"]:
        annotation["category_id"] = 1 if annotation["category_id"] == 2 else annotation["category_id"]


def two_ids_for_one_category(p: Planted) -> None:
    p.train["categories"].append({"id": 9, "name": NAMES[3]})
    for annotation in p.train["annotations"]:
        if annotation["category_id"] == 3 and p.draw.random() < 0.5:
            annotation["category_id"] = 9


def made_smaller(p: Planted) -> None:
    image = p.image()
    path = p.root / "train" / image["file_name"]
    Image.open(path).resize((SIZE[1] // 2, SIZE[0] // 2)).save(path)
    half = [(n, tuple(v / 2 for v in box), crowd) for n, box, crowd in p.truth[image["file_name"]]]
    p.truth[image["file_name"]] = half


def another_record(p: Planted) -> None:
    """The record is wrong, and its boxes show it: they do not fit into it."""
    image = p.image()
    box = [60.0, 30.0, 55.0, 45.0]
    p.extra(image_id=image["id"], bbox=box)
    p.truth[image["file_name"]].append((NAMES[1], tuple(box), 0))
    image.update(height=SIZE[0] // 2, width=SIZE[1] // 2)


def turned_photograph(p: Planted) -> None:
    image = p.image()
    path, exif = p.root / "train" / image["file_name"], Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    turned = [(n, (SIZE[0] - y - h, x, h, w), crowd) for n, (x, y, w, h), crowd in p.truth[image["file_name"]]]
    p.truth[image["file_name"]] = turned


def past_the_edge(p: Planted) -> None:
    image = p.image(with_box=False)
    p.extra(image_id=image["id"], bbox=[100, 20, 35, 30])
    p.truth[image["file_name"]].append((NAMES[1], (100, 20, 20, 30), 0))


def crowd_or_not(p: Planted) -> None:
    p.draw.choice(p.own(p.image()))["iscrowd"] = 2


def crowd_as_text(p: Planted) -> None:
    annotation = p.draw.choice(p.own(p.image()))
    annotation["iscrowd"] = str(annotation["iscrowd"])


def listed_twice(p: Planted, how: str) -> None:
    image = p.image()
    p.train["images"].append({**image, "id": 77})
    for annotation in p.own(image):
        if how == "the same boxes":
            p.extra(**{**annotation, "id": annotation["id"] + 5000, "image_id": 77})
        elif how == "half the boxes" and p.draw.random() < 0.5:
            annotation["image_id"] = 77
        elif how == "by another hand" and annotation["bbox"]:
            x, y, w, h = annotation["bbox"]
            p.extra(**{**annotation, "id": annotation["id"] + 5000, "image_id": 77, "bbox": [x + 1, y + 1, w, h]})


def no_file(p: Planted) -> None:
    (p.root / "train" / p.image(with_box=False)["file_name"]).unlink()


def cut_off(p: Planted) -> None:
    path = p.root / "train" / p.image(with_box=False)["file_name"]
    path.write_bytes(path.read_bytes()[:300])


def copied(p: Planted) -> None:
    """A training image in val, too, with other boxes there."""
    image = p.image(with_box=False)
    shutil.copy(p.root / "train" / image["file_name"], p.root / "val" / "copy.png")
    p.content["val"]["images"].append({**image, "id": 50, "file_name": "copy.png"})
    p.truth["copy.png"] = []


def copied_within(p: Planted) -> None:
    """Twice in train under two names; only one of the two has the boxes."""
    image = p.image()
    shutil.copy(p.root / "train" / image["file_name"], p.root / "train" / "again.png")
    p.train["images"].insert(0, {**image, "id": 51, "file_name": "again.png"})
    p.truth["again.png"] = list(p.truth[image["file_name"]])


FAULTS: list[Callable[[Planted], None]] = [
    one_id_for_two_images, one_id_for_two_categories, two_ids_for_one_category, made_smaller, another_record,
    turned_photograph, past_the_edge, crowd_or_not, crowd_as_text, no_file, cut_off, copied, copied_within,
    *(lambda p, how=how: listed_twice(p, how) for how in ("the same boxes", "half the boxes", "by another hand")),
    lambda p: p.extra(bbox=[5, 5, 0, 9]), lambda p: p.extra(bbox=[5, 5, float("nan"), 9]),
    lambda p: p.extra(bbox=[300, 5, 9, 9]), lambda p: p.extra(image_id=999), lambda p: p.extra(category_id=999),
    lambda p: p.extra(bbox=None), lambda p: p.extra(**{**p.train["annotations"][0], "id": 4321}),
    lambda p: p.train["annotations"][-1].update(id=p.train["annotations"][0]["id"]),
    lambda p: p.train["annotations"][-1].update(area=-4),
]  # fmt: skip


def plant(root: Path, seed: int) -> Planted:
    planted = Planted(root, seed)
    for fault in planted.draw.sample(FAULTS, planted.draw.randint(1, 5)):
        try:
            fault(planted)
        except LookupError:  # no image is left that no other fault has touched
            continue
    planted.write()
    return planted


def can_be_fixed(done: Checked) -> bool:
    contents = [tree.content for tree in done.trees.values()]
    return not any(f.refused for f in done.faults) and all(c["images"] and c["annotations"] for c in contents)


def assert_nothing_is_wrong_or_lost(planted: Planted, output: Path) -> None:
    done = look(planted.root)
    if not can_be_fixed(done):
        with pytest.raises(DataError, match=r"would be a guess|is left in"):
            write_fixed_copy(done, output)
        assert not output.exists()
        return
    write_fixed_copy(done, output)
    changes = json.loads((output / "changes.json").read_text())
    before = sum(len(content["annotations"]) for content in planted.content.values())
    after = 0
    for split in planted.content:
        content = json.loads((output / "annotations" / f"{split}.json").read_text())
        files = {i["id"]: i["file_name"] for i in content["images"]}
        names = {c["id"]: c["name"] for c in content["categories"]}
        after += len(content["annotations"])
        left = {name: list(planted.truth[name]) for name in files.values()}
        for annotation in content["annotations"]:
            box = annotation["bbox"]
            right = [
                truth
                for truth in left[files[annotation["image_id"]]]
                if truth[0] == names[annotation["category_id"]]
                and truth[2] == annotation.get("iscrowd", 0)
                and np.allclose(truth[1], box, atol=1e-6)
            ]
            assert right, (annotation, left[files[annotation["image_id"]]])
            left[files[annotation["image_id"]]].remove(right[0])
    assert before - after == sum(change["boxes"] for change in changes), changes
    assert not [fault for fault in look(output).faults if fault.fix]


@pytest.mark.parametrize("seed", range(20))
def test_d28_no_box_of_a_fixed_copy_is_wrong_and_each_lost_one_is_counted(tmp_path: Path, seed: int) -> None:
    assert_nothing_is_wrong_or_lost(plant(tmp_path / "set", seed), tmp_path / "fixed")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_d28_no_box_of_a_fixed_copy_is_wrong_in_a_hundred_more_sets(tmp_path: Path, seed: int) -> None:
    with unchecked():
        assert_nothing_is_wrong_or_lost(plant(tmp_path / "set", seed), tmp_path / "fixed")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: getattr(f, "__name__", "?"))
def test_d28_no_single_fix_makes_a_wrong_box(tmp_path: Path, fault: Callable[[Planted], None]) -> None:
    planted = Planted(tmp_path / "set", 3)
    fault(planted)
    planted.write()
    assert_nothing_is_wrong_or_lost(planted, tmp_path / "fixed")


def test_d28_two_images_with_one_id_are_both_left_out_with_their_boxes(tmp_path: Path) -> None:
    images = [{"id": 1}, {"id": 1, "file_name": "2.png"}, {"id": 3}]
    boxes = [{"image_id": i, "bbox": [3, 3, 20 + k, 20]} for k, i in enumerate((1, 1, 1, 3))]
    write_coco(tmp_path / "set", images=images, annotations=boxes)
    noise(5).resize((60, 40)).save(tmp_path / "set" / "train" / "2.png")
    content = fixed(tmp_path / "set", tmp_path / "fixed")
    assert [i["file_name"] for i in content["images"]] == ["3.png"]
    assert [a["image_id"] for a in content["annotations"]] == [3]
    assert not (tmp_path / "fixed" / "train" / "2.png").exists()
    changes = json.loads((tmp_path / "fixed" / "changes.json").read_text())
    assert [(c["kind"], c["boxes"], c["now"]) for c in changes] == [
        ("image id twice", 3, "both left out, with 3 boxes")
    ]


def test_d28_one_id_for_two_categories_is_refused_with_the_number_of_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ({"id": 1, "name": "cat"}, {"id": 1, "name": "dog"})
    write_coco(tmp_path / "set", annotations=[{"bbox": [3, 3, 20, 20]}, {"bbox": [9, 3, 20, 20]}], categories=two)
    assert main(["data", "check", f"data.root={tmp_path / 'set'}", "fix=true", f"output={tmp_path / 'x'}"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "category id twice: train: id 1 is 'cat' and 'dog'; which of them its 2 boxes belong to is unknown" in error
    assert "correct this by hand" in error
    assert not (tmp_path / "x").exists()


def test_d28_a_split_that_cannot_be_read_refuses_the_fixed_copy(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path / "set", split, annotations=[{"bbox": [3, 3, 20, 20]}])
    path = tmp_path / "set" / "annotations" / "train.json"
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"broken annotation file: train: train\.json has no list 'annotations'"):
        write_fixed_copy(look(tmp_path / "set"), tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_d28_an_image_whose_labels_cannot_be_read_does_not_become_background(tmp_path: Path, form: str) -> None:
    root = tmp_path / "set"
    if form == "voc":
        write_voc(root, {"train": {k: [("nut", (3, 4, 20 + ord(k) % 7, 30))] for k in "abc"}})
        (root / "Annotations" / "b.xml").write_text("<annotation><object>")
    else:
        write_yolo(root, {"train": {k: [f"{c} 0.{c + 3} 0.5 0.{k} 0.2" for c in (0, 1, 2)] for k in "234"}})
        (root / "labels" / "train" / "3.txt").write_bytes(b"\xff\xfe\x00")
    done = look(root)
    write_fixed_copy(done, tmp_path / "fixed")
    again = look(tmp_path / "fixed")
    assert (again.images, again.boxes, again.faults) == (2, 2 if form == "voc" else 6, [])
    assert [f.fix for f in done.faults] == [Fix.LEFT_OUT]


def test_d28_an_image_with_two_label_files_of_which_one_cannot_be_read_does_not_become_background(
    tmp_path: Path,
) -> None:
    root = write_yolo(tmp_path / "set", {"train": {k: [f"{c} 0.{c + 3} 0.5 0.{k} 0.2" for c in (0, 1)] for k in "234"}})
    (root / "images" / "train" / "3.txt").write_text("a caption\n")
    (root / "labels" / "train" / "3.txt").write_bytes(b"\xff\xfe\x00")
    write_fixed_copy(look(root), tmp_path / "fixed")
    again = look(tmp_path / "fixed")
    assert (again.images, again.boxes) == (2, 4)


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_d28_an_image_without_labels_stays_so(tmp_path: Path, form: str) -> None:
    root = tmp_path / "set"
    if form == "voc":
        write_voc(root, {"train": {k: [("nut", (3, 4, 20 + ord(k) % 7, 30))] for k in "abc"}})
        (root / "Annotations" / "b.xml").unlink()
    else:
        write_yolo(root, {"train": {"2": ["0 0.5 0.5 0.2 0.2"], "3": None, "4": ["1 0.5 0.5 0.4 0.2"]}})
    write_fixed_copy(look(root), tmp_path / "fixed")
    assert dict(look(tmp_path / "fixed").counts)["image without label file"] == 1


def test_d28_an_xml_file_that_names_another_image_is_left_out(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"train": {k: [("nut", (3, 4, 20 + ord(k) % 7, 30))] for k in "abc"}})
    (root / "Annotations" / "b.xml").write_text(voc_text("c.png", [("nut", (3, 4, 30, 30))]))
    done = look(root)
    write_fixed_copy(done, tmp_path / "fixed")
    assert [f.now for f in done.faults] == ["left out, with 1 box"]
    assert look(tmp_path / "fixed").images == 2


def test_d28_a_label_file_that_disagrees_with_another_one_leaves_its_image_out(tmp_path: Path) -> None:
    rows = {k: [f"0 0.5 0.5 0.{k} 0.2"] for k in "2345"}
    root = write_yolo(tmp_path / "set", {"train": rows})
    images = root / "images" / "train"
    (images / "2.txt").write_text("1 0.3 0.3 0.1 0.1")  # other boxes
    (images / "3.txt").write_text("0 0.5 0.5 0.3 0.2\n")  # the same
    (images / "4.txt").write_text("a photograph of two nuts")  # a caption
    write_fixed_copy(look(root), tmp_path / "fixed")
    content = Source.of({"root": tmp_path / "fixed", **AUTO}).trees()["train"].content
    assert [Path(i["file_name"]).stem for i in content["images"]] == ["3", "4", "5"]
    assert len(content["annotations"]) == 3


def test_d28_the_command_counts_every_fix_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [{"bbox": [3, 3, 0, 9]}, {"bbox": [3, 3, 9, 0]}, {"bbox": [50, 3, 30, 9]}, {"bbox": [5, 5, 20, 20]},
             {"bbox": [5, 5, 9, 9], "image_id": 2}]  # fmt: skip
    write_coco(tmp_path / "set", images=[{"id": 1}, {"id": 2}, {"id": 3}], annotations=boxes)
    (tmp_path / "set" / "train" / "2.png").unlink()
    report = tmp_path / "report.json"
    command = ["data", "check", f"data.root={tmp_path / 'set'}", "fix=true", f"output={tmp_path / 'x'}"]
    assert main([*command, f"report={report}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "     2  box without size: left out (2 boxes)" in lines
    assert "     1  box past the edge: cut at the edge" in lines
    assert "     1  image file missing: left out (1 boxes)" in lines
    assert "2 of 3 images, 2 of 5 boxes" in lines[-1]
    assert [f["boxes"] for f in json.loads(report.read_text())["faults"] if f["fix"]] == [1, 1, 1, 0]


SQUARE = [[10.0, 10.0, 50.0, 10.0, 50.0, 30.0, 10.0, 30.0]]


def one_box(root: Path, box: list[float], **parts: Any) -> Path:
    record = parts.pop("record", {})
    images = [{"id": 1, **record}, {"id": 2}]
    write_coco(root, images=images, annotations=[{"bbox": box, **parts}, {"image_id": 2, "bbox": [1, 2, 9, 9]}])
    return root


def test_d29_a_clipped_box_has_at_most_its_area_and_its_outline_is_clipped_too(tmp_path: Path) -> None:
    outline = [[41.0, 10.0, 61.0, 10.0, 61.0, 30.0, 41.0, 30.0]]
    root = one_box(tmp_path / "set", [41, 10, 20, 20], area=390.0, segmentation=outline)
    found = fixed(root, tmp_path / "fixed")["annotations"][0]
    assert found["bbox"] == [41, 10, 19, 20]
    assert found["area"] == 380
    assert found["segmentation"] == [[41.0, 10.0, 60.0, 10.0, 60.0, 30.0, 41.0, 30.0]]
    root = one_box(tmp_path / "small", [41, 10, 20, 20], area=69.5)
    assert fixed(root, tmp_path / "small-fixed")["annotations"][0]["area"] == 69.5


def test_d29_a_box_turned_with_its_picture_keeps_its_area_and_its_outline(tmp_path: Path) -> None:
    keypoints = [10, 10, 2, 0, 0, 0]
    root = one_box(tmp_path / "set", [10, 10, 40, 20], area=700, segmentation=SQUARE, keypoints=keypoints)
    path, exif = root / "train" / "1.png", Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    found = fixed(root, tmp_path / "fixed")["annotations"][0]
    assert found["bbox"] == [10, 10, 20, 40]
    assert found["area"] == 700
    assert found["segmentation"] == [[30, 10, 30, 50, 10, 50, 10, 10]]
    assert found["keypoints"] == [30, 10, 2, 0, 0, 0]


def test_d29_a_turned_label_keeps_the_area_of_the_object(tmp_path: Path) -> None:
    root = one_box(tmp_path / "set", [20, 10, 20, 10], attributes={"rotation": 45})
    found = fixed(root, tmp_path / "fixed")["annotations"][0]
    assert found["area"] == 200
    assert found["bbox"][2] == pytest.approx(30 / 2**0.5)


def test_d29_a_scaled_box_has_its_area_scaled(tmp_path: Path) -> None:
    outline = [[2 * v for v in SQUARE[0]]]
    root = one_box(
        tmp_path / "set", [20, 20, 80, 40], area=2800, segmentation=outline, record={"height": 80, "width": 120}
    )
    found = fixed(root, tmp_path / "fixed")["annotations"][0]
    assert found["bbox"] == [10, 10, 40, 20]
    assert found["area"] == 700
    assert found["segmentation"] == SQUARE


def test_d29_a_mask_that_cannot_follow_its_box_is_reported(tmp_path: Path) -> None:
    mask = {"counts": [4, 5, 2391], "size": [40, 60]}
    root = one_box(tmp_path / "set", [41, 10, 20, 20], segmentation=mask, area=100)
    done = look(root)
    counts = {"box past the edge": 1, "outline that cannot be moved": 1, "category without boxes": 2}
    assert dict(done.counts) == counts
    assert "segmentation" not in fixed(root, tmp_path / "fixed")["annotations"][0]
    untouched = one_box(tmp_path / "sound", [31, 10, 20, 20], segmentation=mask, area=100)
    assert fixed(untouched, tmp_path / "sound-fixed")["annotations"][0]["segmentation"] == mask


@pytest.mark.parametrize("share", [None, 0.5, 1.0])
@pytest.mark.parametrize(
    ("box", "angle"),
    [
        ([20, 10, 20, 10], 0),
        ([20, 10, 20, 10], 45),
        ([41, 10, 20, 20], 0),
        ([48, 10, 20, 10], 90),
        ([45, 9, 20, 9], 30),
    ],
)
def test_d29_training_and_a_fixed_copy_have_the_same_area(
    tmp_path: Path, box: list[float], angle: int, share: float | None
) -> None:
    drawn = box[2] * box[3]
    parts = {} if share is None else {"area": drawn * share}
    root = one_box(tmp_path / "set", box, attributes={"rotation": angle}, **parts)
    coco = read_coco(root / "annotations" / "train.json", root / "train")
    found = fixed(root, tmp_path / "fixed")["annotations"][0]
    assert coco.boxes_xywh[0].tolist() == pytest.approx(found["bbox"])
    assert coco.area[0].item() == pytest.approx(found["area"])
    is_cut = coco.report.clipped == 1
    assert is_cut == (box[0] > 40)
    inside = coco.boxes_xywh[0, 2:].prod().item() if is_cut else drawn
    assert found["area"] == pytest.approx(min(drawn * (share or 1), inside))


@pytest.mark.parametrize(
    ("box", "text"),
    [
        ([0, 0, 60, 40], "train: 6 of 6 boxes are their whole image"),
        ([1, 1, 58, 38], "train: 6 of 6 boxes are their whole image"),
        ([15, 10, 30, 20], None),
    ],
)
def test_d34_boxes_that_are_their_whole_images_are_reported(tmp_path: Path, box: list[int], text: str | None) -> None:
    boxes = [{"image_id": k, "bbox": box} for k in range(1, 7)]
    write_coco(tmp_path / "set", images=[{"id": k} for k in range(1, 7)], annotations=boxes)
    assert [f.sentence for f in look(tmp_path / "set").faults if f.kind is Kind.MEANINGLESS_BOXES] == (
        [text] * bool(text)
    )


def test_d34_one_place_in_every_image_is_reported(tmp_path: Path) -> None:
    boxes = [{"image_id": k, "bbox": [15, 10, 30, 20]} for k in range(1, 13)]
    write_coco(tmp_path / "set", images=[{"id": k} for k in range(1, 13)], annotations=boxes)
    found = look(tmp_path / "set").faults
    assert [f.sentence for f in found if f.kind is Kind.MEANINGLESS_BOXES] == [
        "train: 12 of 12 boxes lie at one place: [0.25, 0.25, 0.5, 0.5] of their image"
    ]


def test_the_word_is_fix_and_mend_still_works(tmp_path: Path) -> None:
    from detr_mini.data.module import DetectionData
    from detr_mini.errors import ConfigError

    root = one_box(tmp_path / "set", [41, 10, 20, 20])
    parts = {"mean": [0.5] * 3, "std": [0.25] * 3, "stride": 16, "seed": 0, "size": 32}
    for word in ("fix", "mend"):
        data = DetectionData(root=root, **AUTO, **parts, check=word)
        data.setup("fit")
        assert data.train_set.boxes_xywh[0].tolist() == [41, 10, 19, 20]
    with pytest.raises(ConfigError, match="it must be null, 'stop' or 'fix'"):
        DetectionData(root=root, **AUTO, **parts, check="repair")
