"""What several tests share: tiny COCO sets, made scenes, and the way to real photographs where there are some."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from data_parts import write_coco
from detector_parts import CATEGORIES, IMAGE, checkpoint_of, untrained
from detr_mini.formats import annotation_cache
from detr_mini.inference.detector import Detector
from detr_mini.scenes.shapes import ensure_scenes

settings.register_profile("unhurried", deadline=None)  # a busy machine is no mistake of ours
settings.load_profile("unhurried")

MakeCoco = Callable[..., tuple[Path, Path]]


@pytest.fixture(autouse=True)
def no_annotation_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the user's cache folder; those of the cache set this again."""
    monkeypatch.setattr(annotation_cache, "SMALLEST", 2**60)


@pytest.fixture
def make_coco(tmp_path: Path) -> MakeCoco:
    """`write_coco` in this test's own folder: `path, folder = make_coco(annotations=[{"bbox": [1, 2, 3, 4]}])`."""

    def make(split: str = "train", **parts: Any) -> tuple[Path, Path]:
        return write_coco(tmp_path, split, **parts)

    return make


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made scenes of 64 px: 16 train, 8 val, 6 test. Read only."""
    root = tmp_path_factory.mktemp("scenes") / "shapes"
    ensure_scenes(root, train=16, val=8, test=6, seed=0, size=64, processes=1)
    return root


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("coco_mini")`: the folder of a real data set, or the test is skipped."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("DETR_MINI_DATA", beside))

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"no real data: set DETR_MINI_DATA to a folder that holds {name}")
        return root / name

    return find


@pytest.fixture(scope="session")
def detector() -> Detector:
    """An untrained detector."""
    return Detector(untrained(), CATEGORIES, IMAGE)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained detector."""
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.save(checkpoint_of(untrained()), path)
    return path
