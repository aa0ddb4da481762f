"""What opens exported files: OpenVINO compiles again for sizes that keep coming, with the same results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy_parts import Export
from detr_mini.deploy.openvino_folder import MODEL
from detr_mini.deploy.runtimes import Compiled, OfEachProcess, open_openvino
from detr_mini.errors import CheckpointError


class FakeModel:
    """Counts how it is compiled, and says for which shapes."""

    def __init__(self, shapes: dict[str, list[int]] | None = None) -> None:
        self.shapes = shapes

    def clone(self) -> FakeModel:
        return FakeModel()

    def reshape(self, shapes: dict[str, list[int]]) -> None:
        self.shapes = shapes


def compiled(alike: int) -> tuple[Compiled, list[Any]]:
    """`Compiled` whose answer is the shapes that it was compiled for, and what was compiled."""
    made: list[Any] = []

    def compile_model(model: FakeModel) -> Any:
        made.append(model.shapes)
        return lambda inputs: model.shapes

    return Compiled(FakeModel(), compile_model, alike), made


def images(*shape: int) -> dict[str, np.ndarray]:
    return {"images": np.zeros(shape)}


def test_shapes_that_keep_coming_are_compiled_for_once() -> None:
    call, made = compiled(3)
    answers = [call(images(1, 3, 8, 8)) for _ in range(6)]
    assert answers == [None, None, *[{"images": [1, 3, 8, 8]}] * 4]
    assert made == [None, {"images": [1, 3, 8, 8]}]


def test_other_shapes_are_computed_by_the_model_for_any() -> None:
    call, made = compiled(2)
    for _ in range(2):
        call(images(1, 3, 8, 8))
    assert call(images(1, 3, 8, 4)) is None
    assert call(images(1, 3, 8, 8)) == {"images": [1, 3, 8, 8]}  # still there
    assert len(made) == 2


def test_pictures_of_changing_sizes_are_never_compiled_for() -> None:
    call, made = compiled(2)
    for k in range(10):
        assert call(images(1, 3, 8, 4 + k % 2)) is None
    assert made == [None]


def test_shapes_that_cannot_be_compiled_for_are_computed_by_the_model_for_any(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FakeModel, shapes: dict[str, list[int]]) -> None:
        raise RuntimeError("Check 'compatible' failed")

    monkeypatch.setattr(FakeModel, "reshape", fail)
    call, made = compiled(2)
    assert [call(images(1, 3, 8, 8)) for _ in range(5)] == [None] * 5
    assert made == [None]


def test_threads_compute_one_after_another() -> None:
    inside, together = 0, 0

    def compute(inputs: dict[str, np.ndarray]) -> str:
        nonlocal inside, together
        inside += 1
        together = max(together, inside)
        time.sleep(0.002)
        inside -= 1
        return f"{inputs['images'].shape}"

    call = Compiled(FakeModel(), lambda model: compute, 3)
    shapes = [(1, 3, 8, 4 + k % 2) for k in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda shape: call(images(*shape)), shapes))
    assert together == 1
    assert answers == [str(shape) for shape in shapes]


def test_a_file_is_read_again_in_another_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def opened() -> tuple[dict[str, str], Any]:
        reads.append(os.getpid())
        return {"names": "a"}, lambda inputs, outputs: [np.array(reads[-1])]

    program = OfEachProcess(Path("a.onnx"), opened)
    for process in (reads[0], reads[0], 1, 1):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        assert program({}, ())[0] == process
    assert len(reads) == 2


def test_a_file_that_has_changed_is_not_used_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = {"names": "a"}
    program = OfEachProcess(Path("a.onnx"), lambda: (dict(properties), lambda inputs, outputs: []))
    properties["names"] = "b"
    assert program({}, ()) == []
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(CheckpointError, match=r"a\.onnx has changed since it was loaded"):
        program({}, ())


FORKED = """
import multiprocessing, sys, torch
from detr_mini import load

torch.set_num_threads(2)
image = torch.arange(3 * 90 * 120).remainder(251).byte().view(3, 90, 120)


def again(detector, before):
    for _ in range(2):
        for found, wanted in zip(detector.detect([image] * 2, threshold=0.0), before, strict=True):
            assert len(found) > 0
            torch.testing.assert_close(found.scores, wanted.scores, atol=1e-3, rtol=0)


for path in sys.argv[1:]:
    print(path, flush=True)
    detector = load(path)
    before = [detector.detect([image] * 2, threshold=0.0) for _ in range(2)]
    child = multiprocessing.get_context("fork").Process(target=again, args=(detector, before[0]))
    child.start()
    child.join()
    detector.detect(image)
    assert child.exitcode == 0, path
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("forms", [("checkpoint", "onnx", "openvino"), ("torch",)], ids=", ".join)
def test_a_detector_that_was_used_before_a_fork_is_used_in_the_child(
    export: Export, checkpoint: Path, forms: tuple[str, ...]
) -> None:
    write = {
        "checkpoint": lambda: checkpoint,
        "onnx": lambda: export("a.onnx"),
        "openvino": lambda: export("a_openvino", "format=openvino"),
        "torch": lambda: export("a.pt2"),  # skips the test where torch is too old
    }
    paths = [str(write[form]()) for form in forms]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    process = subprocess.Popen([sys.executable, "-c", FORKED, *paths], env=environment, start_new_session=True)
    try:
        assert process.wait(timeout=120) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_detections_are_the_same_before_and_after_compiling_for_a_size(export: Export) -> None:
    folder = export("sizes_openvino", "format=openvino")
    runtime = open_openvino(Path(folder) / MODEL, alike=3)
    given = {"pixels": np.random.default_rng(0).integers(0, 256, (1, 48, 80, 3), np.uint8)}
    before, *_, after = (runtime.run(given) for _ in range(4))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
