"""VOC, YOLO and COCO into each other: the same boxes, the same AP."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data_parts import AUTO, write_coco, write_voc, write_yolo
from detr_mini.data.tree_parts import write_splits
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.evaluation.metrics.coco import score
from detr_mini.formats.convert import WRITTEN, convert
from detr_mini.formats.discover import Source, find_layout
from detr_mini.formats.load import read_split

Things = dict[str, list[tuple[str, str, tuple[float, ...]]]]


def source(root: Path) -> Source:
    return Source.of({"root": root, **AUTO})


def things(root: Path, *, crowd: bool = True) -> Things:
    """(stem, name, box) of every split, sorted; boxes without size among them."""
    found: Things = {}
    for split, tree in source(root).trees().items():
        names = {c["id"]: c["name"] for c in tree.content["categories"]}
        stems = {i["id"]: Path(i["file_name"]).stem for i in tree.content["images"]}
        found[split] = sorted(
            (stems[a["image_id"]], names[a["category_id"]], tuple(map(float, a["bbox"])))
            for a in tree.content["annotations"]
            if crowd or not a["iscrowd"]
        )
        assert len(stems) == len(set(stems.values()))
    return found


def tree_of(format: str, root: Path) -> Path:
    if format == "voc":
        files = {
            "train": {"a": [("nut", (1, 1, 60, 40)), ("bolt", (7, 8, 7, 8))], "b": []},
            "val": {"c": [("nut", (3, 4, 9, 9))]},
        }
        return write_voc(root, files)
    rows = ["0 0.333333 0.5 0.2 0.123457", "2 0.95 0.5 0.2 0.1", "1 0.05 0.05 0.1 0.1"]
    return write_yolo(root, {"train": {"a": rows, "b": []}, "val": {"c": ["1 0.1 0.2 0.03 0.04"]}})


@pytest.mark.parametrize("start", ["voc", "yolo"])
@pytest.mark.parametrize("over", ["coco", "voc", "yolo"])
def test_there_and_back_nothing_changes(tmp_path: Path, start: str, over: str) -> None:
    if start == over:
        pytest.skip("nothing to convert")
    first = tree_of(start, tmp_path / "a")
    convert(source(first), tmp_path / "b", over)
    convert(source(tmp_path / "b"), tmp_path / "c", start)
    assert things(first) == things(tmp_path / "b") == things(tmp_path / "c")
    before, after = source(first).trees(), source(tmp_path / "c").trees()
    assert [t.content["categories"] for t in before.values()] == [t.content["categories"] for t in after.values()]


def assert_same(found: list[Any], truth: list[Any], near: float) -> None:
    """The same names in the same images, in any order, with boxes that differ by at most `near` pixels."""
    left: dict[tuple[str, str], list[Any]] = {}
    for stem, name, box in truth:
        left.setdefault((stem, name), []).append(np.array(box))
    assert len(found) == len(truth)
    for stem, name, box in found:
        boxes = left[stem, name]
        best = min(range(len(boxes)), key=lambda k: float(abs(boxes[k] - box).max()))
        assert abs(boxes.pop(best) - box).max() <= near, (stem, name, box)


@pytest.mark.parametrize("name", ["bccd_voc", "coco128_yolo", "coco_mini"])
def test_real_sets_go_through_every_form_and_come_back(
    shared_data: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    root = shared_data(name)
    whole = source(root)
    start = whole.format
    one_split = replace(whole, splits={"val": whole.splits["val"]})
    before = {"val": things(root, crowd=False)["val"]}
    for over in WRITTEN:
        if over != start:
            convert(one_split, tmp_path / over, over, images="link")
            convert(source(tmp_path / over), tmp_path / f"{over}-{start}", start, images="link")
            near = 0.02 if over in ("cvat", "label_studio") else 0.0  # CVAT writes hundredths of a pixel
            for folder in (over, f"{over}-{start}"):
                assert_same(things(tmp_path / folder, crowd=False)["val"], before["val"], near)


def test_yolo_labels_come_back_as_the_same_numbers(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("coco128_yolo")
    convert(source(root), tmp_path / "coco", "coco", images="link")
    convert(source(tmp_path / "coco"), tmp_path / "yolo", "yolo", images="link")
    labels = list((root / "labels" / "val2017").glob("*.txt"))
    assert len(labels) > 100
    for label in labels:
        rows = [[float(v) for v in line.split()] for line in label.read_text().splitlines()]
        back = (tmp_path / "yolo" / "labels" / "val" / label.name).read_text().splitlines()
        assert [[float(v) for v in line.split()] for line in back] == [pytest.approx(row, abs=5e-7) for row in rows]


@pytest.mark.parametrize(("name", "split"), [("bccd_voc", "val"), ("coco128_yolo", "train")])
def test_read_directly_converted_and_by_pycocotools_the_boxes_and_the_ap_are_the_same(
    shared_data: Callable[[str], Path], tmp_path: Path, name: str, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    root = shared_data(name)
    layout = find_layout(root)
    direct = read_split(root, layout.splits[split], split, format=layout.format)
    convert(source(root), tmp_path / "coco", "coco", images="link")
    converted = read_split(tmp_path / "coco", find_layout(tmp_path / "coco").splits[split], split)
    torch.testing.assert_close(direct.boxes_xywh, converted.boxes_xywh, rtol=0, atol=0)
    assert torch.equal(direct.labels, converted.labels)
    assert direct.categories.names == converted.categories.names
    content = json.loads((tmp_path / "coco" / "annotations" / f"{split}.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if min(a["bbox"][2:]) > 0]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = COCO(str(tmp_path / "truth.json"))
    by_pycocotools = [truth.anns[i]["bbox"] for image in sorted(truth.imgs) for i in truth.getAnnIds(imgIds=image)]
    inside = [i for i, box in enumerate(by_pycocotools) if box == direct.boxes_xywh[i].tolist()]
    assert len(by_pycocotools) == len(direct.boxes_xywh)
    assert all(  # others are cut at the edge by less than a pixel
        by_pycocotools[i] == pytest.approx(direct.boxes_xywh[i].tolist(), abs=0.5)
        for i in set(range(len(by_pycocotools))) - set(inside)
    )
    results = guesses(direct.truth)
    scores = [score(s.truth, results, direct.categories).metrics["AP"] for s in (direct, converted)]
    judge = COCOeval(truth, truth.loadRes(results), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert 0.2 < scores[0] < 0.9
    assert scores[0] == scores[1] == pytest.approx(judge.stats[0], abs=1e-4 if name == "coco128_yolo" else 1e-12)


def guesses(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """The truth, shaken, one in five left out."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(len(truth["annotations"]), 4, generator=rng)
    found = []
    for annotation, shift in zip(truth["annotations"], noise.tolist(), strict=True):
        if annotation["id"] % 5:
            x, y, w, h = annotation["bbox"]
            dx, dy, dw, dh = (0.1 * s for s in shift)
            box = [x + dx * w, y + dy * h, w * (1 + dw / 2), h * (1 + dh / 2)]
            found.append(
                {**{k: annotation[k] for k in ("image_id", "category_id")}, "bbox": box, "score": abs(shift[0])}
            )
    return found


