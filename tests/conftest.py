"""What several tests share: tiny COCO sets, made scenes, and the way to real photographs where there are some."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hypothesis import settings
from omegaconf import OmegaConf

from data_parts import write_coco
from detector_parts import CATEGORIES, IMAGE, checkpoint_of, untrained
from detr_mini.config.files import config_folder
from detr_mini.evaluation.comparison.intervals import intervals
from detr_mini.evaluation.report import measure
from detr_mini.formats import annotation_cache
from detr_mini.inference.detector import Detector
from detr_mini.scenes.shapes import ensure_scenes

settings.register_profile("unhurried", deadline=None)  # a busy machine is no mistake of ours
settings.load_profile("unhurried")

MakeCoco = Callable[..., tuple[Path, Path]]
LONG = (
    "training/test_keep_categories.py", "deploy/test_quantise.py", "captions/test_from_boxes.py",
    "end_to_end/test_captions.py", "end_to_end/test_killed.py", "evaluation/test_paired_test.py",
    "evaluation/test_intervals.py", "faults/test_d_splits.py", "end_to_end/test_site.py", "faults/test_g_processes.py",
    "end_to_end/test_learning.py", "faults/test_g_slurm.py", "formats/test_coco_fast.py", "end_to_end/test_resume.py",
    "deploy/test_exported_peers.py", "faults/test_u_settings.py", "end_to_end/test_wheel.py",
    "end_to_end/test_sweeps.py", "end_to_end/test_pretrained_text.py", "captions/test_oracle_check.py",
    "end_to_end/test_several_processes.py", "faults/test_d_fixes.py",
)  # fmt: skip
"""Files by the seconds of their longest test, the longest first (`make test-all` prints them)."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a worker of xdist, whole files in another order: each worker's share begins with long ones.

    `--dist worksteal` gives each worker an equal number of tests, in order; later one without work takes from the end
    of another's. A long test that came last would leave the other workers idle.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if not workers:
        return
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONG)}
    assert all(path.is_file() for path in ranks), "LONG names a file that does not exist"
    first: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for item in sorted((item for item in items if item.path in ranks), key=lambda item: ranks[item.path]):
        first[ranks[item.path] % workers].append(item)
    rest = [item for item in items if item.path not in ranks]
    count = len(items)
    items.clear()
    for worker, own in enumerate(first, 1):
        items += own
        room = max(0, count * worker // workers - len(items))
        items += rest[:room]
        del rest[:room]


@pytest.fixture(scope="session", autouse=True)
def configs_are_parsed_once() -> Iterator[None]:
    """OmegaConf parses each file of configs/, and of Hydra's own, once: that is most of the work of composing."""
    load, parsed = OmegaConf.load, dict[tuple[str, int], Any]()
    folders = f"{config_folder()}{os.sep}", f"{Path(hydra.__file__).parent / 'conf'}{os.sep}"

    def load_once(file: Any) -> Any:
        path = file if isinstance(file, str | Path) else getattr(file, "name", None)  # Hydra gives an open file
        if not isinstance(path, str | Path) or not os.path.abspath(path).startswith(folders):
            return load(file)
        key = os.path.abspath(path), os.stat(path).st_mtime_ns
        if key not in parsed:
            parsed[key] = load(file)
        return copy.deepcopy(parsed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", staticmethod(load_once))
        yield


@pytest.fixture(scope="session", autouse=True)
def few_resamples() -> Iterator[None]:
    """Intervals of what a test trains or evaluates take 20 resamples at most, not 1,000."""

    def few(matches: Any, names: Any, resamples: int) -> Any:
        return intervals(matches, names, min(resamples, 20))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "intervals", few)
        yield


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
