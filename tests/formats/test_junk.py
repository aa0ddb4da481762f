"""Whatever stands in an annotation file: reading it gives a set or one sentence, checking it gives a table."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_parts import AUTO, voc_text, write_coco, write_voc, write_yolo
from detr_mini.checking.check import check
from detr_mini.checking.report import write_fixed_copy
from detr_mini.errors import DataError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.discover import Source, find_layout
from detr_mini.formats.load import read_split

JUNK: list[Any] = [
    None, True, False, [], {}, [1], {"a": 1}, "", "x", "1", 0, -1, 1.5, 10**30, -(10**400), float("nan"), float("inf"),
    [[1, 2, 3, 4]], [1, 2, 3, 4, 5], [None] * 4, [10**400] * 4, "../x.png", "/etc/hostname", "\x00", "1.png",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("junk")
    boxes = [{"bbox": [2, 3, 10 + k, 12], "image_id": 1 + k % 2, "category_id": 1 + k % 3, "area": 9} for k in range(6)]
    for split in ("train", "val"):
        write_coco(root, split, annotations=boxes)
    return root


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything inside."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [p for key, value in inside for p in ((*path, key), *places(value, (*path, key)))]


def complaint(work: Callable[[], object]) -> str:
    """The one sentence, where there is one; anything but a DataError goes on."""
    try:
        work()
    except DataError as error:
        return str(error)
    return ""


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_junk_in_a_coco_file_is_never_a_crash(root: Path, data: st.DataObject) -> None:
    file = root / "annotations" / "train.json"
    clean = file.read_text()
    content = copy.deepcopy(json.loads(clean))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(content) or [()]))
        if not path:
            break
        holder = content
        for key in path[:-1]:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
        else:
            del holder[path[-1]]
    try:
        file.write_text(json.dumps(content))
        lenient = dict.fromkeys(("on_missing", "on_wrong_size", "on_bad_image"), "skip")
        assert "\n" not in complaint(lambda: read_coco(file, root / "train", **lenient))
        splits = {split: {"images": split, "annotations": f"annotations/{split}.json"} for split in ("train", "val")}
        done = check(Source(root, "coco", splits), pixels=False)
        for fault in done.faults:
            assert "\n" not in fault.sentence
    finally:
        file.write_text(clean)


words = st.sampled_from(
    [
        "0",
        "2",
        "3",
        "-1",
        "0.5",
        ".5",
        "1e-3",
        "1e400",
        "nan",
        "inf",
        "bolt",
        "",
        ",",
        "0,5",
        "1_0",
        "٣",
        "\x00",
        "9" * 30,
    ]
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(words, max_size=9).map(" ".join), max_size=4))
def test_junk_in_a_label_file_is_never_a_crash(tmp_path_factory: pytest.TempPathFactory, rows: list[str]) -> None:
    root = tmp_path_factory.mktemp("yolo") / "set"
    write_yolo(root, {"train": {"a": ["0 0.5 0.5 0.5 0.5"], "b": rows}})
    assert "\n" not in complaint(lambda: read_split(root, find_layout(root).splits["train"], format="yolo"))
    done = check(Source.of({"root": root, **AUTO}), pixels=False)
    write_fixed_copy(done, root.parent / "mended")
    left = check(Source.of({"root": root.parent / "mended", **AUTO}), pixels=False).faults
    assert not [fault for fault in left if fault.fix]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<xmin>2<", "<xmin><"), ("<xmin>2</xmin>", ""), ("<name>bolt</name>", ""), ("<name>bolt<", "<name> <"),
        ("<width>60<", "<width>x<"), ("<width>60<", "<width>0<"), ("<width>60<", "<width>1e400<"),
        ("<size>", "<sizes>"), ("<annotation>", "<html>"), ("<annotation>", "\x00"),
        ("<filename>a.png<", "<filename><"),
        ("<bndbox>", "<box>"),
        ("<xmin>2<", "<xmin>1e400<"), ("<xmin>2<", "<xmin>2,5<"), ("<difficult>0<", "<difficult>Unspecified<"),
        ("<annotation>", '<?xml version="1.0" encoding="nonsense"?><annotation>'),
    ],
)  # fmt: skip
def test_junk_in_an_xml_file_is_never_a_crash(tmp_path: Path, old: str, new: str) -> None:
    write_voc(tmp_path, {"train": {"a": [("bolt", (2, 3, 30, 39))], "b": [("bolt", (2, 3, 30, 39))]}})
    text = voc_text("a.png", [("bolt", (2, 3, 30, 39))])
    assert old in text
    (tmp_path / "Annotations" / "a.xml").write_text(text.replace(old, new, 1))
    assert "\n" not in complaint(lambda: read_split(tmp_path, find_layout(tmp_path).splits["train"], format="voc"))
    for fault in check(Source.of({"root": tmp_path, **AUTO}), pixels=False).faults:
        assert "\n" not in fault.sentence
