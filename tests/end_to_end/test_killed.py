"""A training that is killed, at any moment and at every write, ends in the same bits as one that never was."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Trainings
from omegaconf import OmegaConf
from test_resume import history

from detr_mini.pretrained.checkpoints import read_checkpoint
from training_parts import overrides, weights

SHORT = ("data.test=null", "data.batch_size=8", "trainer.max_steps=3", "trainer.log_every_steps=1",
         "trainer.threads=1")  # fmt: skip
MOSAIC = "data.augment_strong=[{_target_: detr_mini.data.Mosaic, p: 1}]"
LONGER = ("data.test=null", "data.batch_size=2", "trainer.accumulate=2", "trainer.max_epochs=3", "trainer.threads=1",
          "trainer.log_every_steps=1", "trainer.save_every_minutes=1e-9", MOSAIC, "data.strong_until=0.5")  # fmt: skip
TIMES = ("train_seconds", "images_per_second")


def assert_same_run(whole: Path, killed: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        a, b = read_checkpoint(whole / name), read_checkpoint(killed / name)
        assert (a["global_step"], a["best"]) == (b["global_step"], b["best"]), name
        assert weights(a).keys() == weights(b).keys()
        assert all(torch.equal(value, weights(b)[key]) for key, value in weights(a).items()), name
        assert _same(a["optimizer_states"], b["optimizer_states"]), name
    assert history(whole) == history(killed)
    for name in ("metrics.json", "predictions.json"):
        one, other = (json.loads((run / name).read_bytes()) for run in (whole, killed))
        for time in TIMES if name == "metrics.json" else ():
            del one[time], other[time]
        assert one == other, name
    settings = [OmegaConf.load(run / "config.yaml") for run in (whole, killed)]
    own = {"run_folder": None, "resume": None}
    assert {**settings[0], **own} == {**settings[1], **own}
    assert not [path.name for path in killed.iterdir() if path.name.startswith(".")], "something was left behind"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


CHANGES = ("os.rename", "os.remove", "open history", "open .best")
"""Writes that change the folder: a file gets its name, a row is added, a file goes, the second save begins."""


def kill_at_writes(root: Path, folder: Path, wanted: tuple[str, ...], but: tuple[str, ...] = ()) -> int:
    """Kill a short training at each of its writes of the `wanted` kinds, `but` for some, go on, and compare.

    How many there were.
    """
    words = overrides(root, *SHORT)
    with Trainings(folder) as trainings:
        events = trainings.finish(words, folder / "whole", plain=True)["events"]
        numbers = [n for n, event in enumerate(events, 1) if event.startswith(wanted) and not event.startswith(but)]
        for number in numbers:
            run = folder / "killed"
            reply = trainings.ask([*words, f"run_folder={run}"], run, event=number, plain=True)
            assert reply["status"] == -9, f"{events[number - 1]}: {reply}"
            trainings.finish(words, run, plain=True)
            assert_same_run(folder / "whole", run)
            shutil.rmtree(run)
        assert trainings.kills == len(numbers)
    return len(numbers)


@pytest.mark.slow
def test_l01_a_run_killed_at_every_change_of_its_folder_ends_in_the_same_bits(
    scenes_root: Path, tmp_path: Path
) -> None:
    # with both saves and what comes before and after them
    assert kill_at_writes(scenes_root, tmp_path, CHANGES) >= 15


@pytest.mark.slow
def test_l01_a_run_killed_at_every_write_ends_in_the_same_bits(scenes_root: Path, tmp_path: Path) -> None:
    # all others; half a file is left behind at those that are flushed
    assert kill_at_writes(scenes_root, tmp_path, ("os.mkdir", "open", "flush"), CHANGES) >= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "victims", "trials"),
    [
        (LONGER, ("first",), 4),
        ((*LONGER, "data.workers=1"), ("first",), 2),
        ((*LONGER[:3], *LONGER[4:7], "trainer.max_steps=6", "sentences=categories"),
         ("first",), 3),
        ((*LONGER, "trainer=ddp", "trainer.devices=2", "data.batch_size=1"), ("first", "second", "all"), 2),
    ],
    ids=["accumulation and mosaic", "workers", "captions", "two processes"],
)  # fmt: skip
def test_l01_a_run_killed_at_random_moments_ends_in_the_same_bits(
    scenes_root: Path, tmp_path: Path, more: tuple[str, ...], victims: tuple[str, ...], trials: int
) -> None:
    words = overrides(scenes_root, *more)
    trials = int(os.environ.get("DETR_MINI_KILL_TRIALS", trials))
    with Trainings(tmp_path) as trainings:
        seconds = trainings.finish(words, tmp_path / "whole", plain=True)["seconds"]
        for trial in range(trials):
            run = tmp_path / f"killed-{trial}"
            trainings.killed_at_random(words, run, random.Random(trial), 0.8 * seconds, 3, victims)
            assert_same_run(tmp_path / "whole", run)
            shutil.rmtree(run)
        assert trainings.kills >= trials
        print(f"{trainings.kills} kills, the same bits in {trials} of {trials}")
