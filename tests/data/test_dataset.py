from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_parts import write_images
from detr_mini.data.augment import Augment, RandomHorizontalFlip, RandomInversion, RandomScaleCrop
from detr_mini.data.dataset import BatchLoader, DetectionDataset, ImageCache, collate_pairs
from detr_mini.data.mosaic import Mosaic
from detr_mini.data.samplers import EvaluationBatches, Key, TrainBatches
from detr_mini.errors import DataError
from detr_mini.formats import split
from detr_mini.formats.coco import read_coco
from detr_mini.formats.split import CocoSet
from detr_mini.structures import Batch

PADDED, AS_THEY_ARE = partial(collate_pairs, stride=32), partial(collate_pairs, stride=1)

INPUT = {"size": 64, "shorter_side": None, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.fixture
def coco(scenes_root: Path) -> CocoSet:
    return read_coco(scenes_root / "annotations" / "train.json", scenes_root / "train")


def batches_of(coco: CocoSet, workers: int, epochs: tuple[int, ...], cache: float = 1) -> list[Batch]:
    augment = Augment([RandomHorizontalFlip(), RandomInversion(), RandomScaleCrop(0.5, 2.0)], seed=4)
    dataset = DetectionDataset(coco, **INPUT, augment=augment, cache_megabytes=cache)  # type: ignore[arg-type]
    sampler = TrainBatches(len(dataset), 5, seed=4)
    loader = BatchLoader(dataset, sampler, collate_samples=PADDED, workers=workers, pin_memory=False)
    batches = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    assert [x.image_ids for x in a] == [x.image_ids for x in b]
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.images, y.images)
        assert torch.equal(x.padding_mask, y.padding_mask)
        assert torch.equal(x.packed.boxes, y.packed.boxes)
        assert torch.equal(x.packed.labels, y.packed.labels)
        assert x.packed.counts == y.packed.counts


def test_the_number_of_workers_changes_nothing(coco: CocoSet) -> None:
    assert_same(batches_of(coco, 0, (0, 1, 2)), batches_of(coco, 2, (0, 1, 2)))


def test_the_cache_changes_nothing(coco: CocoSet) -> None:
    assert_same(batches_of(coco, 0, (0, 1), cache=0), batches_of(coco, 0, (0, 1), cache=0.05))


def test_an_epoch_does_not_depend_on_those_before(coco: CocoSet) -> None:
    assert_same(batches_of(coco, 0, (0, 1))[3:], batches_of(coco, 0, (1,)))


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_torch_s_random_state_alone(coco: CocoSet, workers: int) -> None:
    before = torch.get_rng_state()
    batches_of(coco, workers, (0,))
    assert torch.equal(before, torch.get_rng_state())


def test_the_cache_stops_at_its_limit() -> None:
    sizes = [(100, 100)] * 10
    cache = ImageCache(sizes, 4 * 30_000 / 2**20)
    assert (cache.images, cache.bytes) == (4, 120_000)
    image = torch.randint(0, 256, (3, 100, 100), dtype=torch.uint8)
    for index in range(10):
        assert cache.get(index) is None
        cache.put(index, image)
    assert [cache.get(index) is not None for index in range(10)] == [True] * 4 + [False] * 6
    kept = cache.get(3)
    assert kept is not None
    assert torch.equal(kept, image)
    assert ImageCache(sizes, 0).images == 0


