"""Files of CVAT and Label Studio, made from their documented forms: read, written, and back with the same boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_parts import AUTO, write_coco, write_images, write_voc
from detr_mini.errors import DataError
from detr_mini.formats.box_rules import upright
from detr_mini.formats.convert import WRITTEN, convert
from detr_mini.formats.cvat import _xywh
from detr_mini.formats.discover import FORMATS, Source

TOOLS = [name for name in WRITTEN if name not in ("coco", "voc", "yolo")]
"""Formats that hold pixels and no more than boxes; test_conversion.py has the others."""


def source(root: Path, **how: Any) -> Source:
    return Source.of({"root": root, **AUTO, **how})


def boxes(found: Source) -> dict[str, list[tuple[str, str, tuple[float, ...]]]]:
    """(stem, name, box) of every split, sorted."""
    all_of = {}
    for split, tree in found.trees().items():
        names = {c["id"]: c["name"] for c in tree.content["categories"]}
        stems = {i["id"]: Path(i["file_name"]).stem for i in tree.content["images"]}
        rows = [(stems[a["image_id"]], names[a["category_id"]], tuple(a["bbox"])) for a in tree.content["annotations"]]
        all_of[split] = [*sorted(rows), *sorted((stem, "", ()) for stem in stems.values())]
    return all_of


def region(label: str, x: float, y: float, w: float, h: float, **more: Any) -> dict[str, Any]:
    """A region as https://labelstud.io/tags/rectanglelabels shows it, of an image of 60 x 40 pixels."""
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [label]}
    return {"id": "Dx_aB91ISN", "from_name": "tag", "to_name": "img", "source": "$image", "type": "rectanglelabels",
            "original_width": 60, "original_height": 40, "image_rotation": 0,
            "value": value | more}  # fmt: skip


def task(image: str, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A task as https://labelstud.io/guide/task_format shows it."""
    annotation = {"id": 1001, "result": list(results), "was_cancelled": False, "ground_truth": False,
                  "created_at": "2021-03-09T22:16:08.728353Z", "lead_time": 4.288, "completed_by": 10}  # fmt: skip
    return {"id": 1, "created_at": "2021-03-09T21:52:49.513742Z", "project": 83, "data": {"image": image},
            "annotations": [annotation], "predictions": [], **more}  # fmt: skip


def label_studio(root: Path, *tasks: dict[str, Any], images: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    write_images(root / "images", images)
    (root / "project-1-at-2026-01-01.json").write_text(json.dumps(tasks))
    return root


@pytest.mark.parametrize("tool", TOOLS)
def test_boxes_come_back_equal_from_the_form_of_a_tool_split_by_split(tmp_path: Path, tool: str) -> None:
    things = [("nut", (1, 1, 60, 40)), ("bolt", (7, 8, 7, 21))]
    splits = {"train": {"a": things, "b": []}, "val": {"c": [("nut", (3, 4, 9, 9))]}}
    first = source(write_voc(tmp_path / "voc", splits))
    convert(first, tmp_path / tool, tool)
    there = source(tmp_path / tool)
    assert there.format == tool
    assert boxes(there) == boxes(first)
    convert(there, tmp_path / "coco", "coco")
    assert boxes(source(tmp_path / "coco")) == boxes(first)


@pytest.mark.parametrize("tool", TOOLS)
def test_boxes_with_three_decimals_come_back_equal(tmp_path: Path, tool: str) -> None:
    bbox = [10.123, 5.457, 20.101, 7.003]
    write_coco(tmp_path / "a", annotations=[{"bbox": bbox}], size=(37, 53))
    convert(source(tmp_path / "a"), tmp_path / tool, tool)
    assert source(tmp_path / tool).trees()["train"].content["annotations"][0]["bbox"] == bbox


@given(st.tuples(*[st.decimals(0, 4000, places=2) for _ in range(4)]))
def test_edges_of_two_decimals_give_the_size_that_was_drawn(values: tuple[Any, ...]) -> None:
    x, y, w, h = values
    assert _xywh([str(x), str(y), str(x + w), str(y + h)]) == [float(v) for v in (x, y, w, h)]


@pytest.mark.parametrize(
    "address",
    ["/data/upload/3/5f00aa11-a.png", "/data/local-files/?d=my%20set/images/a.png", "s3://bucket/images/a.png",
     "https://example.org/x/a.png?token=b", "C:\\me\\a.png", "images/a.png"],
)  # fmt: skip
def test_the_image_of_a_task_is_found_however_label_studio_addresses_it(tmp_path: Path, address: str) -> None:
    root = label_studio(tmp_path / "a", task(address, region("cat", 25, 25, 50, 50)))
    tree = source(root).trees()["train"]
    assert [image["file_name"].rpartition("/")[2] for image in tree.content["images"]] == ["a.png"]
    assert (tree.folder / tree.content["images"][0]["file_name"]).is_file()
    assert tree.content["annotations"][0]["bbox"] == [15, 10, 30, 20]


def test_the_short_export_has_the_same_boxes(tmp_path: Path) -> None:
    label = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"],
             "original_width": 60, "original_height": 40}  # fmt: skip
    short = {"image": "/data/upload/1/5f00aa11-a.png", "id": 1, "label": [label], "annotator": 1, "annotation_id": 1}
    tree = source(label_studio(tmp_path / "a", short)).trees()["train"]
    assert tree.content["annotations"][0]["bbox"] == [15, 10, 30, 20]


def rectangle(label: str, x: float, y: float, w: float, h: float) -> dict[str, Any]:
    """A region of the short export, of an image of 60 x 40 pixels."""
    box = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [label]}
    return {**box, "original_width": 60, "original_height": 40}


