"""The fast way into a COCO file gives what the slow one gives, in half of pycocotools' time, shared by all workers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_parts import write_images, write_large
from detr_mini.errors import DataError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.coco_fast import OUTLINES, read_columns
from detr_mini.formats.columns import Columns, columns_of, read_json
from detr_mini.formats.split import CocoSet
from training_parts import unchecked

MakeCoco = Callable[..., tuple[Path, Path]]
FIELDS = (
    "image_ids", "image_sizes", "boxes_xywh", "owners", "category_ids", "is_crowd", "area", "rotation",
)  # fmt: skip


@pytest.fixture(params=["msgspec", "json"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With msgspec, and as if it were not installed."""
    if request.param == "msgspec":
        pytest.importorskip("msgspec")
    else:
        monkeypatch.setitem(sys.modules, "msgspec", None)
    return str(request.param)


def same(one: Columns, two: Columns) -> None:
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field), err_msg=field)
    assert list(one.file_names) == list(two.file_names)
    assert list(one.categories) == list(two.categories)
    assert list(one.notices) == list(two.notices)
    assert [one.where(i) for i in range(len(one.owners))] == [two.where(i) for i in range(len(two.owners))]


RECORDS: list[tuple[str, list[dict[str, Any]]]] = [
    ("plain", [{"bbox": [1, 2.5, 3, 4]}, {"bbox": [0, 0, 60, 40], "area": 7, "iscrowd": 1}]),
    ("none at all", []),
    ("ids twice", [{"bbox": [1, 2, 3, 4], "id": 7}, {"bbox": [1, 2, 3, 4], "id": 7}]),
    ("no ids", [{"bbox": [1, 2, 3, 4], "id": None}, {"bbox": [1, 2, 3, 4], "id": "x"}]),
    ("areas that cannot be", [{"bbox": [1, 2, 3, 4], "area": v} for v in (0, -3, None, "big", 1e400)]),
    ("angles", [{"bbox": [1, 2, 3, 4], "attributes": {"rotation": 30}}, {"bbox": [1, 2, 3, 4], "attributes": {}}]),
    ("outlines", [{"bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 4.5], [5, 6]]}, {"bbox": [1, 2, 3, 4]}]),
    ("run lengths", [{"bbox": [1, 2, 3, 4], "segmentation": {"counts": [1, 2], "size": [3, 4]}}]),
    ("short run lengths", [{"bbox": [1, 2, 3, 4], "segmentation": {"counts": "a\\b[1]", "size": [3, 4]}}]),
    ("a text that looks like an outline", [{"bbox": [1, 2, 3, 4], "note": '"segmentation": [[1]], "bbox": [9]'}]),
    ("keys that nobody asks for", [{"bbox": [1, 2, 3, 4], "track": {"a": [1, {"b": None}]}, "score": 0.5}]),
]


@pytest.mark.parametrize("records", [r for _, r in RECORDS], ids=[name for name, _ in RECORDS])
def test_the_fast_way_gives_what_the_slow_one_gives(
    make_coco: MakeCoco, parser: str, records: list[dict[str, Any]]
) -> None:
    path, _ = make_coco(annotations=records, write=False)
    same(read_columns(path), columns_of(read_json(path), path))


def test_real_files_are_the_same_both_ways(shared_data: Callable[[str], Path], parser: str) -> None:
    for split in ("train", "val"):
        path = shared_data("coco_mini") / "annotations" / f"instances_{split}2017.json"
        same(read_columns(path), columns_of(read_json(path), path))


def test_outlines_are_cut_out_whole(shared_data: Callable[[str], Path]) -> None:
    text = (shared_data("coco_mini") / "annotations" / "instances_val2017.json").read_bytes()
    lean = json.loads(OUTLINES.sub(b"", text))
    assert not any("segmentation" in annotation for annotation in lean["annotations"])
    whole = json.loads(text)["annotations"]
    assert [{k: v for k, v in a.items() if k != "segmentation"} for a in whole] == lean["annotations"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_id": 77}, "annotation 2 of .* belongs to image id 77"),
        ({"category_id": "bolt"}, "annotation 2 of .* has category id 'bolt'"),
        ({"category_id": True}, "annotation 2 of .* has category id True"),
        ({"bbox": [1, 2, 3]}, r"annotation 2 of .* has the bbox \[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, True]}, "annotation 2 of .* has the bbox"),
        ({"bbox": [1, 2, 3, float("nan")]}, "annotation 2 of .* has the bbox"),
        ({"bbox": [1, 2, 3, "4"]}, "annotation 2 of .* has the bbox"),
    ],
)
def test_the_fast_way_leaves_what_is_wrong_to_the_one_that_has_words_for_it(
    make_coco: MakeCoco, parser: str, change: dict[str, Any], sentence: str
) -> None:
    path, folder = make_coco(annotations=[{"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4], **change}])
    with pytest.raises(DataError, match=sentence):
        read_coco(path, folder)


def seconds(work: Callable[[], object]) -> float:
    """Of this process: others on the machine do not count."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def compare_with_pycocotools(path: Path, rounds: int) -> float:
    """Median time of `read_columns` by that of `COCO(path)`, measured in turn."""
    from pycocotools.coco import COCO

    ours, theirs = [], []
    for _ in range(rounds):
        with contextlib.redirect_stdout(io.StringIO()):
            theirs.append(seconds(lambda: COCO(str(path))))
        ours.append(seconds(lambda: read_columns(path)))
    return statistics.median(ours) / statistics.median(theirs)


@pytest.mark.parametrize("outlines", [False, True])
def test_a_large_file_takes_at_most_half_the_time_of_pycocotools(tmp_path: Path, outlines: bool) -> None:
    pytest.importorskip("msgspec")
    path = write_large(tmp_path / "large.json", 11_800, 86_000, outlines=outlines)
    assert compare_with_pycocotools(path, 3) <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("outlines", [False, True])
def test_a_file_of_cocos_full_size_takes_at_most_half_the_time_of_pycocotools(tmp_path: Path, outlines: bool) -> None:
    pytest.importorskip("msgspec")
    path = write_large(tmp_path / "large.json", 118_000, 860_000, outlines=outlines)
    assert compare_with_pycocotools(path, 1) <= 0.5


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> CocoSet:
    """30,000 records of one file under 30,000 names, 300,000 boxes."""
    root = tmp_path_factory.mktemp("large")
    write_images(root, ["one.png"], (480, 640))
    (root / "images").mkdir()
    for i in range(1, 30_001):
        os.link(root / "one.png", root / "images" / f"{i:012d}.jpg")
    path = write_large(root / "large.json", 30_000, 300_000)
    return read_coco(path, root / "images")


@pytest.mark.slow
def test_all_boxes_of_a_large_file_are_there(large: CocoSet) -> None:
    assert len(large) == 30_000
    report = large.report
    assert report.boxes + sum(report.dropped.values()) == 300_000
    assert int(large.first[-1]) == len(large.labels) == report.boxes
    assert sum(len(large.target(i).boxes) for i in large.image_ids[:50]) == int(large.first[50])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the kernel does not say what is shared")
def test_a_worker_that_reads_every_target_copies_next_to_nothing(large: CocoSet) -> None:
    large.target(1)
    held = sum(t.nbytes for t in (large.boxes_xywh, large.labels, large.is_crowd, large.area, large.first))
    held += sum(t.nbytes for t in (large.records.ids, large.records.sizes, large.records.names, large.records.ends))
    assert held > 12e6

    def read(images: int) -> None:
        for i in range(30_000):
            large.target(large.records[i % images].image_id)

    with unchecked():
        alone = in_a_fork(lambda: read(1))  # the interpreter writes to some pages of its own
        copied = in_a_fork(lambda: read(30_000))
    # lists of records would be copied whole, and are several times as large
    assert copied - alone < 0.35 * held, f"{alone / 2**20:.1f}, {copied / 2**20:.1f} of {held / 2**20:.1f} MiB"


def in_a_fork(work: Callable[[], object]) -> int:
    """Bytes that a forked process has to itself after `work` beyond those it has before."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        before = private_bytes()
        work()
        os.write(write, str(private_bytes() - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return int(os.read(read, 100))


def private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
