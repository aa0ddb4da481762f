"""What opens exported files: OpenVINO compiles again for sizes that keep coming, with the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy_parts import Export
from detr_mini.deploy.openvino_folder import MODEL
from detr_mini.deploy.runtimes import Compiled, open_openvino


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


def test_detections_are_the_same_before_and_after_compiling_for_a_size(export: Export) -> None:
    folder = export("sizes_openvino", "format=openvino")
    runtime = open_openvino(Path(folder) / MODEL, alike=3)
    given = {"pixels": np.random.default_rng(0).integers(0, 256, (1, 48, 80, 3), np.uint8)}
    before, *_, after = (runtime.run(given) for _ in range(4))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
