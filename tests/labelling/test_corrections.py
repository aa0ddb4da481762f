"""What a person has changed of pre-labels is counted: kept, moved, renamed, added, removed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_parts import AUTO, edited, write_images
from detr_mini.errors import DataError
from detr_mini.formats.convert import WRITTEN
from detr_mini.formats.discover import Source
from detr_mini.formats.tree import Tree
from detr_mini.inference.sources import find_pictures
from detr_mini.labelling.corrections import compare, count_corrections, read_prelabels
from detr_mini.labelling.prelabels import Found, write_prelabels
from detr_mini.structures import Categories, Detections

BOX = [10.0, 10.0, 20.0, 20.0]
CATEGORIES = Categories((3, 7), ("bolt", "nut"))
sides = st.integers(1, 40)
boxes = st.lists(
    st.tuples(st.sampled_from(["bolt", "nut"]), st.tuples(sides, sides, sides, sides).map(list)), max_size=6
)


@given(boxes)
def test_what_nobody_touched_is_kept(before: list[Any]) -> None:
    assert all(kind == "kept" for kind, _ in compare(before, list(reversed(before))))


@given(boxes, boxes)
def test_every_box_before_and_after_is_counted_once(before: list[Any], after: list[Any]) -> None:
    kinds = [kind for kind, _ in compare(before, after)]
    assert len(kinds) - kinds.count("added") == len(before)
    assert len(kinds) - kinds.count("removed") == len(after)


@pytest.mark.parametrize(
    ("after", "kinds"),
    [
        ([("bolt", [10.3, 10, 20, 20])], ["kept"]),  # a tool has rounded
        ([("bolt", [14, 10, 20, 20])], ["moved"]),
        ([("nut", [10, 10, 20, 20])], ["renamed"]),
        ([("nut", [14, 10, 20, 20])], ["renamed"]),
        ([], ["removed"]),
        ([("bolt", [100, 100, 20, 20])], ["removed", "added"]),
        ([("bolt", BOX), ("bolt", [60, 10, 20, 20])], ["kept", "added"]),
        ([("nut", BOX), ("bolt", BOX)], ["kept", "added"]),
    ],
)
def test_one_box_and_what_became_of_it(after: list[Any], kinds: list[str]) -> None:
    assert [kind for kind, _ in compare([("bolt", BOX)], after)] == kinds


def prelabelled(tmp_path: Path, form: str) -> Path:
    """Three pictures in two folders: two boxes, one box, none."""
    write_images(tmp_path / "new", ["a.png", "x/b.png", "x/c.png"])
    sources = find_pictures(str(tmp_path / "new"))
    rows = [([[1.0, 2, 21, 22], [30.5, 5.25, 40, 25]], [0, 1]), ([[5.0, 5, 15, 15]], [1]), ([], [])]
    found = [
        Detections(
            torch.tensor(xyxy).reshape(-1, 4), torch.linspace(0.9, 0.6, len(labels)), torch.tensor(labels).long(),
            CATEGORIES, image_size=(40, 60),
        )
        for xyxy, labels in rows
    ]  # fmt: skip
    write_prelabels(Found(sources, found), tmp_path / "out", form, "copy", {"threshold": 0.5})
    return tmp_path / "out"


def read(root: Path, **how: Any) -> list[Any]:
    return list(Source.of({"root": root, **AUTO, **how}).trees().values())


@pytest.mark.parametrize("form", WRITTEN)
def test_prelabels_come_back_equal_from_every_form(tmp_path: Path, form: str) -> None:
    folder = prelabelled(tmp_path, form)
    how = {"images": "train", "annotations": "train.json", "predictions": True}
    more = {"format": form, "train": how, "val": None, "test": None} if form == "label_studio" else {}
    done = count_corrections(read_prelabels(folder), read(folder, **more))
    assert dict(done.counts) == {"kept": 3}
    assert len(done.pictures) == 3 and not done.missing and not done.extra
    assert done.touched == 0


@pytest.mark.parametrize("form", WRITTEN)
def test_pictures_of_one_name_in_two_folders_come_back_whatever_the_form_calls_them(tmp_path: Path, form: str) -> None:
    more = [] if form == "label_studio" else ["train/1.png", "test/1.png"]  # its own reader cannot tell those apart
    write_images(tmp_path / "new", ["left/1.png", "right/1.png", *more])
    sources = find_pictures(str(tmp_path / "new"))
    found = [
        Detections(torch.tensor([[1.0 + k, 2, 21, 22]]), torch.tensor([0.9]), torch.tensor([0]), CATEGORIES,
                   image_size=(40, 60))
        for k in range(len(sources))
    ]  # fmt: skip
    write_prelabels(Found(sources, found), tmp_path / "out", form, "copy", {"threshold": 0.5})
    how = {"images": "train", "annotations": "train.json", "predictions": True}
    said = {"format": form, "train": how, "val": None, "test": None} if form == "label_studio" else {}
    done = count_corrections(read_prelabels(tmp_path / "out"), read(tmp_path / "out", **said))
    assert dict(done.counts) == {"kept": len(sources)} and not done.missing and not done.extra


def test_a_box_that_was_turned_is_moved() -> None:
    turned = {"bbox": [10.0, 10, 40, 10], "attributes": {"rotation": 90}, "image_id": 1, "category_id": 3}
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [turned], "categories": CATEGORIES.records()}
    picture = {"file_name": "a.png", "boxes": [{"name": "bolt", "bbox": [10.0, 10, 40, 10]}]}
    done = count_corrections({"names": ["bolt"], "pictures": [picture]}, [Tree(content, Path(), Path())])
    assert "kept" not in done.counts


def test_corrections_in_cvat_are_counted(tmp_path: Path) -> None:
    folder = prelabelled(tmp_path, "cvat")
    text = (folder / "train.xml").read_text()
    renamed = 'label="{}" source="auto" occluded="0" xtl="5.0"'
    text = text.replace('xtl="1.0"', 'xtl="4.00"').replace(renamed.format("nut"), renamed.format("bolt"))
    new = '<box label="nut" source="manual" occluded="0" xtl="3.00" ytl="3.00" xbr="9.00" ybr="9.00" z_order="0"/>'
    text = re.sub(r'(<image [^>]*name="x/c.png"[^>]*?) ?/>', rf"\1>{new}</image>", text)
    (folder / "train.xml").write_text(text)
    done = count_corrections(read_prelabels(folder), read(folder))
    assert dict(done.counts) == {"moved": 1, "kept": 1, "renamed": 1, "added": 1}
    assert done.by_name["nut"] == {"kept": 1, "renamed": 1, "added": 1}
    assert "1 kept, 1 moved, 1 renamed, 1 added, 0 removed (1.00 touched a picture)" in next(done.lines())


def test_corrections_in_label_studio_are_counted_and_only_what_was_confirmed(tmp_path: Path) -> None:
    folder = prelabelled(tmp_path, "label_studio")
    export = tmp_path / "export"
    write_images(export, ["5f00aa11-a.png", "5f00aa11-b.png", "5f00aa11-c.png"])
    tasks = json.loads((folder / "train.json").read_text())
    for task in tasks:  # as the tool exports what was corrected
        name = task["data"]["image"].rpartition("/")[2]
        task["data"]["image"] = f"/data/upload/4/5f00aa11-{name}"
        if name != "c.png":
            task["annotations"] = [{"id": 5, "result": task["predictions"][0]["result"][:1], "was_cancelled": False}]
    (export / "project-4.json").write_text(json.dumps(tasks))
    done = count_corrections(read_prelabels(folder), read(export))
    assert dict(done.counts) == {"kept": 2, "removed": 1}
    assert done.missing == ["x/c.png"]
    assert any("did not come back: x/c.png" in line for line in done.lines())


def test_a_name_that_the_detector_lacks_is_said_with_the_nearest_one(tmp_path: Path) -> None:
    folder = prelabelled(tmp_path, "coco")
    edited(folder / "annotations" / "train.json", lambda c: c["categories"][1].update(name="nuts"))
    done = count_corrections(read_prelabels(folder), read(folder))
    assert done.new_names == ["nuts"]
    assert "'nuts' is a name that the pre-labels do not have; did you mean 'nut'?" in list(done.lines())


def test_the_export_of_another_task_and_a_strange_record_are_refused(tmp_path: Path) -> None:
    folder = prelabelled(tmp_path, "coco")
    record = read_prelabels(folder)
    other = tmp_path / "other"
    write_images(other / "images", ["z.png"])
    (other / "labels").mkdir()
    (other / "labels" / "z.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match="none of the 3 pictures"):
        count_corrections(record, read(other))
    for content in ("[]", "{}", '{"written_by": "detr-mini data label", "names": [], "pictures": [{}]}', "{"):
        (folder / "prelabels.json").write_text(content)
        with pytest.raises(DataError):
            read_prelabels(folder)
    with pytest.raises(DataError, match="there is no"):
        read_prelabels(other)


@pytest.mark.parametrize(
    ("before", "after", "missing", "extra"),
    [
        (["cam1/0001.jpg", "cam2/0001.jpg"], ["cam1/0001.jpg"], ["cam2/0001.jpg"], []),
        (["cam1/1.jpg", "cam2/1.jpg", "b.jpg"], ["1.jpg", "b.jpg"], ["cam1/1.jpg", "cam2/1.jpg"], ["1.jpg"]),
        (["a.jpg", "x/a.jpg"], ["a.jpg", "y/a.jpg"], ["x/a.jpg"], ["y/a.jpg"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"], [], []),
        (["a.jpg", "a.png", "b.jpg"], ["a.tif", "b.jpg"], ["a.jpg", "a.png"], ["a.tif"]),
        (["x/a.jpg", "b.jpg"], ["images/5f00aa11-a.png", "b.jpg"], [], []),
        (["a.jpg", "x/a.jpg"], ["x/a.jpg"], ["a.jpg"], []),
        (["a.jpg", "x/a.jpg"], ["train/x/a.jpg"], ["a.jpg"], []),
        (["a.jpg", "x/a.jpg"], ["train/a.jpg", "train/x/a.jpg"], [], []),
    ],
)
def test_a_picture_is_compared_with_itself_or_with_none(
    before: list[str], after: list[str], missing: list[str], extra: list[str]
) -> None:
    box = {"name": "bolt", "bbox": BOX}
    record = {"names": ["bolt"], "pictures": [{"file_name": name, "boxes": [box]} for name in before]}
    content = {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(after)],
        "annotations": [{"image_id": k, "category_id": 1, "bbox": BOX} for k in range(len(after))],
        "categories": [{"id": 1, "name": "bolt"}],
    }
    done = count_corrections(record, [Tree(content, Path(), Path())])
    assert (done.missing, done.extra) == (missing, extra)
    assert sorted(done.pictures) == sorted(set(before) - set(missing))


def test_pictures_stay_the_same_files(tmp_path: Path) -> None:
    folder = prelabelled(tmp_path, "yolo")
    with Image.open(next(folder.rglob("a.png"))) as image:
        assert image.size == (60, 40)
