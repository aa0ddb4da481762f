"""Four short trainings side by side, and four that Optuna chose: real processes, real detectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from detr_mini.verbs.compare import compare
from sweep_parts import sweep_json
from training_parts import overrides

pytest.importorskip("optuna", reason="comes with the extra 'sweep'")


def train_many(cwd: Path, *words: str) -> str:
    """Standard output of a sweep that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "detr_mini", "train", "-m", *words], cwd=cwd, capture_output=True, text=True,
        timeout=500, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(folder: Path, runs: int) -> None:
    written = sweep_json(folder)
    assert [run["state"] for run in written["runs"]] == ["done"] * runs
    for run in written["runs"]:
        kept = json.loads((folder / run["folder"] / "metrics.json").read_text())
        assert run["metrics"]["AP"] == kept["AP"]
        assert (folder / run["folder"] / "best.ckpt").is_file()
    for name in ("sweep.png", "sweep.txt"):
        assert (folder / name).stat().st_size > 0


@pytest.mark.slow
def test_four_runs_side_by_side_are_compared(scenes_root: Path, tmp_path: Path) -> None:
    words = overrides(scenes_root, "trainer.max_steps=4", "seed=0,1", "optim=muon,adamw", "data.test=null")
    said = train_many(tmp_path, "sweep=joblib", "sweep.jobs=2", "sweep.folder=four", *words)
    assert "optim=adamw" in said
    check(tmp_path / "four", 4)
    settings = {"runs": str(tmp_path / "four"), "output": str(tmp_path / "out"), "rounds": 50, "level": 0.05, "seed": 0}
    compare(OmegaConf.create(settings))
    recipes = json.loads((tmp_path / "out" / "compare.json").read_text())["recipes"]
    assert {row["recipe"] for row in recipes} == {"optim=muon", "optim=adamw"}
    assert [len(row["runs"]) for row in recipes] == [2, 2]


@pytest.mark.slow
def test_four_trials_of_optuna_are_trained_and_listed(scenes_root: Path, tmp_path: Path) -> None:
    words = overrides(scenes_root, "trainer.max_steps=4", "optim.optimizer.lr=tag(log,interval(0.005,0.05))")
    trials = ["sweep=optuna", "sweep.jobs=2", "sweep.trials=4", "sweep.random=2", "sweep.folder=four"]
    said = train_many(tmp_path, *trials, *words)
    assert "the best val/AP first" in said
    check(tmp_path / "four", 4)
