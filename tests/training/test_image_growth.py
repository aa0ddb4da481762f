"""Smaller images early in a training: read, augmented and collated at that size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detr_mini.config.compose import compose
from detr_mini.data.augment import Augment
from detr_mini.data.dataset import DetectionDataset
from detr_mini.data.mosaic import Mosaic
from detr_mini.data.samplers import Key
from detr_mini.formats.coco import read_coco
from detr_mini.structures import Batch
from detr_mini.training.build import build
from detr_mini.training.options import TrainerOptions
from detr_mini.training.run import train
from tests.training_parts import small_config

INPUT = {"size": 64, "shorter_side": None, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
GROWING = ("trainer.coarse_scale=0.5", "trainer.coarse_until=0.5")


def sides_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The longest side of each batch that a training is given, in order."""
    from detr_mini.training.task import DetectionTask

    sides: list[int] = []
    inner = DetectionTask.training_step

    def noted(task: DetectionTask, batch: Batch, index: int) -> torch.Tensor:
        sides.append(max(batch.images.shape[-2:]))
        return inner(task, batch, index)

    monkeypatch.setattr(DetectionTask, "training_step", noted)
    return sides


def test_images_are_small_up_to_their_share_of_the_training(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = sides_of(monkeypatch)
    words = ("trainer.max_epochs=2", "data.test=null", f"run_folder={tmp_path / 'run'}")
    train(small_config(scenes_root, *GROWING, *words))
    assert sides == [32] * 4 + [64] * 4


def test_images_grow_by_the_step_after_a_training_that_ended_inside_an_epoch(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides, run = sides_of(monkeypatch), tmp_path / "run"
    train(small_config(scenes_root, *GROWING, "trainer.max_steps=6", "data.test=null", f"run_folder={run}"))
    assert sides == [32] * 3 + [64] * 3
    train(compose("train", [f"resume={run}", "trainer.max_steps=16"]))  # small up to step 8
    assert sides[6:] == [32] * 2 + [64] * 8


def test_accumulated_batches_of_one_step_have_one_size(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = sides_of(monkeypatch)
    words = ("trainer.max_steps=4", "trainer.accumulate=2", "data.test=null", f"run_folder={tmp_path / 'run'}")
    train(small_config(scenes_root, *GROWING, *words))
    assert sides == [32] * 4 + [64] * 4


def test_images_grow_by_the_step_where_accumulation_does_not_fill_the_epoch(scenes_root: Path) -> None:
    # 4 batches an epoch, so 2 steps with accumulate=3; the training has 8 steps, of which 4 have small images
    words = ("trainer.max_steps=8", "trainer.accumulate=3")
    parts = build(small_config(scenes_root, *GROWING, *words))
    batches = parts.data.train_dataloader().batch_sampler
    assert [parts.options.step_of(k, 16, 4) for k in range(9)] == [0, 0, 0, 1, 2, 2, 2, 3, 4]
    assert [batches.scale(k) for k in range(16)] == [0.5] * 8 + [1.0] * 8


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_step_of_whole_windows_is_the_number_of_batches_divided(accumulate: int) -> None:
    options = TrainerOptions(max_steps=1, accumulate=accumulate)
    assert [options.step_of(k, 19, 4) for k in range(40)] == [k // accumulate for k in range(40)]


def test_sides_are_multiples_of_the_stride_and_nothing_is_padded(scenes_root: Path) -> None:
    words = ("trainer.max_steps=100", "trainer.coarse_scale=0.3", "trainer.coarse_until=1", "trainer.coarse_grow=true")
    parts = build(small_config(scenes_root, *words))
    loader = parts.data.train_dataloader()
    assert loader.batch_sampler.scale(0) * 64 % parts.data.stride == 0
    scales = [loader.batch_sampler.scale(batches) for batches in range(100)]
    assert scales == sorted(scales)
    assert len(set(scales)) > 1
    batch = next(iter(loader))
    assert max(batch.images.shape[-2:]) == max(1, round(0.3 * 64 / parts.data.stride)) * parts.data.stride
    assert not batch.has_padding


def test_augmentation_works_on_the_pixels_that_the_model_will_see(scenes_root: Path) -> None:
    coco = read_coco(scenes_root / "annotations" / "train.json", scenes_root / "train")
    seen: list[tuple[int, ...]] = []

    def look(image: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(tuple(image.shape[1:]))
        return image, boxes

    how = {**INPUT, "size": 16}
    dataset = DetectionDataset(coco, **how, oversampling=2, augment=Augment([look], 0, [Mosaic(p=1)]))  # type: ignore[arg-type]
    for scale, side in ((1.0, 32), (0.5, 16)):
        image, target = dataset[Key(0, 0, False, scale)]
        assert max(seen[-1]) == side
        assert max(image.shape[1:]) == side // 2
        torch.testing.assert_close(target.boxes, coco.target(coco.image_ids[0]).boxes)
        drawn, _ = dataset[Key(0, 0, True, scale)]  # with three others, at their size
        assert max(drawn.shape[1:]) == side // 2


def test_an_image_that_is_small_already_is_enlarged_only_for_the_model(scenes_root: Path) -> None:
    coco = read_coco(scenes_root / "annotations" / "train.json", scenes_root / "train")
    dataset = DetectionDataset(coco, **{**INPUT, "size": 512}, oversampling=2)  # type: ignore[arg-type]
    image, _ = dataset.sample(0, 0.5)
    assert tuple(image.shape[1:]) == coco.records[0].size
    assert max(dataset[Key(0, 0, False, 0.5)][0].shape[1:]) == 256