def record(image: str, number: int, annotation: int | None, **tags: Any) -> dict[str, Any]:
    """An annotation of a task in the short export, with a list of regions for each tag of the labelling interface."""
    return {"image": image, "id": number, **tags, "annotator": 1, "annotation_id": annotation}


TRIANGLE = {
    "points": [[0, 0], [50, 0], [50, 50]],
    "polygonlabels": ["cat"],
    "original_width": 60,
    "original_height": 40,
}


def test_regions_of_all_tags_in_the_short_export_are_read(tmp_path: Path) -> None:
    mask = {"format": "rle", "rle": [0, 1], "brushlabels": ["cat"], "original_width": 60, "original_height": 40}
    tags = {"outline": [TRIANGLE], "box": [rectangle("dog", 25, 25, 50, 50)], "mask": [mask], "quality": "blurred",
            "other": [rectangle("nut", 0, 0, 50, 50), rectangle("nut", 50, 50, 50, 50)]}  # fmt: skip
    tree = source(label_studio(tmp_path / "a", record("a.png", 1, 1, **tags))).trees()["train"]
    found = [a["bbox"] for a in tree.content["annotations"]]
    assert found == [[0, 0, 30, 20], [15, 10, 30, 20], [0, 0, 30, 20], [30, 20, 30, 20]]
    assert sum("brushlabels" in fault.text for fault in tree.faults) == 1


def test_a_short_export_of_outlines_alone_is_recognised(tmp_path: Path) -> None:
    found = source(label_studio(tmp_path / "a", record("a.png", 1, 1, outline=[TRIANGLE])))
    assert found.format == "label_studio"
    assert [a["bbox"] for a in found.trees()["train"].content["annotations"]] == [[0, 0, 30, 20]]


def test_the_newest_annotation_of_a_task_counts_in_the_short_export(tmp_path: Path) -> None:
    newest = record("a.png", 1, 7, box=[rectangle("dog", 25, 25, 50, 50)])
    oldest = record("a.png", 1, 3, box=[rectangle("cat", 0, 0, 50, 50)])
    emptied = [record("b.png", 2, 9), record("b.png", 2, 8, box=[rectangle("cat", 0, 0, 50, 50)])]
    tree = source(label_studio(tmp_path / "a", newest, oldest, *emptied)).trees()["train"]
    assert [a["bbox"] for a in tree.content["annotations"]] == [[15, 10, 30, 20]]
    assert len(tree.content["images"]) == 2