def test_a_cache_that_is_sent_elsewhere_is_empty() -> None:
    cache = pickle.loads(pickle.dumps(ImageCache([(2, 2)], 1)))
    assert cache.get(0) is None
    cache.put(0, torch.zeros(3, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.timeout(60)
def test_a_file_that_breaks_while_training_is_named_in_one_sentence(
    tmp_path: Path, coco: CocoSet, workers: int
) -> None:
    from dataclasses import replace

    for i, record in enumerate(coco.records):
        content = record.path.read_bytes()
        (tmp_path / record.file_name).write_bytes(content[:2000] if i == 2 else content)
    dataset = DetectionDataset(replace(coco, records=replace(coco.records, folder=tmp_path)), **INPUT)
    loader = BatchLoader(
        dataset,
        EvaluationBatches(range(16), 4),
        collate_samples=AS_THEY_ARE,
        workers=workers,
        pin_memory=False,
    )
    with pytest.raises(DataError, match=r"000002\.png cannot be decoded") as error:
        list(loader)
    assert "\n" not in str(error.value)


def test_boxes_that_a_crop_loses_are_counted_in_every_process(coco: CocoSet) -> None:
    counts = []
    for workers in (0, 2):
        dataset = DetectionDataset(coco, **INPUT, augment=Augment([RandomScaleCrop(3, 4)], 0))  # type: ignore[arg-type]
        for _ in BatchLoader(
            dataset,
            TrainBatches(16, 4, seed=0),
            collate_samples=AS_THEY_ARE,
            workers=workers,
            pin_memory=False,
        ):
            pass
        counts.append(dataset.boxes_cropped_away)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("cache", [0, 1])
def test_images_that_are_drawn_depend_on_seed_epoch_and_image_alone(coco: CocoSet, cache: int) -> None:
    def asked(order: list[int]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        dataset = DetectionDataset(coco, **INPUT, augment=Augment([], 3, [Mosaic(p=1)]), cache_megabytes=cache)  # type: ignore[arg-type]
        found = {}
        for index in order:
            torch.rand(index)
            image, target = dataset[Key(index, 2, strong=True)]
            found[index] = image, target.boxes
        return found

    one, other = asked([0, 1, 2, 3]), asked([3, 1, 0, 2, 1])
    for index, (image, boxes) in one.items():
        assert torch.equal(image, other[index][0]) and torch.equal(boxes, other[index][1])
    plain = DetectionDataset(coco, **INPUT)  # type: ignore[arg-type]
    assert not torch.equal(plain[Key(0, 2)][0], one[0][0])


def test_large_photographs_are_decoded_to_what_training_needs_so_that_the_cache_holds_them(tmp_path: Path) -> None:
    write_images(tmp_path, ["large.png", "small.png"], size=(300, 400))
    write_images(tmp_path, ["small.png"], size=(30, 40))
    boxes = [{"image_id": 1, "bbox": [100, 60, 200, 120]}, {"image_id": 2, "bbox": [10, 6, 20, 12]}]
    annotations = [{"id": i, "category_id": 1, "area": 1, "iscrowd": 0, **box} for i, box in enumerate(boxes, 1)]
    sizes = [("large.png", 400, 300), ("small.png", 40, 30)]
    images = [{"id": i, "file_name": n, "width": w, "height": h} for i, (n, w, h) in enumerate(sizes, 1)]
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}))
    coco = read_coco(file, tmp_path)
    whole, kept = (
        DetectionDataset(
            coco, size=32, shorter_side=None, mean=[0.5] * 3, std=[0.5] * 3, oversampling=o, cache_megabytes=1
        )
        for o in (None, 2)
    )
    assert whole.decoded(0).shape == (3, 300, 400)
    assert kept.decoded(0).shape == (3, 48, 64)
    assert kept.decoded(1).shape == (3, 30, 40)
    assert kept.cache.bytes < whole.cache.bytes / 10
    assert torch.equal(kept.decoded(0), kept.decoded(0))  # from the cache
    for index in (0, 1):
        (image, target), (other, same) = whole[index, 0], kept[index, 0]
        assert image.shape == other.shape
        assert torch.equal(target.boxes, same.boxes)
        assert target.original_size == same.original_size


def photograph(path: Path, width: int, height: int, kind: str = "JPEG") -> None:
    """A file without fine detail."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, kind)


def test_a_photograph_is_decoded_at_about_the_size_that_training_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph(tmp_path / "a.jpg", 700, 525)
    image = {"id": 1, "file_name": "a.jpg", "width": 700, "height": 525}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [100, 60, 200, 120], "area": 1, "iscrowd": 0}
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}))
    coco = read_coco(file, tmp_path)
    shapes: list[tuple[int, ...]] = []
    load = split.load_reduced

    def noted(*words: Any) -> Any:
        found = load(*words)
        shapes.append(tuple(found[0].shape[1:]))
        return found

    monkeypatch.setattr(split, "load_reduced", noted)
    how = {**INPUT, "size": 100}
    whole, kept = (DetectionDataset(coco, **how, oversampling=o) for o in (None, 2))  # type: ignore[arg-type]
    (expected, truth), (pixels, target) = whole[0, 0], kept[0, 0]
    assert shapes == [(525, 700), (263, 350)]
    assert kept.decoded(0).shape == (3, 150, 200)
    assert (pixels - expected).abs().mean() < 2 / 255 / 0.25
    assert torch.equal(target.boxes, truth.boxes)
    assert target.original_size == truth.original_size == (525, 700)
    for kind, width, height in (("JPEG", 350, 263), ("JPEG", 1400, 1050), ("PNG", 350, 263)):
        photograph(tmp_path / "a.jpg", width, height, kind)
        with pytest.raises(DataError, match=rf"is {width} x {height} pixels when decoded.* 700 x 525, or did"):
            kept.decoded(0)
