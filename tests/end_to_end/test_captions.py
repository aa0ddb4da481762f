"""A training with captions, from made scenes to an answer to a sentence."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from detr_mini import load
from detr_mini.config.compose import compose
from detr_mini.training.history import CAPTION_LOSSES
from detr_mini.training.run import train
from detr_mini.verbs.evaluate import evaluate
from training_parts import unchecked

SMALL = [
    "experiment=shapes_captions", "data.make={train: 12, val: 4, test: 4, size: 64, seed: 0}", "data.size=64",
    "data.batch_size=4", "data.captions_per_image=3", "model.dim=32", "model.feedforward=32", "model.queries=14",
    "model.joint={layers: 2, width: 8, heads: 2, pair_dim: 4}", "model.text.layers=1",
    "backbone.channels=[8,16,16,32]", "backbone.blocks=[0,1,1,1]", "trainer.max_minutes=null",
    "trainer.progress=false", "trainer.log_every_steps=3", "logger=csv",
]  # fmt: skip


@pytest.mark.slow
def test_a_training_with_captions_fills_the_run_folder_answers_sentences_and_resumes(tmp_path: Path) -> None:
    said = [*SMALL, f"data.root={tmp_path / 'made'}"]
    whole = train(compose("train", [*said, "trainer.max_steps=6", f"run_folder={tmp_path / 'whole'}"]))
    metrics = json.loads((whole / "metrics.json").read_text())
    for name in ("accuracy", "top1", "recall_any@10", "absent_rejected", "agnostic_AP", "accuracy/relation"):
        assert 0 <= metrics[f"grounding/{name}"] <= 1
    assert metrics["recipe"] == "mini_grounded-2"
    assert Image.open(whole / "captions.png").width > 400
    rows = list(csv.DictReader((whole / "history.csv").open()))
    assert any(row["val/grounding/accuracy"] for row in rows)
    trained = [row for row in rows if row["lr"]]
    assert trained and all(float(row[f"train/loss_{part}"]) > 0 for row in trained for part in CAPTION_LOSSES)

    found = load(whole).detect(tmp_path / "made" / "test" / "000000.png", "the small red circle", threshold=0)
    assert found.phrases is not None

    measured = {}
    for words in ("as_typed", "shuffled", "foreign"):
        where = ["split=test", f"words={words}", "resamples=0", f"output={tmp_path / words}"]
        folder = evaluate(compose("evaluate", [f"checkpoint={whole}", *where]))
        measured[words] = json.loads((folder / "metrics.json").read_text())
    assert measured["as_typed"]["grounding/accuracy"] == metrics["grounding/accuracy"]
    assert measured["as_typed"]["grounding/threshold"] == metrics["grounding/threshold"]
    assert measured["shuffled"]["grounding/captions"] == metrics["grounding/captions"]
    assert 0 < measured["foreign"]["grounding/captions"] <= metrics["grounding/captions"]

    part = train(compose("train", [*said, "trainer.max_steps=3", f"run_folder={tmp_path / 'part'}"]))
    train(compose("train", [f"resume={part}", "trainer.max_steps=6"]))
    one, other = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (whole, part))
    assert one["global_step"] == other["global_step"] == 6
    assert one["tokeniser"] == other["tokeniser"]


@pytest.mark.slow
def test_a_few_scenes_and_their_captions_are_memorised(tmp_path: Path) -> None:
    words = [
        "experiment=shapes_captions", "data.make={train: 1, val: 6, test: 0, size: 64, seed: 0}", "data.size=64",
        f"data.root={tmp_path / 'made'}", "data.train=${data.val}", "data.test=null",
        "data.captions={train: annotations/val_captions.json, val: annotations/val_captions.json}", "data.augment=[]",
        "data.batch_size=6", "data.captions_per_image=12", "trainer.max_minutes=null", "trainer.max_steps=200",
        "trainer.validate_every_epochs=100", "trainer.progress=false", "logger=csv", "optim.average=0.97",
        "model.joint.layers=3", f"run_folder={tmp_path / 'run'}",
    ]  # fmt: skip
    with unchecked():
        run = train(compose("train", words))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["grounding/accuracy"] >= 0.9
