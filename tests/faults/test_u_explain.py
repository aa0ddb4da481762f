"""A sheet that explains a detection shows all that the box comes from, and says what it shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detector_parts import CATEGORIES, IMAGE, untrained
from detr_mini.drawing.attention import MAP_SIDE, MOST, draw_attention
from detr_mini.inference import prediction_folder
from detr_mini.inference.detector import Detector
from detr_mini.inference.explain import explain_all
from detr_mini.inference.prediction_folder import Request, write_predictions
from detr_mini.inference.sources import Source
from detr_mini.structures import Detections

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_u16_samples_lie_around_the_box_and_pixels_that_move_it_are_found() -> None:
    detector = Detector(untrained(), CATEGORIES, IMAGE)
    why = explain_all(detector, PICTURE, threshold=0.0, most=3)
    layers = why.maps.shape[1]
    assert why.samples is not None
    assert why.samples.shape == (len(why.detections), layers, 49, 2)
    assert why.influence.shape == (3, 40, 60)
    assert (why.influence.flatten(1).amax(1) > 0).all()
    assert not any(parameter.grad is not None for parameter in detector.model.parameters())
    first, last = why.samples[:, 0], why.samples[:, -1]
    assert not torch.equal(first, last), "each layer reads inside the box that it was given"
    changed = PICTURE.copy()
    y, x = divmod(int(why.influence[0].argmax()), 60)
    changed[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] ^= 255
    assert not torch.equal(detector.detect(changed, threshold=0).boxes[:1], why.detections.boxes[:1])


def test_u16_the_number_and_the_size_of_maps_can_be_bounded_and_nothing_else_changes() -> None:
    detector = Detector(untrained(), CATEGORIES, IMAGE)
    every = explain_all(detector, PICTURE, threshold=0.0, most=3)
    few = explain_all(detector, PICTURE, threshold=0.0, most=3, rows=2, longest=30)
    assert few.maps.shape == (2, every.maps.shape[1], 20, 30)
    assert few.influence.shape == (2, 20, 30)
    assert torch.equal(few.detections.boxes, every.detections.boxes[:2])
    assert every.samples is not None and few.samples is not None
    assert torch.equal(few.samples, every.samples[:2])


def test_u16_predict_makes_maps_for_the_rows_of_its_sheet_alone_and_no_larger_than_they_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def drawn(image: Any, found: Any, maps: torch.Tensor, **parts: Any) -> Image.Image:
        shapes.append(tuple(maps.shape))
        return draw_attention(image, found, maps, **parts)

    monkeypatch.setattr(prediction_folder, "draw_attention", drawn)
    Image.fromarray(np.tile(PICTURE, (20, 20, 1))).save(tmp_path / "a.png")
    detector = Detector(untrained(), CATEGORIES, IMAGE)
    request = Request(threshold=0.0, draw=False, explain=True)
    found = write_predictions(detector, [Source(tmp_path / "a.png", "a.png")], tmp_path / "out", request)
    assert len(found.records) > MOST
    ((rows, _, height, width),) = shapes
    assert (rows, height, width) == (MOST, 427, MAP_SIDE)
    assert (tmp_path / "out" / "explained" / "a.png").is_file()


def test_u16_the_sheet_is_bright_and_has_dots_a_column_and_a_legend() -> None:
    grey = torch.full((3, 80, 80), 128, dtype=torch.uint8)
    found = Detections(
        torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([0.9]), torch.tensor([0]), CATEGORIES, None, (80, 80)
    )
    maps = torch.zeros(1, 2, 80, 80)
    plain = draw_attention(grey, found, maps, side=160)
    samples = torch.tensor([[[[40.0, 40.0]], [[20.0, 20.0]]]])
    whole = draw_attention(grey, found, maps, side=160, samples=samples, influence=torch.zeros(1, 80, 80))
    assert whole.width > plain.width
    assert whole.height > plain.height, "the legend"
    left, top = 8 + 168, 8 + 26
    assert plain.getpixel((left + 5, top + 5)) == (64, 64, 64), "half of the light stays where no weight lies"
    assert whole.getpixel((left + 80, top + 80)) == (90, 220, 255)
    assert whole.getpixel((left + 168 + 40, top + 40)) == (90, 220, 255)


def test_u01_the_command_line_multiplies_on_one_numpy_thread() -> None:
    code = "import os, sys; from detr_mini.cli import main; main(['--version']); print(os.environ.get(NAME))"
    code = code.replace("NAME", repr("OPENBLAS_NUM_THREADS"))
    bare = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}

    def threads(code: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**bare, **more}, timeout=99
        )
        return done.stdout.split()[-1]

    assert threads(code) == "1"
    assert threads(code, OPENBLAS_NUM_THREADS="2") == "2"
    assert threads("import numpy\n" + code) == "None", "too late: NumPy has its threads"
