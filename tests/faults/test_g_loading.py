"""Section G of the faults: loading and augmenting that keeps up with a GPU."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from detr_mini.config.compose import compose
from detr_mini.data.colour import CHANGES, RandomColourJitter, colour_matrix
from detr_mini.data.workers import choose_workers
from detr_mini.errors import ConfigError
from detr_mini.training.build import build
from detr_mini.training.callbacks import pace
from detr_mini.training.run import train
from training_parts import small_config

NONE = torch.zeros(0, 4)


@pytest.mark.parametrize("order", [*itertools.permutations(CHANGES)])
def test_g02_one_matrix_is_torchvisions_jitter_where_nothing_is_clipped(order: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    image = torch.randint(90, 150, (3, 20, 30), dtype=torch.uint8)
    changes = [*zip(order, (1.25, 0.8, 1.3), strict=True)]
    pixels = image.flatten(1).float()
    matrix, offset = colour_matrix(changes, pixels.mean(1))
    ours, theirs = (matrix @ pixels + offset[:, None]).view(image.shape), image / 255
    for name, factor in changes:
        theirs = getattr(F, f"adjust_{name}")(theirs, factor)
    assert theirs.min() > 0 and theirs.max() < 1
    torch.testing.assert_close(ours, theirs * 255, atol=0.01, rtol=0)


def test_g02_factors_come_from_the_ranges_and_p_is_the_share_of_images_that_change() -> None:
    torch.manual_seed(0)
    image = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    jitter = RandomColourJitter(p=0.5, brightness=0.3)
    found = [float(jitter(image, NONE)[0].float().mean()) for _ in range(400)]
    changed = [value for value in found if value != 100]
    assert 0.4 < len(changed) / 400 < 0.6
    assert 70 <= min(changed) < 74 and 126 < max(changed) <= 130
    grey = RandomColourJitter(p=1, saturation=1.0)(torch.full((3, 2, 2), 100, dtype=torch.uint8), NONE)[0]
    assert grey.tolist() == image.tolist(), "grey has no saturation"
    with pytest.raises(ConfigError, match="contrast from 0 to 1, not 2"):
        RandomColourJitter(contrast=2)


@pytest.mark.parametrize(
    ("cores", "processes", "free", "workers"),
    [(2, 1, None, 2), (64, 8, None, 8), (192, 8, None, 8), (2, 4, None, 1), (16, 1, 50_000, 2), (16, 1, 9_000, 0)],
)
def test_g02_workers_are_chosen_by_the_cores_of_each_process_and_the_shared_memory(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, free: int | None, workers: int
) -> None:
    monkeypatch.setattr("detr_mini.environment.usable_cores", lambda: cores)
    monkeypatch.setattr("detr_mini.data.workers._free_memory", lambda: free)
    assert choose_workers(processes, batch_bytes=10_000) == workers


def test_g02_a_training_has_as_many_workers_as_its_process_has_cores(
    scenes_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compose("train", ["experiment=coco"]).data.workers == "auto"
    assert compose("train", ["experiment=finetune", "data.root=x"]).data.workers == "auto"
    monkeypatch.setattr("detr_mini.environment.usable_cores", lambda: 6)
    data = build(small_config(scenes_root, "data.workers=auto", "trainer.max_steps=1")).data
    data.setup("fit")
    data.divide(1, 2)
    assert (data.train_dataloader().num_workers, data.evaluation_loader("val").num_workers) == (3, 3)


def test_g02_cocos_recipe_changes_colours_before_images_may_grow_and_leaves_hue_alone() -> None:
    augment = compose("train", ["experiment=coco"]).data.augment
    names = [str(transform._target_).rpartition(".")[2] for transform in augment]
    assert names == ["RandomHorizontalFlip", "RandomColourJitter", "RandomScaleCrop"]
    assert "hue" not in str(augment)


def test_g02_the_loaders_rate_stands_beside_the_steps_in_the_log(scenes_root: Path, tmp_path: Path) -> None:
    assert pace(100, 10.0, 8.0) == (
        "images a second in the first 100: a step alone does 50.0, the loader 12.5: more data.workers or "
        "data.cache_megabytes would help"
    )
    assert pace(100, 10.0, 0.1) == "images a second in the first 100: a step alone does 10.1; the loader is faster"
    words = ("trainer.max_steps=4", "trainer.log_every_steps=4", "data.val=null", "data.test=null")
    train(small_config(scenes_root, *words, f"run_folder={tmp_path / 'run'}"))
    text = (tmp_path / "run" / "run.log").read_text()
    assert text.count("images a second in the first 16: a step alone does") == 1