def test_a_task_that_nobody_has_annotated_is_left_out_of_the_short_export(tmp_path: Path) -> None:
    confirmed, empty = record("a.png", 1, 1, box=[rectangle("cat", 0, 0, 50, 50)]), record("b.png", 2, 2)
    root = label_studio(tmp_path / "a", confirmed, empty, record("c.png", 3, None), images=("a.png", "b.png", "c.png"))
    tree = source(root).trees()["train"]
    assert [image["file_name"] for image in tree.content["images"]] == ["a.png", "b.png"]
    assert any("1 tasks" in notice for notice in tree.notices)


def test_a_prediction_never_becomes_a_label(tmp_path: Path) -> None:
    guess = {"model_version": "m", "score": 0.5, "result": [region("cat", 0, 0, 100, 100)]}
    proposed = {"data": {"image": "b.png"}, "predictions": [guess]}
    mixed = label_studio(tmp_path / "a", task("a.png", predictions=[guess]), proposed)
    tree = source(mixed).trees()["train"]
    assert len(tree.content["images"]) == 1 and not tree.content["annotations"]
    assert "1 tasks" in tree.notices[0]
    only = label_studio(tmp_path / "b", {"data": {"image": "a.png"}, "predictions": [guess]})
    with pytest.raises(DataError, match="holds predictions or empty tasks only") as refused:
        source(only).trees()
    how = {"images": "images", "annotations": "project-1-at-2026-01-01.json", "predictions": True}
    assert f"annotations: {how['annotations']}, predictions: true" in str(refused.value)
    read = source(only, format="label_studio", train=how, val=None, test=None).trees()["train"]
    assert read.content["annotations"][0]["score"] == 0.5


def test_a_predicted_outline_stays_a_prediction(tmp_path: Path) -> None:
    outline = region("cat", 0, 0, 0, 0, score=0.25)
    outline |= {"value": {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["cat"]}}
    root = label_studio(tmp_path, {"data": {"image": "a.png"}, "predictions": [{"score": 0.5, "result": [outline]}]})
    how = {"images": "images", "annotations": "project-1-at-2026-01-01.json", "predictions": True}
    tree = source(root, format="label_studio", train=how, val=None, test=None).trees()["train"]
    assert tree.content["annotations"][0]["score"] == 0.5


def test_a_region_without_a_class_is_a_fault_and_no_category_without_a_name(tmp_path: Path) -> None:
    tree = source(label_studio(tmp_path, task("a.png", region(" ", 0, 0, 50, 50), region("cat", 0, 0, 50, 50))))
    found = tree.trees()["train"]
    assert [c["name"] for c in found.content["categories"]] == ["cat"]
    assert [str(fault.kind) for fault in found.faults] == ["row that is no box"]


def test_the_last_annotation_that_was_not_cancelled_counts(tmp_path: Path) -> None:
    several = task("a.png", region("cat", 0, 0, 50, 50))
    several["annotations"] += [{"result": [region("dog", 0, 0, 10, 10)]}, {"result": [], "was_cancelled": True}]
    tree = source(label_studio(tmp_path / "a", several)).trees()["train"]
    assert tree.content["annotations"][0]["bbox"] == [0, 0, 6, 4]


def test_turned_boxes_polygons_and_ellipses_give_upright_boxes_and_other_regions_are_said(tmp_path: Path) -> None:
    turned = region("cat", 50, 50, 10, 10, rotation=90)
    outline = region("cat", 0, 0, 0, 0)
    outline |= {"value": {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["cat"]}}
    oval = region("cat", 0, 0, 0, 0)
    oval |= {"value": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "ellipselabels": ["cat"]}}
    point = region("cat", 0, 0, 0, 0)
    point |= {"value": {"x": 50, "y": 50, "width": 1, "keypointlabels": ["cat"]}}
    choice = {"type": "choices", "value": {"choices": ["blurred"]}}
    tree = source(label_studio(tmp_path / "a", task("a.png", turned, outline, oval, point, choice))).trees()["train"]
    found = [[round(v, 3) for v in a["bbox"]] for a in tree.content["annotations"]]
    assert found == [[26, 20, 4, 6], [0, 0, 30, 20], [24, 12, 12, 16]]
    assert sum("keypointlabels" in fault.text for fault in tree.faults) == 1


