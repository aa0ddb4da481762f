"""A seeded fuzz of annotation files: only the readers' own errors, no crash, nothing slow, nothing large."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz_annotations.py")


def run(seed: int, count: int) -> dict[str, object]:
    """In a process of its own, so that a crash of a parser is a failure of this test and no more."""
    path = os.pathsep.join([str(FUZZ.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--seed", str(seed), "--count", str(count)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), (done.returncode, done.stderr[-2000:])
    found: dict[str, object] = json.loads(done.stdout)
    return found


def check(found: dict[str, object], count: int) -> None:
    assert found["failures"] == 0, found
    assert found["mutants"] == count
    outcomes = found["outcomes"]
    assert isinstance(outcomes, dict)
    kinds = ("coco", "captions", "voc", "yolo", "cvat", "via", "label_studio", "csv")
    for kind in kinds:  # a fuzz that always or never is refused tries nothing
        read, refused = outcomes[f"{kind}: read"], outcomes[f"{kind}: refused"]
        assert min(read, refused) > 0.15 * (read + refused)


def test_s09_mutated_annotation_files_raise_only_the_readers_own_errors() -> None:
    check(run(seed=0, count=300), 300)


@pytest.mark.slow
def test_s09_thousands_of_mutated_annotation_files_raise_only_the_readers_own_errors() -> None:
    check(run(seed=1, count=4000), 4000)
