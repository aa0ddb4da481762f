"""What was read of a COCO file is kept as arrays: equal to a fresh read, mapped, and never out of date."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_parts import write_coco
from detr_mini.categories import Categories
from detr_mini.errors import DataError
from detr_mini.formats import annotation_cache, coco, load
from detr_mini.formats.load import read_split
from detr_mini.formats.split import CocoSet

MakeCoco = Callable[..., tuple[Path, Path]]
SPLIT = {"images": "train", "annotations": "annotations/train.json"}
BOXES: list[Mapping[str, Any]] = [
    {"bbox": [1.5, 2, 30, 4.25]},
    {"bbox": [50, 5, 40, 5], "category_id": 2},  # past the edge
    {"bbox": [3, 3, 0, 5]},  # no width
    {"bbox": [3, 3, 20, 20], "iscrowd": 1},
    {"bbox": [3, 3, 20, 20], "image_id": 2, "area": 17.5},
]


@pytest.fixture(autouse=True)
def cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_cache, "SMALLEST", 0)
    monkeypatch.setattr(annotation_cache, "_complained", set())


def read(root: Path, **more: Any) -> CocoSet:
    return read_split(root, SPLIT, annotation_cache=str(root / "cache"), **more)


def age(root: Path) -> None:
    """All files and folders below `root`, but the cache's, have been there for an hour."""
    for path in [root, *root.rglob("*")]:
        if "cache" not in path.parts:
            os.utime(path, (time.time() - 3600,) * 2)


def files(root: Path) -> list[Path]:
    return sorted((root / "cache").glob("*.safetensors"))