def test_a_turned_ellipse_has_the_upright_box_around_it(tmp_path: Path) -> None:
    oval = region("cat", 0, 0, 0, 0)  # 24 x 8 pixels about (30, 20), turned by a right angle
    oval |= {"value": {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 90, "ellipselabels": ["cat"]}}
    tree = source(label_studio(tmp_path / "a", task("a.png", oval))).trees()["train"]
    assert tree.content["annotations"][0]["bbox"] == pytest.approx([26, 8, 8, 24])
    shape = '<ellipse label="cat" cx="100" cy="100" rx="40" ry="10" rotation="90"/>'
    write_images(tmp_path / "b" / "images", ["a.png"], (200, 200))
    (tmp_path / "b" / "annotations.xml").write_text(
        '<annotations><version>1.1</version><image id="0" name="a.png" width="200" height="200">'
        f"{shape}</image></annotations>"
    )
    tree = source(tmp_path / "b").trees()["train"]
    assert tree.content["annotations"][0]["bbox"] == pytest.approx([90, 60, 20, 80])


@pytest.mark.parametrize("degrees", [30.0, 90.0, 217.5])
def test_a_turned_box_stays_turned_in_label_studio_and_is_read_as_the_same_upright_box(
    tmp_path: Path, degrees: float
) -> None:
    box: dict[str, Any] = {"bbox": [20, 14, 16, 6], "attributes": {"rotation": degrees}}
    write_coco(tmp_path / "coco", annotations=[box])
    convert(source(tmp_path / "coco"), tmp_path / "tasks", "label_studio")
    tasks = json.loads((tmp_path / "tasks" / "train.json").read_text())
    (value,) = [region["value"] for one in tasks for region in one["annotations"][0]["result"]]
    assert value["rotation"] == degrees
    (read,) = source(tmp_path / "tasks").trees()["train"].content["annotations"]
    assert read["bbox"] == pytest.approx(upright(box))


@pytest.mark.parametrize(
    "content",
    ["[]", "[1]", '[{"data": {"image": 3}, "annotations": []}]', '[{"data": {"image": "a.png"}, "annotations": 3}]',
     '[{"data": {"image": "a.png"}, "annotations": [{"result": [{"value": {"rectanglelabels": ["x"], "x": "q"}}]}]}]',
     '[{"data": {"image": "../../a.png"}, "annotations": [{"result": []}]}]', '[{"annotations"'],
)  # fmt: skip
def test_a_broken_file_of_tasks_is_one_sentence_or_a_fault(tmp_path: Path, content: str) -> None:
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "tasks.json").write_text(content)
    how = {"images": "images", "annotations": "tasks.json"}
    try:
        tree = FORMATS["label_studio"].read(tmp_path, **how)
    except DataError:  # in one sentence, as all of them
        return
    assert not tree.content["annotations"]
    assert all(".." not in image["file_name"] for image in tree.content["images"])


def test_scores_and_sources_stand_in_what_a_tool_reads(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", annotations=[{"bbox": [1, 2, 3, 4], "score": 0.25}, {"bbox": [5, 6, 7, 8]}])
    convert(source(tmp_path / "a"), tmp_path / "cvat", "cvat")
    text = (tmp_path / "cvat" / "train.xml").read_text()
    assert 'source="auto"' in text and '<attribute name="score">0.25</attribute>' in text and 'source="manual"' in text
    convert(source(tmp_path / "a"), tmp_path / "ls", "label_studio")
    tasks = json.loads((tmp_path / "ls" / "train.json").read_text())
    assert tasks[0]["predictions"][0]["result"][0]["score"] == 0.25
    assert len(tasks[0]["annotations"][0]["result"]) == 1
    assert "predictions" not in tasks[1] and tasks[1]["annotations"] == [{"result": []}]
    assert '<Label value="nut" />' in (tmp_path / "ls" / "label_config.xml").read_text()
