"""Galleries and training curves."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from detr_mini.drawing.curves import curves, read_history
from detr_mini.drawing.gallery import Pair, gallery
from detr_mini.structures import Categories, Detections, Target

CATEGORIES = Categories((1,), ("bolt",))


def pair(width: int, height: int, name: str) -> Pair:
    box, label = torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.tensor([0])
    target = Target(box, label, 1, (height, width), is_crowd=torch.tensor([False]), area=torch.ones(1))
    found = Detections(torch.tensor([[1.0, 1, 5, 5]]), torch.tensor([0.4]), torch.tensor([0]), CATEGORIES)
    return Pair(torch.zeros(3, height, width, dtype=torch.uint8), found, target, name)


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_a_gallery_of_any_number_of_images_is_one_picture(tmp_path: Path, count: int) -> None:
    sizes = [(60, 40), (40, 60), (128, 128), (400, 20), (20, 400)]
    pairs = [pair(*sizes[i % 5], f"a/very/long/{'x' * 200}/{i}.jpg") for i in range(count)]
    gallery(pairs, tmp_path / "gallery.png", title="t" * 500)
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.width < 3000
        assert 0.2 < picture.width / picture.height < 8


def scored(*scores: float) -> Pair:
    """A picture with one true box and detections of these scores, each somewhere else."""
    one, n = pair(60, 40, "a.jpg"), len(scores)
    boxes = torch.tensor([[1.0 + 9 * i, 1, 8 + 9 * i, 30] for i in range(n)])
    found = Detections(boxes, torch.tensor(scores), torch.zeros(n, dtype=torch.long), CATEGORIES)
    return replace(one, detections=found)


def drawn(path: Path, threshold: float, *scores: float) -> bytes:
    gallery([scored(*scores)], path / "gallery.png", threshold)
    return (path / "gallery.png").read_bytes()


def test_detections_below_the_threshold_are_not_drawn(tmp_path: Path) -> None:
    assert drawn(tmp_path, 0.5, 0.9, 0.4) == drawn(tmp_path, 0.5, 0.9)
    assert drawn(tmp_path, 0.3, 0.9, 0.4) != drawn(tmp_path, 0.3, 0.9)


def test_if_no_score_reaches_the_threshold_the_best_are_drawn_and_the_legend_says_so(tmp_path: Path) -> None:
    weak = drawn(tmp_path, 0.5, 0.02, 0.01)
    assert weak == drawn(tmp_path, 0.5, 0.02)  # as many as are true: one
    assert weak != drawn(tmp_path, 0.02, 0.02)  # the legend


@pytest.mark.parametrize(
    "history",
    [
        "",
        "epoch,step\n",
        "epoch,step,train/loss,val/AP,lr/muon\n0,10,2.5,,0.02\n0,20,,0.3,\n1,30,nan,-,0.01\n1,40,inf,0.4,0\n",
        "epoch,loss,AP,lr\n0,0,0,0\n",
    ],
)
def test_curves_are_drawn_from_any_history(tmp_path: Path, history: str) -> None:
    (tmp_path / "history.csv").write_text(history)
    curves(tmp_path / "history.csv", tmp_path / "curves.png", "run")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000


def test_empty_fields_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("step,loss,AP\n1,2.5,\n2,,0.5\n3,nan,0.75\n")
    assert read_history(tmp_path / "history.csv") == {"loss": ([1.0], [2.5]), "AP": ([2.0, 3.0], [0.5, 0.75])}


def test_drawing_boxes_does_not_load_the_plotting_library() -> None:
    import subprocess

    code = "import sys, detr_mini.drawing.gallery, detr_mini.drawing.curves; print('matplotlib.figure' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
