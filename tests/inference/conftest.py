"""An untrained detector, and a checkpoint of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detector_parts import CATEGORIES, IMAGE, checkpoint_of, untrained
from detr_mini.inference.detector import Detector


@pytest.fixture(scope="session")
def detector() -> Detector:
    return Detector(untrained(), CATEGORIES, IMAGE)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.save(checkpoint_of(untrained()), path)
    return path