def test_what_a_form_has_no_place_for_is_said(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("coco_mini")
    notes = convert(source(root), tmp_path / "yolo", "yolo", images="none")
    assert "train: 8 crowd regions are left out; YOLO has no place for them" in notes
    assert "train: 739 outlines are left out" in notes
    convert(source(root), tmp_path / "voc", "voc", images="link")
    assert things(tmp_path / "voc") == things(root)
    trees = source(tmp_path / "voc").trees()
    assert sum(a["iscrowd"] for a in trees["train"].content["annotations"]) == 8


def test_outlines_and_keypoints_that_go_are_reported(tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", {"train": {"a": ["0 0.1 0.1 0.9 0.1 0.9 0.9"]}})
    notes = convert(Source.of({"root": tmp_path / "yolo", **AUTO}), tmp_path / "to", "coco")
    assert notes[-1] == "train: box given as an outline: 1, the first is row 1 of labels/train/a.txt: 3 corners"
    write_coco(tmp_path / "coco", annotations=[{"bbox": [2, 3, 20, 12], "keypoints": [4, 5, 2]}])
    for to in WRITTEN:
        if to != "coco":
            notes = convert(Source.of({"root": tmp_path / "coco", **AUTO}), tmp_path / f"to-{to}", to)
            assert "train: 1 lists of keypoints are left out" in notes


def test_the_data_file_of_yolo_holds_wherever_a_reader_is_started(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", {"train": {"a": [("x", (1, 2, 30, 40))]}})
    convert(source(tmp_path / "voc"), tmp_path / "yolo", "yolo")
    content = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert "path" not in content  # "." would be the folder where the reader was started
    assert (content["train"], content["names"]) == ("images/train", {0: "x"})


def test_category_ids_with_gaps_survive_yolo(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("coco_mini")
    convert(source(root), tmp_path / "yolo", "yolo", images="link")
    before, after = source(root).trees()["val"], source(tmp_path / "yolo").trees()["val"]
    ids = [c["id"] for c in after.content["categories"]]
    assert ids == [c["id"] for c in before.content["categories"]]
    assert max(ids) == 90
    assert {i["id"] for i in after.content["images"]} == {i["id"] for i in before.content["images"]}


def test_two_splits_with_the_same_names_share_voc_s_one_folder(tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", {"train": {"a": ["0 0.5 0.5 0.5 0.5"]}, "val": {"a": ["1 0.5 0.5 0.5 0.5"]}})
    convert(source(tmp_path / "yolo"), tmp_path / "voc", "voc")
    trees = source(tmp_path / "voc").trees()
    assert [t.content["images"][0]["file_name"] for t in trees.values()] == ["a.png", "a_2.png"]
    assert (tmp_path / "voc" / "JPEGImages" / "a_2.png").read_bytes() == (
        tmp_path / "yolo/images/val/a.png"
    ).read_bytes()


def test_faults_no_box_can_be_made_of_stop_a_conversion_and_leave_nothing_behind(tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", {"train": {"a": ["0 0.5 0.5 0.5"]}})
    with pytest.raises(DataError, match="row that is no box: row 1 of"):
        convert(source(tmp_path / "yolo"), tmp_path / "out", "coco")
    assert [path.name for path in tmp_path.iterdir()] == ["yolo"]


def test_an_output_that_is_there_and_words_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", {"train": {"a": []}})
    yolo = source(tmp_path / "yolo")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        convert(yolo, tmp_path / "out", "coco")
    with pytest.raises(ConfigError, match=r"to is 'cocoo'; did you mean 'coco'"):
        convert(yolo, tmp_path / "new", "cocoo")
    with pytest.raises(ConfigError, match="in the form yolo already"):
        convert(yolo, tmp_path / "new", "yolo")


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_a_coco_file_written_in_pieces_is_the_text_of_one_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    images = {f"é{k}": [("bolt", (1.5, 2, 30, 39))] * (k % 3) for k in range(4)}
    write_voc(tmp_path / "voc", {"train": images, "val": {"empty": []}})
    monkeypatch.setattr("detr_mini.formats.coco_format.AT_ONCE", at_once)
    convert(Source.of({**AUTO, "root": tmp_path / "voc"}), tmp_path / "coco", "coco", images="none")
    for split, boxes in (("train", 3), ("val", 0)):
        text = (tmp_path / "coco" / "annotations" / f"{split}.json").read_text(encoding="utf-8")
        content = json.loads(text)
        assert text == json.dumps(content)
        assert len(content["annotations"]) == boxes


@pytest.mark.parametrize("form", WRITTEN)
def test_an_output_beside_the_current_folder_is_written(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree_of("voc" if form == "yolo" else "yolo", tmp_path / "set")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(source(root), Path("../out"), form)
    assert sum(path.suffix == ".png" for path in (tmp_path / "out").rglob("*")) == 3


def test_labels_of_yolo_are_where_readers_look_for_them(tmp_path: Path) -> None:
    names = ["cam1/images/a.png", "cam2/images/a.png", "images/b.png", "c.png"]
    images = [{"id": i, "file_name": name, "height": 40, "width": 60} for i, name in enumerate(names, 1)]
    for name in names:
        (tmp_path / "set" / "train" / name).parent.mkdir(parents=True, exist_ok=True)
    write_coco(
        tmp_path / "set", images=images, annotations=[{"bbox": [2, 3, 20, 12], "image_id": i} for i in range(1, 5)]
    )
    convert(source(tmp_path / "set"), tmp_path / "out", "yolo")
    written = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out" / "images").rglob("*.png")]
    assert len(written) == 4
    for name in written:
        before, _, after = f"/{name}".rpartition("/images/")  # as Ultralytics does
        assert (tmp_path / "out" / f".{before}/labels/{after}").with_suffix(".txt").read_text()


def test_boxes_that_yolo_cannot_hold_are_cut_or_left_out_and_counted(tmp_path: Path) -> None:
    boxes = [[-40, 10, 50, 20], [-5, -5, 70, 50], [-30, 5, 20, 9], [10, 10, 20, 20]]
    write_coco(tmp_path / "set", annotations=[{"bbox": box} for box in boxes])
    notes = " ".join(convert(source(tmp_path / "set"), tmp_path / "out", "yolo"))
    assert "2 boxes that stick out of their images are cut at the edge" in notes
    assert "1 boxes outside their images or without size are left out" in notes
    (found,) = things(tmp_path / "out").values()
    height, width = source(tmp_path / "set").trees()["train"].content["images"][0]["height"], 60
    kept = sorted(box for _, _, box in found)
    assert kept == sorted([(0.0, 10.0, 10.0, 20.0), (0.0, 0.0, float(width), float(height)), (10.0, 10.0, 20.0, 20.0)])


def test_a_file_that_is_listed_once_for_each_box_is_counted_once(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": "a.png", "height": 40, "width": 60} for i in (1, 2, 3)]
    boxes = [{"bbox": [2, 3, 20, 12], "image_id": 1}, {"bbox": [5, 5, 9, 9], "image_id": 2},
             {"bbox": [1, 1, 50, 30], "image_id": 3, "iscrowd": 1}]  # fmt: skip
    write_coco(tmp_path / "set", images=images, annotations=boxes)
    notes = convert(source(tmp_path / "set"), tmp_path / "out", "yolo")
    assert [note for note in notes if "crowd" in note] == [
        "train: 1 crowd regions are left out; YOLO has no place for them"
    ]


def test_boxes_stay_occluded_from_cvat_to_cvat_and_a_word_is_no_angle(tmp_path: Path) -> None:
    boxes = [{"bbox": [2, 3, 20, 12], "occluded": 1}, {"bbox": [5, 5, 9, 9], "attributes": {"rotation": "left"}}]
    write_coco(tmp_path / "set", annotations=boxes)
    convert(source(tmp_path / "set"), tmp_path / "cvat", "cvat")
    write_splits(tmp_path / "again", "cvat", source(tmp_path / "cvat").trees())  # as split, subset and fix do
    for folder in ("cvat", "again"):
        text = (tmp_path / folder / "train.xml").read_text()
        assert text.count('occluded="1"') == 1 and text.count('occluded="0"') == 1
    assert len(things(tmp_path / "again")["train"]) == 2


def test_a_stem_of_voc_may_end_like_the_name_of_an_image(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": name, "height": 40, "width": 60} for i, name in ((1, "f.png.png"), (2, "f.png"))]
    write_coco(tmp_path / "set", images=images, annotations=[{"bbox": [2, 3, 20, 12], "image_id": i} for i in (1, 2)])
    convert(source(tmp_path / "set"), tmp_path / "voc", "voc")
    assert [stem for stem, _, _ in things(tmp_path / "voc")["train"]] == ["f", "f.png"]