def assert_equal(one: CocoSet, other: CocoSet) -> None:
    assert asdict(one.report) == asdict(other.report)
    assert one.categories == other.categories and one.records.folder == other.records.folder
    assert list(one.records) == list(other.records)
    for name in ("first", "boxes_xywh", "labels", "is_crowd", "area"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each JSON file that is parsed, and each image whose header is read."""
    calls: list[str] = []
    parse, size = coco.read_columns, coco.image_size

    def parsed(path: Path, **how: Any) -> Any:
        calls.append(path.name)
        return parse(path, **how)

    def sized(path: Path) -> Any:
        calls.append(path.name)
        return size(path)

    monkeypatch.setattr(coco, "read_columns", parsed)
    monkeypatch.setattr(coco, "image_size", sized)
    return calls


def test_a_second_read_asks_neither_the_json_nor_the_images_and_gives_the_same(
    make_coco: MakeCoco, tmp_path: Path, count: list[str]
) -> None:
    make_coco(annotations=BOXES)
    age(tmp_path)
    plain = read_split(tmp_path, SPLIT)
    count.clear()
    first = read(tmp_path)
    assert sorted(count) == ["1.png", "2.png", "train.json"]
    second = read(tmp_path)
    assert len(count) == 3
    assert plain.report.clipped == 1 and plain.report.crowd == 1 and plain.report.dropped
    for each in (first, second):
        assert_equal(plain, each)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(data=st.data())
def test_any_set_comes_out_of_the_cache_as_it_was_read(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    root = tmp_path_factory.mktemp("set")
    ids = data.draw(st.lists(st.integers(1, 10**9), min_size=1, max_size=4, unique=True))
    names = data.draw(
        st.lists(st.text("abcäß日 ", min_size=1, max_size=9), min_size=len(ids), max_size=len(ids), unique=True)
    )
    number = st.floats(1.5, 39, allow_nan=False)  # boxes below 1 alone would be taken for shares
    boxes = data.draw(st.lists(st.tuples(number, number, number, number), min_size=1, max_size=6))
    boxes.append((30.0, 20.0, 5.0, 5.0))  # which no corners are, so that the others are not taken for corners
    images = [{"id": i, "file_name": f"x{name.strip()}.png", "height": 40, "width": 60}
              for i, name in zip(ids, names, strict=True)]  # fmt: skip
    annotations = [{"bbox": list(box), "image_id": data.draw(st.sampled_from(ids))} for box in boxes]
    write_coco(root, images=images, annotations=annotations, write=False)
    for image in images:
        Image.new("RGB", (60, 40)).save(root / "train" / str(image["file_name"]))
    age(root)
    plain = read_split(root, SPLIT)
    read(root)
    assert len(files(root)) == 1
    assert_equal(plain, read(root))


def test_the_arrays_are_pages_of_the_file(make_coco: MakeCoco, tmp_path: Path) -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("only Linux tells where memory is mapped from")
    make_coco(annotations=BOXES)
    age(tmp_path)
    for found in (read(tmp_path), read(tmp_path)):
        (path,) = files(tmp_path)
        spans = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()
                 if line.endswith(str(path))]  # fmt: skip
        for tensor in (found.boxes_xywh, found.labels, found.records.ids, found.records.names):
            assert any(int(begin, 16) <= tensor.data_ptr() < int(end, 16) for begin, end in spans)


def test_others_may_read_the_file(make_coco: MakeCoco, tmp_path: Path) -> None:
    make_coco(annotations=BOXES)
    age(tmp_path)
    before = os.umask(0o022)
    try:
        read(tmp_path)
    finally:
        os.umask(before)
    (path,) = files(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".lock", ".safetensors"], "nothing is left over"


@pytest.mark.parametrize("what", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_file_is_written_again(make_coco: MakeCoco, tmp_path: Path, count: list[str], what: str) -> None:
    make_coco(annotations=BOXES)
    age(tmp_path)
    first = read(tmp_path)
    (path,) = files(tmp_path)
    good = path.read_bytes()
    middle = len(good) - 40
    bad = {
        "cut": good[:-9],
        "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "foreign": b"not one of ours" * 20,
        "empty": b"",
    }[what]
    path.unlink()
    path.write_bytes(bad)
    count.clear()
    assert_equal(first, read(tmp_path))
    assert "train.json" in count
    assert path.read_bytes() == good


def test_a_json_that_has_changed_is_read_again(make_coco: MakeCoco, tmp_path: Path) -> None:
    path, _ = make_coco(annotations=BOXES)
    age(tmp_path)
    assert read(tmp_path).report.boxes == 3
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:1]
    path.write_text(json.dumps(content))
    assert read(tmp_path).report.boxes == 1
    age(tmp_path)
    read(tmp_path)
    assert len(files(tmp_path)) == 2, "another machine may map the earlier state"
    for file in files(tmp_path):
        os.utime(file, (1, 1))
    assert read(tmp_path).report.boxes == 1, "what is used counts as new"
    path.write_text(json.dumps(content, indent=1))
    age(tmp_path)
    read(tmp_path)
    assert len(files(tmp_path)) == 2, "what was not used for long is gone"


def test_what_has_changed_just_now_is_not_kept_since_it_may_change_again_within_the_same_tick(
    make_coco: MakeCoco, tmp_path: Path
) -> None:
    make_coco(annotations=BOXES)
    read(tmp_path)
    assert not files(tmp_path)


def test_a_setting_that_changes_what_is_read_has_a_file_of_its_own(make_coco: MakeCoco, tmp_path: Path) -> None:
    make_coco(annotations=BOXES)
    age(tmp_path)
    other = Categories((1, 2, 3), ("nut", "bolt", "washer"))
    for number, how in enumerate(
        ({}, {"limit": 1}, {"on_crowd": "object"}, {"categories": other}, {"on_missing": "skip"}), start=1
    ):
        plain = read_split(tmp_path, SPLIT, **how)  # type: ignore[arg-type]
        for _ in range(2):
            assert_equal(plain, read(tmp_path, **how))
        assert len(files(tmp_path)) == number


def test_an_image_that_is_missing_later_gives_the_usual_sentence(make_coco: MakeCoco, tmp_path: Path) -> None:
    make_coco(annotations=BOXES)
    age(tmp_path)
    found = read(tmp_path)
    (tmp_path / "train" / "2.png").unlink()
    with pytest.raises(DataError, match=r"there is no image file .*2\.png; check the path"):
        found.records[1].pixels()
    with pytest.raises(DataError, match=r"1 of 2 images that .*train\.json lists are not in .*: 2\.png; add them"):
        read(tmp_path)


def test_images_that_were_left_out_are_used_once_they_are_there_and_whole(
    make_coco: MakeCoco, tmp_path: Path, count: list[str]
) -> None:
    _, folder = make_coco(images=[{"id": i} for i in (1, 2, 3)], annotations=BOXES)
    how = {"on_missing": "skip", "on_bad_image": "skip"}
    missing, broken = folder / "2.png", folder / "3.png"
    content = missing.read_bytes(), broken.read_bytes()
    missing.unlink()
    broken.write_bytes(content[1][:30])
    age(tmp_path)
    plain = read_split(tmp_path, SPLIT, **how)  # type: ignore[arg-type]
    assert len(plain) == 1 and len(plain.report.missing) == 1
    for _ in range(2):
        assert_equal(plain, read(tmp_path, **how))
    assert count.count("train.json") == 2
    broken.write_bytes(content[1])
    os.utime(folder, (time.time() - 3600,) * 2)  # a file that is written over changes its folder in no way
    assert len(read(tmp_path, **how)) == 2
    missing.write_bytes(content[0])
    assert len(read(tmp_path, **how)) == 3


def test_a_small_file_and_null_keep_nothing(
    make_coco: MakeCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = make_coco(annotations=BOXES)
    age(tmp_path)
    read_split(tmp_path, SPLIT, annotation_cache=None)
    monkeypatch.setattr(annotation_cache, "SMALLEST", path.stat().st_size)
    read(tmp_path)
    assert not (tmp_path / "cache").exists()


def test_auto_is_the_users_cache_folder(make_coco: MakeCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_coco(annotations=BOXES)
    age(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    read_split(tmp_path, SPLIT, annotation_cache="auto")
    assert list((tmp_path / "xdg" / "detr-mini" / "annotations").glob("train-*.safetensors"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert annotation_cache.folder_of("auto") == tmp_path / "home" / ".cache" / "detr-mini" / "annotations"
    assert annotation_cache.folder_of("~/there") == tmp_path / "home" / "there"


@pytest.mark.parametrize("when", ["folder", "file"])
def test_a_folder_that_cannot_be_written_is_mentioned_once_and_the_set_is_read(
    make_coco: MakeCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: list[str], when: str
) -> None:
    make_coco(annotations=BOXES)
    age(tmp_path)
    if when == "folder":
        (tmp_path / "cache").write_text("this is a file")
    else:
        monkeypatch.setattr(annotation_cache, "save_file", _full)
    with pytest.warns(
        UserWarning, match=r"cannot be kept in .*cache \(.*\), and are read again.*data.annotation_cache"
    ):
        assert read(tmp_path).report.boxes == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path).report.boxes == 3
    assert count.count("train.json") == 2


def _full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_an_error_of_the_set_is_the_same_with_the_cache_and_keeps_nothing(make_coco: MakeCoco, tmp_path: Path) -> None:
    make_coco(annotations=[{"bbox": [1, 2, 3, 4], "category_id": 9}])
    age(tmp_path)
    with pytest.raises(DataError) as plain:
        read_split(tmp_path, SPLIT)
    for _ in range(2):
        with pytest.raises(DataError) as error:
            read(tmp_path)
        assert str(error.value) == str(plain.value)
    assert not files(tmp_path)


def _read_slowly(root: Path, counts: Any, barrier: Any) -> None:
    annotation_cache.SMALLEST = 0
    parse = load.read_coco

    def slow(*args: Any, **how: Any) -> CocoSet:
        counts.put(os.getpid())
        time.sleep(0.5)
        return parse(*args, **how)

    load.read_coco = slow  # type: ignore[assignment]
    barrier.wait()
    assert len(read(root)) == 2


def test_of_several_processes_one_reads_and_the_others_wait(make_coco: MakeCoco, tmp_path: Path) -> None:
    make_coco(annotations=BOXES)
    age(tmp_path)
    own = multiprocessing.get_context("fork")
    counts, barrier = own.Queue(), own.Barrier(3)
    processes = [own.Process(target=_read_slowly, args=(tmp_path, counts, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    counts.get(timeout=5)
    assert counts.empty()


def test_a_process_that_dies_while_it_reads_holds_nobody_up(make_coco: MakeCoco, tmp_path: Path) -> None:
    make_coco(annotations=BOXES)
    age(tmp_path)
    own = multiprocessing.get_context("fork")
    ready, path = own.Event(), tmp_path / "cache" / "train.lock"

    def hold() -> None:
        with annotation_cache._alone(path):
            ready.set()
            time.sleep(600)

    holder = own.Process(target=hold)
    holder.start()
    assert ready.wait(60)
    threading.Timer(0.3, holder.kill).start()
    started = time.monotonic()
    with annotation_cache._alone(path) as error:
        assert error is None and time.monotonic() - started > 0.2
    holder.join(60)
