"""A run that is killed, at any moment and again and again, ends in the same bits as one that never was."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fork_server
from detr_mini.pretrained.checkpoints import read_checkpoint
from training_parts import overrides, weights


def start(arguments: list[str], folder: Path) -> fork_server.Process:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return fork_server.start(["-m", "detr_mini", "train", *arguments], env, folder)


def start_cold(arguments: list[str], folder: Path) -> None:
    """As `start`, and to its end, in a process of its own from the beginning: its hashes have another seed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-m", "detr_mini", "train", *arguments], cwd=folder, env=env, check=True)


def finish(process: fork_server.Process) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def history(run: Path) -> list[dict[str, str]]:
    """The rows of history.csv without what the clock says."""
    with (run / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        a, b = read_checkpoint(one / name), read_checkpoint(other / name)
        assert a["global_step"] == b["global_step"]
        assert a["best"] == b["best"]
        assert weights(a).keys() == weights(b).keys()
        for key, value in weights(a).items():
            assert torch.equal(value, weights(b)[key]), f"{name}: {key} differs"
    assert history(one) == history(other)


def steps_done(run: Path) -> int:
    try:
        return max((int(row["step"]) for row in history(run) if row["step"]), default=0)
    except (OSError, ValueError, TypeError):
        return 0


def kill_when(process: fork_server.Process, run: Path, far_enough: Callable[[int], bool]) -> None:
    """SIGKILL, once so many steps are done; the run must not be over before."""
    deadline = time.monotonic() + 120
    while not far_enough(steps_done(run)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert process.poll() is None, f"the run was over before it was killed: {process.communicate()[0]}"
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_a_run_killed_at_five_random_moments_inside_epochs_ends_in_the_same_bits(
    scenes_root: Path, tmp_path: Path
) -> None:
    # 12 epochs of 4 steps: a row each step, validation every second epoch
    arguments = overrides(
        scenes_root, "debug=fast", "data.batch_size=4", "trainer.max_epochs=12", "trainer.log_every_steps=1",
        "trainer.validate_every_epochs=2", "optim.warmup_steps=10", "trainer.threads=1",
    )  # fmt: skip
    finish(start([*arguments, f"run_folder={tmp_path / 'whole'}"], tmp_path))
    killed = tmp_path / "killed"
    chance = random.Random(0)
    process = start([*arguments, f"run_folder={killed}"], tmp_path)
    for kill in range(5):
        # some steps further than at the last kill, and not at a checkpoint: a step's row is written inside the epoch
        kill_when(process, killed, lambda steps, least=6 + 7 * kill: steps >= least + chance.randint(0, 2))
        process = start([f"resume={killed}"], tmp_path)
    finish(process)
    assert_same_run(tmp_path / "whole", killed)


@pytest.mark.slow
def test_ctrl_c_writes_the_state_inside_an_epoch_and_resuming_ends_in_the_same_bits(
    scenes_root: Path, tmp_path: Path
) -> None:
    arguments = overrides(
        scenes_root, "data.batch_size=2", "trainer.accumulate=2", "trainer.max_epochs=6", "trainer.log_every_steps=1",
        "trainer.threads=1",
    )  # fmt: skip
    finish(start([*arguments, f"run_folder={tmp_path / 'whole'}"], tmp_path))
    stopped = tmp_path / "stopped"
    process = start([*arguments, f"run_folder={stopped}"], tmp_path)
    while steps_done(stopped) < 6:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    step = read_checkpoint(stopped / "last.ckpt")["global_step"]
    assert 6 <= step < 24
    start_cold([f"resume={stopped}"], tmp_path)
    assert_same_run(tmp_path / "whole", stopped)


@pytest.mark.slow
def test_a_finished_run_resumed_trains_no_further(scenes_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(start(overrides(scenes_root, "trainer.max_steps=3", f"run_folder={run}"), tmp_path))
    before = read_checkpoint(run / "last.ckpt")
    finish(start([f"resume={run}"], tmp_path))
    after = read_checkpoint(run / "last.ckpt")
    assert after["global_step"] == before["global_step"] == 3
    assert all(torch.equal(weights(before)[k], weights(after)[k]) for k in weights(before))


@pytest.mark.slow
def test_strong_augmentation_that_ends_and_evaluations_by_progress_resume_in_the_same_bits(
    scenes_root: Path, tmp_path: Path
) -> None:
    mosaic = "data.augment_strong=[{_target_: detr_mini.data.Mosaic, p: 1}]"
    arguments = overrides(
        scenes_root, "data.batch_size=2", "trainer.max_epochs=6", "trainer.log_every_steps=1", "trainer.threads=1",
        "trainer.validations=4", "data.strong_until=0.5", mosaic, "trainer.save_every_minutes=1e-9", "data.workers=2",
    )  # fmt: skip
    finish(start([*arguments, f"run_folder={tmp_path / 'whole'}"], tmp_path))
    killed = tmp_path / "killed"
    process = start([*arguments, f"run_folder={killed}"], tmp_path)
    for least in (11, 21, 27, 37):  # of 48 steps: inside epochs 1, 2 (the last that begins before the half), 3 and 4
        kill_when(process, killed, lambda steps, least=least: steps >= least)
        process = start([f"resume={killed}"], tmp_path)
    finish(process)
    assert_same_run(tmp_path / "whole", killed)
