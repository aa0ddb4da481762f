"""A small model really learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detr_mini.config.compose import compose
from detr_mini.training.run import train
from training_parts import unchecked

RUN_FILES = {
    "config.yaml", "data_report.json", "metrics.json", "history.csv", "best.ckpt", "last.ckpt", "predictions.json",
    "gallery.png", "curves.png", "run.log",
}  # fmt: skip


@pytest.mark.slow
def test_overfitting_eight_scenes_reaches_ap_090_and_fills_the_run_folder(scenes_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = compose(
        "train",
        [f"data.root={scenes_root}", "data.make={train: 16, val: 8, test: 6, size: 64, seed: 0}", "data.size=64",
         "debug=overfit", "data.batch_size=8", "trainer.progress=false", "logger=csv", "trainer.max_steps=160",
         "trainer.validate_every_epochs=1000", "optim.average=0.97", f"run_folder={run}"],
    )  # fmt: skip
    with unchecked():
        assert train(config) == run
    assert {path.name for path in run.iterdir()} == RUN_FILES
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] == 8
    assert metrics["AP"] >= 0.9


@pytest.mark.slow
def test_photographs_run_as_the_experiment_is_written(shared_data, tmp_path: Path) -> None:
    root = shared_data("coco_mini")
    run = tmp_path / "run"
    config = compose(
        "train",
        ["experiment=coco", f"data.root={root}", "trainer.max_epochs=null", "trainer.max_steps=2", "data.batch_size=2",
         "data.limit_val=4", "data.size=192", "data.workers=0", "trainer.progress=false", f"run_folder={run}"],
    )  # fmt: skip
    train(config)
    assert {path.name for path in run.iterdir()} >= RUN_FILES
