"""C-01: runs that start in the same second do not share a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detr_mini.pretrained.checkpoints import read_checkpoint
from training_parts import overrides


@pytest.mark.slow
def test_C_01_two_runs_started_at_once_get_two_whole_folders(scenes_root: Path, tmp_path: Path) -> None:
    words = overrides(scenes_root, "trainer.max_steps=2", "name=twin")
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "detr_mini", "train", *words, f"seed={seed}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed in (0, 1)
    ]
    for run in runs:
        output, _ = run.communicate(timeout=200)
        assert run.returncode == 0, output
    folders = sorted((tmp_path / "outputs" / "twin").iterdir())
    assert len(folders) == 2
    assert {read_checkpoint(folder)["config"]["seed"] for folder in folders} == {0, 1}
    for folder in folders:
        seed = read_checkpoint(folder)["config"]["seed"]
        assert f"seed: {seed}\n" in (folder / "config.yaml").read_text()
        assert {"history.csv", "metrics.json", "best.ckpt", "last.ckpt"} <= {path.name for path in folder.iterdir()}
