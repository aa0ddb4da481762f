"""A peer through the verbs: trained, measured, loaded, exported like one of our own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")

from detr_mini import load
from detr_mini.cli import main
from detr_mini.errors import UserError
from detr_mini.peers.loss import PeerCriterion
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.structures import Detections
from detr_mini.training.averaging import AveragedModel
from peer_parts import SMALL, peer, truths

FILES = {"config.yaml", "data_report.json", "metrics.json", "history.csv", "best.ckpt", "last.ckpt", "predictions.json",
         "gallery.png", "curves.png", "run.log"}  # fmt: skip


def hydras(value: Any) -> str:
    """A plain value as Hydra reads it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {hydras(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(hydras, value)) + "]"
    return str(value)


def words(scenes: Path, folder: Path, kind: str, *more: str) -> list[str]:
    """A training of five steps on made scenes, with an evaluation after the fourth."""
    return [
        f"data.root={scenes}", "data.make={train: 16, val: 8, test: 6, size: 64, seed: 0}", "data.size=64",
        "data.batch_size=4", "trainer.max_steps=5", "trainer.precision=32-true", "trainer.progress=false", "logger=csv",
        f"run_folder={folder}", "model=hf", f"model.name={kind}", "model.queries=6",
        f"model.config={hydras(SMALL[kind])}", *more,
    ]  # fmt: skip


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


def alike(a: Detections, b: Detections, tolerance: float) -> None:
    assert len(a) == len(b) > 0
    torch.testing.assert_close(a.scores, b.scores, atol=tolerance, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["detr", "rt_detr_v2", "d_fine", "rf_detr"])
def test_a_short_training_fills_the_run_folder_and_its_checkpoint_detects(
    kind: str, scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert main(["train", *words(scenes_root, run, kind)]) == 0
    assert {file.name for file in run.iterdir()} >= FILES
    assert json.loads((run / "metrics.json").read_text())["recipe"] == "hf-1"
    detector = load(run)
    whole = detector.detect(picture(), threshold=0.0)
    assert whole.names
    alike(whole, load(run / "best.ckpt").detect(picture(), threshold=0.0), 0.0)
    with pytest.raises(UserError, match="this detector was trained without captions; leave the caption out"):
        detector.detect(picture(), caption="the red circle")
    assert main(["export", f"checkpoint={run}", "output=small.safetensors"]) == 0
    alike(whole, load("small.safetensors").detect(picture(), threshold=0.0), 0.02)


def test_what_was_trained_is_measured_and_looks_at_pictures(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words(scenes_root, tmp_path / "run", "detr")]) == 0
    measured = tmp_path / "measured"
    assert main(["evaluate", "checkpoint=run", "split=test", f"output={measured}", "resamples=0"]) == 0
    numbers = [json.loads((folder / "metrics.json").read_text()) for folder in (measured, tmp_path / "run")]
    assert numbers[0]["AP"] == numbers[1]["AP"]
    picture().save("a.png")
    assert main(["predict", "checkpoint=run", "source=a.png", "threshold=0"]) == 0
    assert json.loads(Path("outputs/predictions/predictions.json").read_text())
    capsys.readouterr()
    assert main(["predict", "checkpoint=run", "source=a.png", "explain=true", "threshold=0"]) == 2
    assert "this model does not say where its queries look" in capsys.readouterr().err
    assert main(["predict", "checkpoint=run", "source=a.png", "caption=the red circle"]) == 2
    assert "trained without captions" in capsys.readouterr().err


def test_a_training_goes_on_where_it_stood(scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words(scenes_root, tmp_path / "run", "rt_detr_v2", "data.val=null", "data.test=null")]) == 0
    assert main(["train", "resume=run", "trainer.max_steps=6"]) == 0
    checkpoint = read_checkpoint(tmp_path / "run" / "last.ckpt")
    assert checkpoint["global_step"] == 6
    assert checkpoint["averaged"]["updates"] == 6


def test_two_images_are_memorised() -> None:
    model, criterion, targets = peer("rt_detr_v2").train(), PeerCriterion(), truths([1, 2])
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(80):
        torch.manual_seed(step)
        total = criterion(model(images, None, denoising=targets), targets).total / 3
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_an_average_takes_a_head_of_two_names_in_once() -> None:
    model = peer("rt_detr_v2")
    averaged = AveragedModel(model, 0.5)
    before = averaged.model.state_dict()["library.class_embed.0.weight"].clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    averaged.update()
    after = averaged.model.state_dict()
    moved = after["library.class_embed.0.weight"] - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.9))  # the first decay is 0.1
    assert torch.equal(after["library.class_embed.0.weight"], after["library.model.decoder.class_embed.0.weight"])


def test_data_with_captions_are_said_to_be_of_no_use(scenes_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["data=shapes_captions", f"data.root={scenes_root.parent / 'captioned'}", "data.size=64",
             "data.make={train: 4, val: 2, test: 2, seed: 0, size: 64}", "trainer.max_steps=1"]  # fmt: skip
    for model in (["model=hf", "model.name=detr", f"model.config={hydras(SMALL['detr'])}"], ["model=mini"]):
        assert main(["train", *given, *model]) == 2
        assert "the data have captions, but this model does not read any" in capsys.readouterr().err


def test_mistakes_on_the_command_line_are_one_sentence(
    scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [word for word in words(scenes_root, tmp_path / "run", "detr") if not word.startswith("model.config")]
    for wrong, sentence in (
        (["model.name=dtr"], "model.name=dtr is not a detector of transformers"),
        (["model.querys=3"], "model.querys does not exist; did you mean 'model.queries'?"),
        (["model.config={decoder_layer: 3}"], "model.config.decoder_layer is no setting of detr; did you mean"),
        (["backbone=convnet", "model.name=d_fine"], "d_fine works at strides [8, 16, 32]; backbone.strides is"),
    ):
        assert main(["train", *good, *wrong]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
