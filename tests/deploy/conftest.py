"""A tiny detector of made shapes, traced once, and its exports in every form."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy_parts import BOXES, SOURCES, Export
from detector_parts import BACKBONE, MODEL, checkpoint_of
from detr_mini.cli import main
from detr_mini.deploy import onnx_file
from detr_mini.deploy.network import Network
from detr_mini.inference.detector import Detector, load
from detr_mini.models.build import build_model
from detr_mini.scenes.rendering import SHAPES
from detr_mini.structures import Categories
from training_parts import unchecked

TINY = {**MODEL, "decoder": {"layers": 1}, "distinct_iou": 0.7}
POINT = {"threshold": 0.025, "suppress_iou": 0.5}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an untrained detector that says different things of different pictures."""
    categories = Categories(tuple(range(1, len(SHAPES) + 1)), tuple(SHAPES))
    torch.manual_seed(0)
    model: Any = build_model(TINY, BACKBONE, len(categories))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    settings = {"model": TINY, "backbone": BACKBONE}
    torch.save(
        {
            **checkpoint_of(model, categories),
            "config": settings,
            "operating_point": POINT,
            "sources": SOURCES,
            "box_sizes": BOXES,
        },
        path,
    )
    return path


@pytest.fixture(scope="session")
def own(checkpoint: Path) -> Detector:
    """The detector in the checkpoint."""
    return load(checkpoint)


@pytest.fixture(scope="session")
def traced(own: Detector) -> Any:
    """Its network as ONNX. Tracing takes most of an export's time, so it is done once."""
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(name, reason=f"the package {name} of the extra 'export' is not installed")
    with unchecked():
        return onnx_file._traced(Network(own.model, 100))


@pytest.fixture(scope="session")
def export(checkpoint: Path, traced: Any, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """`export("a.onnx", "precision=fp16")`: an export by the command line, made once for the same words."""
    folder, made = tmp_path_factory.mktemp("exports"), dict[tuple[str, ...], Path]()

    def write(name: str, *words: str) -> Path:
        if name.endswith(".pt2"):
            pytest.importorskip("torch", "2.12", "torch exports programs for pictures of any size from 2.12 on")
        key = (name, *words)
        if key not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(onnx_file, "_traced", lambda *_: copy.deepcopy(traced))
                output = folder / str(len(made)) / name
                with unchecked() if name.endswith(".pt2") else nullcontext():
                    assert main(["export", f"checkpoint={checkpoint}", f"output={output}", *words]) == 0
            made[key] = output
        return made[key]

    return write
