"""Section G of the faults: what the processes of one machine share of the data, and what each has of its own."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_parts import write_plates
from detr_mini.data import dataset
from detr_mini.data.dataset import ImageCache
from detr_mini.data.module import DetectionData
from detr_mini.formats import annotation_cache, coco
from detr_mini.images.windows import open_windows

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

    for name in ("read_columns", "image_size", "is_whole_file"):
        monkeypatch.setattr(coco, name, never)
    second = start(str(tmp_path / "cache"))
    for report, images in (first, second):
        assert report == plain[0]
        assert all(torch.equal(a, b) for a, b in zip(images, plain[1], strict=True))


# G-19


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
