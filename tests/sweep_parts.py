"""Trainings that take no time: they leave the metrics.json that the settings deserve."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

TEST_GAP = 0.1
"""What test falls short of val by."""


def settings(words: Sequence[str]) -> dict[str, str]:
    """key=value words as a dictionary, quotes taken off."""
    return {key: value.strip("'") for key, _, value in (word.partition("=") for word in words)}


def pretend(words: Sequence[str]) -> tuple[int, str]:
    """Train with `words`: AP grows towards a learning rate of 0.01 and a little with the seed."""
    said = settings(words)
    begun = said.get("resume", "auto")
    folder = Path(said["run_folder"] if begun == "auto" else begun)
    rate, seed = float(said.get("optim.optimizer.lr", 0.02)), int(said.get("seed", 0))
    reached = round(0.5 - 0.1 * abs(math.log10(rate / 0.01)) + 0.01 * seed, 6)
    folder.mkdir(parents=True)
    metrics = {"AP": reached - TEST_GAP, "AP50": reached + 0.2, "AP75": 0.3, "val/AP": reached, "split": "test",
               "seed": seed, "train_seconds": 60.0 * (1 + seed), "val/loss": 1 - reached}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return 0, ""


def sweep_json(folder: Path) -> dict:
    """What the sweep has written."""
    return json.loads((folder / "sweep.json").read_text())
