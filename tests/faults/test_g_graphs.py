"""Section G of the faults: a compiled training makes few graphs."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detr_mini.config.compose import compose
from detr_mini.data.collate import collate
from detr_mini.structures import Batch
from detr_mini.training.build import Parts, build
from detr_mini.training.canvases import Canvases, canvases_for, on_canvas
from process_parts import environment
from training_parts import SMALL, overrides


def batches(parts: Parts) -> list[Batch]:
    """Six batches of six shapes, without and with padding, with 1 to many truths."""
    ids, found = parts.data.train_set.image_ids, []
    shapes = [
        [(64, 64)] * 2,
        [(20, 64)] * 2,
        [(40, 64), (64, 30)],
        [(64, 20)] * 2,
        [(30, 64), (48, 64)],
        [(10, 20)] * 2,
    ]
    for number, sizes in enumerate(shapes):
        targets = [parts.data.train_set.target(ids[number + row]) for row in range(2)]
        found.append(collate([torch.rand(3, *size) for size in sizes], targets, parts.data.stride))
    return found


def test_g17_a_canvas_changes_nothing_that_is_visible(scenes_root: Path) -> None:
    parts = build(compose("train", overrides(scenes_root, "trainer.max_steps=2")))
    task = parts.task
    task.model.train()
    for batch in batches(parts):
        larger = on_canvas(batch, canvases_for(64, None, task.model.stride, 11))
        assert larger.images.shape[-2:] in {(48, 64), (64, 64)} and larger.packed.labels.shape[1] == 16
        plain, padded = (task.losses(each, 3) for each in (batch, larger))
        torch.testing.assert_close(padded.total, plain.total, rtol=1e-4, atol=1e-4)
        assert padded.boxes == plain.boxes
    assert on_canvas(batch, Canvases(((16, 16),), 8)) is batch, "what fits no canvas stays as it is"


def test_g17_canvases_are_two_or_one() -> None:
    assert canvases_for(640, None, 32, 93) == Canvases(((480, 640), (640, 640)), 96)
    assert canvases_for(1333, 800, 32, 20) == Canvases(((800, 1344), (1344, 1344)), 24)
    assert canvases_for(16, None, 16, 0) == Canvases(((16, 16),), 8)


def test_g17_batches_of_a_model_for_images_of_any_size_fit_their_canvases(scenes_root: Path) -> None:
    words = [word for word in overrides(scenes_root, "trainer.max_steps=2") if word not in SMALL]
    words += ["trainer.compile=true", "model=detr", "backbone=resnet18", "backbone.weights=none", "model.dim=32",
              "model.queries=8", "data.size=50"]  # fmt: skip
    parts = build(compose("train", words))
    batch = next(iter(parts.data.train_dataloader()))
    assert parts.task.canvases is not None
    assert on_canvas(batch, parts.task.canvases).images.shape[-2:] in parts.task.canvases.sizes


COUNT = """
import sys
from pathlib import Path
from faults.test_g_graphs import batches
from detr_mini.config.compose import compose
from detr_mini.training.build import build
from detr_mini.training.canvases import graphs_made, on_canvas
from training_parts import overrides
parts = build(compose("train", overrides(Path(sys.argv[1]), "trainer.max_steps=2", "trainer.compile=true")))
task = parts.task
task.model.train()
task.model.compile(backend="eager", dynamic=False)
for batch in batches(parts):
    task.losses(on_canvas(batch, task.canvases), 0).total.backward()
print("graphs:", graphs_made())
"""


@pytest.mark.slow
def test_g17_batches_of_many_shapes_make_two_graphs(scenes_root: Path) -> None:
    build(compose("train", overrides(scenes_root, "trainer.max_steps=2")))  # makes the scenes
    # in a process of its own, since the checks of shapes that tests add would be compiled, too
    done = subprocess.run([sys.executable, "-c", COUNT, str(scenes_root)], env=environment(), capture_output=True,
                          text=True, timeout=500)  # fmt: skip
    assert "graphs: 2" in done.stdout, done.stderr[-3000:]


def test_g17_a_warning_says_where_torch_no_longer_compiles(
    scenes_root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = build(compose("train", overrides(scenes_root, "trainer.max_steps=2", "trainer.compile=true"))).task
    with caplog.at_level(logging.WARNING, "detr_mini"):
        monkeypatch.setattr("detr_mini.training.canvases.graphs_made", lambda: 2)
        task.report_graphs()
        assert not caplog.text
        monkeypatch.setattr("detr_mini.training.canvases.graphs_made", lambda: 8)
        task.report_graphs()
        task.report_graphs()
    assert caplog.text.count("trainer.compile has made 8 graphs") == 1
