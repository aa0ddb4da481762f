"""Section G of the faults: what the processes of one machine share of the data, and what each has of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import fork_server
from data_parts import write_plates
from detr_mini.data import dataset
from detr_mini.data.dataset import ImageCache
from detr_mini.data.module import DetectionData
from detr_mini.errors import DataError
from detr_mini.evaluation.metrics import coco as coco_metric
from detr_mini.evaluation.report.measure import measure
from detr_mini.formats import annotation_cache, coco
from detr_mini.images.windows import open_windows
from detr_mini.structures import Detections
from detr_mini.training import final_scores, task, validation
from detr_mini.training.run import train
from made_detections import CATEGORIES, made
from process_parts import environment, results
from training_parts import small_config

COCO = {name: {"images": name, "annotations": f"annotations/{name}.json"} for name in ("train", "val", "test")}
HOW: dict[str, Any] = {"size": 64, "mean": [0.5] * 3, "std": [0.25] * 3, "stride": 32, "seed": 0, "batch_size": 4}

# G-07


def test_g07_a_second_start_reads_neither_the_annotations_nor_the_headers_of_images_and_trains_on_the_same(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_cache, "SMALLEST", 0)
    root = tmp_path / "scenes"
    shutil.copytree(scenes_root, root)
    for path in [root, *root.rglob("*")]:
        os.utime(path, (time.time() - 3600,) * 2)

    def start(cache: str | None) -> tuple[dict[str, Any], list[Tensor]]:
        data = DetectionData(root=root, annotation_cache=cache, **COCO, **HOW)
        data.setup("fit")
        return data.report.to_dict(), [batch.images for batch in data.train_dataloader()]

    plain = start(None)
    first = start(str(tmp_path / "cache"))

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was read again")

    for name in ("read_columns", "image_size", "refuse_cut"):
        monkeypatch.setattr(coco, name, never)
    second = start(str(tmp_path / "cache"))
    for report, images in (first, second):
        assert report == plain[0]
        assert all(torch.equal(a, b) for a, b in zip(images, plain[1], strict=True))


def test_g07_an_image_that_was_written_over_since_it_was_checked_is_named(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_cache, "SMALLEST", 0)
    root = tmp_path / "scenes"
    shutil.copytree(scenes_root, root)
    hour = time.time() - 3600
    for _ in range(2):
        for path in [root, *root.rglob("*")]:
            os.utime(path, (hour, hour))
        data = DetectionData(root=root, annotation_cache=str(tmp_path / "cache"), **COCO, **HOW)
        data.setup("fit")
        path = data.train_set.records[0].path
        Image.new("RGB", (30, 20)).save(path)
    with pytest.raises(DataError, match=r"is 30 x 20 pixels when decoded.* 64 x 64, or did when the set was checked"):
        data.dataset("train").decoded(0)


# G-19


def test_g19_the_report_at_the_start_says_what_the_cache_keeps(scenes_root: Path, tmp_path: Path) -> None:
    words = ("trainer.max_steps=1", "data.cache_megabytes=1", "data.val=null", "data.test=null")
    train(small_config(scenes_root, *words, f"run_folder={tmp_path / 'run'}"))
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert "the cache keeps 16 of 16 decoded training images, 0 MiB (limit 1)" in report["notices"]


def test_g19_processes_of_a_machine_divide_the_memory_for_images_and_each_keeps_others(scenes_root: Path) -> None:
    image = 3 * 64 * 64 / 2**20
    kept = []
    for place in range(3):
        data = DetectionData(root=scenes_root, cache_megabytes=15.5 * image, **COCO, **HOW)
        data.setup("fit")
        data.divide(place, 3)
        assert data.report.notices[-1] == (
            "the cache keeps 5 of 16 decoded training images in each of 3 processes, 0 MiB (limit 0.181641 for all of "
            "them)"
        )
        own = data.dataset("train", training=True)
        for index in range(16):
            own.decoded(index)
        kept.append({index for index in range(16) if own.cache.get(index) is not None})
        assert own.cache.bytes <= 15.5 * 3 * 64 * 64 / 3
    assert [len(each) for each in kept] == [5, 5, 5]
    assert len(set.union(*kept)) == 15, "none is kept twice"


def test_g19_a_cache_with_room_for_all_keeps_all_wherever_it_begins() -> None:
    sizes = [(2, 3), (4, 5), (6, 7)]
    for first in range(3):
        cache = ImageCache(sizes, 1, first)
        images = [torch.full((3, *size), k, dtype=torch.uint8) for k, size in enumerate(sizes)]
        for k, image in enumerate(images):
            assert cache.get(k) is None
            cache.put(k, image)
        for k, image in enumerate(images):
            found = cache.get(k)
            assert found is not None and torch.equal(found, image)


def test_g19_tiles_of_a_file_that_is_partly_of_another_process_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plates(tmp_path)
    splits = {split: {"images": split, "annotations": f"{split}.json"} for split in ("train", "val")}
    data = DetectionData(root=tmp_path, tiles=100, cache_megabytes=0.3, **splits, **HOW)
    data.setup("fit")
    data.divide(1, 2)
    own, opened = data.dataset("train", training=True), list[Path]()
    assert 1 < own.cache.images < len(own)
    monkeypatch.setattr(dataset, "open_windows", lambda path: opened.append(path) or open_windows(path))
    held = [index for index in range(len(own)) if own.cache.holds(index)]
    for index in held:
        own.decoded(index)
    assert len(opened) == 1


# G-06


def trained(root: Path, folder: Path, *more: str) -> dict[str, Any]:
    words = ("data.test=null", "trainer.max_epochs=2", "trainer.precision=32-true", f"run_folder={folder}", *more)
    train(small_config(root, *words))
    return dict(json.loads((folder / "metrics.json").read_text()))


def test_g06_val_is_detected_once_and_its_numbers_are_those_of_detecting_it_again(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(final_scores, "measure", lambda *a, **k: calls.append(1) or measure(*a, **k))
    once = trained(scenes_root, tmp_path / "once")
    assert calls == []
    monkeypatch.setattr(task.DetectionTask, "best_validation", property(lambda _: None, lambda *_: None), raising=False)
    again = trained(scenes_root, tmp_path / "again")
    assert calls == [1]
    assert once["split"] == again["split"] == "val"
    timed = {"train_seconds", "images_per_second"}
    assert {k: v for k, v in once.items() if k not in timed} == pytest.approx(
        {k: v for k, v in again.items() if k not in timed}, abs=1e-6
    )
    records = [json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("once", "again")]
    assert len(records[0]) == len(records[1]) > 0


def test_g06_training_scores_with_the_fast_library_where_it_is_installed(
    scenes_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faster_coco_eval", reason="the extra 'fast' is not installed")
    asked: list[bool] = []
    library = coco_metric._library
    monkeypatch.setattr(coco_metric, "_library", lambda fast: asked.append(fast) or library(fast))
    truth, (records,) = made(60, 3, objects=5, crowd=0.1)
    data = DetectionData(root=scenes_root, **COCO, **HOW)
    data.setup("validate")
    assert coco_metric.has_fast_library()
    asked.clear()
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), data.val_set.categories)
    found = dict.fromkeys(data.val_set.image_ids, none)
    validation.scored(validation.Collected(found), data.val_set, data.val_set.categories, {})
    assert asked[-1] is True
    slow, fast = (coco_metric.score(truth, records, CATEGORIES, fast=fast).metrics for fast in (False, True))
    twelve = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    assert {name: fast[name] for name in twelve} == pytest.approx({name: slow[name] for name in twelve}, abs=1e-12)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert not coco_metric.has_fast_library()
    validation.scored(validation.Collected(found), data.val_set, data.val_set.categories, {})
    assert asked[-1] is False


PROCESS = """
import json, sys, torch
from pathlib import Path
from detr_mini.evaluation.metrics.coco import Scores
from detr_mini.structures import Categories, OperatingPoint
from detr_mini.training import validation

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
calls = []

def scored(collected, *_):
    calls.append(sorted(collected.answers))
    return validation.Validation(Scores({"AP": 0.5}, ()), collected.loss, OperatingPoint(), None, collected)

validation.scored = scored
own = validation.Collected(answers={10 * k: [] for k in range(rank, 5, world)}, loss=rank + 1.0, boxes=1)
found = validation.Validation.of_all(own, None, Categories((), ()), {}, world, rank)
seen = None if found.collected is None else sorted(found.collected.answers)
(folder / f"{rank}.json").write_text(json.dumps([calls, found.loss, found.scores.metrics["AP"], seen]))
"""


def test_g06_the_first_of_three_processes_scores_for_all(tmp_path: Path) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    processes = [fork_server.start([str(script), str(rank), "3", str(tmp_path)], environment()) for rank in range(3)]
    for status, output in results(processes):
        assert status == 0, output
    first, *others = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3))
    assert first == [[[0, 10, 20, 30, 40]], 6.0, 0.5, [0, 10, 20, 30, 40]]
    assert others == [[[], 6.0, 0.5, None]] * 2
