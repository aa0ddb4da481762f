"""Checkpoints that are whole or not there, whatever ends the run."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from detr_mini.errors import NonFiniteError, UserError
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.training import callbacks
from detr_mini.training.run import train
from detr_mini.training.task import DetectionTask
from training_parts import small_config, weights

CONTRACT = {
    "state_dict", "averaged", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step", "random_state",
    "best", "categories", "tokeniser", "image", "recipe", "config",
}  # fmt: skip


def test_best_and_last_hold_the_same_keys_and_all_that_resuming_needs(scenes_root: Path, tmp_path: Path) -> None:
    train(small_config(scenes_root, "trainer.max_epochs=2", f"run_folder={tmp_path / 'run'}"))
    best, last = read_checkpoint(tmp_path / "run" / "best.ckpt"), read_checkpoint(tmp_path / "run" / "last.ckpt")
    assert best.keys() == last.keys()
    assert last.keys() >= CONTRACT
    assert last["averaged"]["updates"] == last["global_step"] == 8
    assert last["categories"]["names"][:2] == ["circle", "square"]
    assert best["best"]["score"] == last["best"]["score"]


def saved_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps after which a training saves, as it goes on."""
    steps: list[int] = []
    save = callbacks.Checkpoints.save

    def watched(self: callbacks.Checkpoints, trainer: pl.Trainer) -> None:
        steps.append(trainer.global_step)
        save(self, trainer)

    monkeypatch.setattr(callbacks.Checkpoints, "save", watched)
    return steps


def test_a_training_saves_where_it_was_measured(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = saved_at(monkeypatch)
    words = ("trainer.max_epochs=6", "trainer.validations=2", "data.test=null", f"run_folder={tmp_path / 'run'}")
    train(small_config(scenes_root, *words))  # epochs of 4 steps
    assert steps == [12, 24]


@pytest.mark.parametrize(("minutes", "saves"), [(2.5, [3, 6, 7]), (100, [7])])
@pytest.mark.parametrize("batch_size", [4, 16])
def test_a_training_without_val_saves_as_often_as_asked_for_and_at_its_end(
    scenes_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    minutes: float,
    saves: list[int],
) -> None:
    step, done = DetectionTask.training_step, 0

    def counted(self: DetectionTask, batch: Any, batch_idx: int) -> Any:
        nonlocal done
        done += 1
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectionTask, "training_step", counted)
    a_minute_a_step = SimpleNamespace(monotonic=lambda: 60.0 * done, perf_counter=time.perf_counter)
    monkeypatch.setattr(callbacks, "time", a_minute_a_step)
    steps = saved_at(monkeypatch)
    words = ("data.val=null", "data.test=null", "trainer.max_steps=7", f"data.batch_size={batch_size}")
    words += (f"trainer.save_every_minutes={minutes}", f"run_folder={tmp_path / 'run'}")
    train(small_config(scenes_root, *words))  # epochs of 4 steps, or of one
    assert steps == saves


def test_a_full_disk_is_a_sentence_and_the_last_checkpoint_stays_whole(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = pl.Trainer.save_checkpoint
    calls: list[Path] = []

    def until_full(self: pl.Trainer, path: Path, *args: Any, **kwargs: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", until_full)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"cannot write .*last\.ckpt \(No space left on device\).*resume=.*run"):
        train(small_config(scenes_root, "trainer.max_epochs=3", f"run_folder={run}"))
    assert read_checkpoint(run / "last.ckpt")["global_step"] == 4
    assert not list(run.glob(".*")), "half a file was left behind"


def test_numbers_that_break_end_the_run_and_the_last_good_checkpoint_stays(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = DetectionTask.training_step

    def breaking(self: DetectionTask, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 6:
            with torch.no_grad():
                self.model.content.weight.fill_(float("inf"))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectionTask, "training_step", breaking)
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"step 6, images \[\d+(, \d+)*\].*'content\.weight'"):
        train(small_config(scenes_root, "trainer.max_epochs=3", f"run_folder={run}"))
    last = read_checkpoint(run / "last.ckpt")
    assert last["global_step"] == 4
    assert all(value.isfinite().all() for value in weights(last).values())
    assert "NonFiniteError" in (run / "run.log").read_text()


def test_data_without_val_keep_the_last_checkpoint_as_the_best(scenes_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(small_config(scenes_root, "trainer.max_epochs=2", "data.val=null", f"run_folder={run}"))
    best, last = (read_checkpoint(run / f"{name}.ckpt") for name in ("best", "last"))
    assert best["global_step"] == last["global_step"] == 8
    assert all(torch.equal(value, weights(last)[name]) for name, value in weights(best).items())
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["weights"], metrics["val/AP"], metrics["split"]) == ("last", None, "test")


def test_workers_change_nothing(scenes_root: Path, tmp_path: Path) -> None:
    found = []
    for workers in (0, 2):
        run = tmp_path / str(workers)
        config = small_config(scenes_root, "trainer.max_steps=5", f"data.workers={workers}", f"run_folder={run}")
        train(config)
        found.append(weights(read_checkpoint(run / "last.ckpt")))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
