"""The experiments on real data: what they train on, and that no photograph is on both sides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from detr_mini.config.compose import compose
from detr_mini.data.module import DetectionData
from detr_mini.models.build import build_part
from detr_mini.training.options import TrainerOptions


def data_of(experiment: str, root: Path) -> tuple[Any, DetectionData]:
    """Its config, and its data, read."""
    config = compose("train", [f"experiment={experiment}", f"data.root={root}"])
    settings = cast(dict[str, Any], OmegaConf.to_container(config.data))
    known = {"mean": [0.0] * 3, "std": [1.0] * 3, "stride": 32, "seed": 0}
    data = build_part("data", settings | known)
    data.setup("fit")
    if data.splits["test"]:
        data.setup("test")
    return config, data


@pytest.mark.parametrize(
    ("experiment", "train", "val"), [("bccd", 205, 87), ("bccd_100", 100, 87), ("bccd_trainval", 292, None)]
)
def test_blood_cells_keep_the_official_split(
    experiment: str, train: int, val: int | None, shared_data: Callable[[str], Path]
) -> None:
    root = shared_data("bccd_voc")
    config, data = data_of(experiment, root)
    sets = {name: {record.file_name for record in found.records} for name, found in data.sets.items()}
    assert len(sets["train"]) == train
    assert len(sets["test"]) == 72
    assert not sets["train"] & sets["test"]
    if val is None:
        assert "val" not in sets
        assert config.trainer.max_steps and config.trainer.max_minutes is None
    else:
        assert len(sets["val"]) == val
        assert not sets["train"] & sets["val"]
    listed = (root / "ImageSets/Main/train.txt").read_text().split()
    if experiment == "bccd_100":
        assert sets["train"] == {f"{stem}.jpg" for stem in listed[:100]}
    assert max(int(found.first.diff().max()) for found in data.sets.values()) * 1.5 < config.model.queries


def test_detr_of_2020_trains_without_warm_up_averaged_weights_and_half_precision() -> None:
    config = compose("train", ["experiment=detr_r50_coco", "trainer=ddp", "trainer.devices=8"])
    assert (config.optim.warmup_steps, config.optim.average) == (0, 0)
    options = TrainerOptions.of(config.trainer)
    assert (options.devices, options.max_epochs, options.precision, options.tf32) == (8, 500, "32-true", False)


def test_coco128_is_read_in_yolos_form(shared_data: Callable[[str], Path]) -> None:
    _, data = data_of("coco128", shared_data("coco128_yolo"))
    assert (len(data.train_set), len(data.val_set), len(data.categories)) == (128, 128, 80)
