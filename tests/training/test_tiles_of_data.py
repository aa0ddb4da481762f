"""A training on tiles of files that are too large to be decoded, and what its checkpoint knows for later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_parts import write_plates
from detr_mini import load
from detr_mini.cli import main
from detr_mini.images import header
from detr_mini.images.tiling import windows_of
from detr_mini.inference.detect_tiles import detect_tiled, tile_shape, tile_side
from detr_mini.pretrained.checkpoints import read_checkpoint
from training_parts import SMALL

DATA = [f"data.{split}={{images: {split}, annotations: {split}.json}}" for split in ("train", "val")]


def test_what_is_trained_on_tiles_is_measured_on_tiles_or_on_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = write_plates(tmp_path / "plates"), tmp_path / "run"
    monkeypatch.setattr(header, "MAX_PIXELS", 50_000)
    words = ["data=coco", f"data.root={root}", *DATA, "data.size=64", "data.tiles=auto", "data.workers=0", *SMALL]
    words += ["trainer.precision=32-true", "trainer.progress=false", "trainer.max_epochs=1", "logger=csv"]
    assert main(["train", *words, f"run_folder={run}"]) == 0, capsys.readouterr().err
    checkpoint = read_checkpoint(run)
    side = checkpoint["tiles"]
    assert side == 32
    assert checkpoint["box_sizes"]["small"] <= 12 and checkpoint["box_sizes"]["image"] == side
    report = json.loads((run / "data_report.json").read_text())
    assert any("tiles of 32 pixels" in notice for notice in report["splits"]["train"]["notices"])
    detector = load(run)
    assert 16 <= tile_side(detector, "auto") <= side

    capsys.readouterr()
    common = ["evaluate", f"checkpoint={run}", "resamples=0"]
    assert main([*common, f"output={tmp_path / 'tiles'}"]) == 0, capsys.readouterr().err
    assert f"measured on tiles of {side} pixels" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "tiles" / "metrics.json").read_text())["images"] == len(
        windows_of((300, 400), side, 0.2)
    )
    assert main([*common, f"output={tmp_path / 'whole'}", "tiles=auto", "report=true"]) == 0, capsys.readouterr().err
    assert f"looked at in tiles of {tile_side(detector, 'auto')} pixels" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["images"] == 1
    records = json.loads((tmp_path / "whole" / "predictions.json").read_text())
    assert {record["image_id"] for record in records} <= {5}


def test_older_checkpoints_and_damaged_ones(tmp_path: Path, checkpoint: Path) -> None:
    assert load(checkpoint).box_sizes is None
    assert tile_side(load(checkpoint), "auto") == 64
    content = torch.load(checkpoint, weights_only=True)
    for wrong in ({"small": 1.0}, {"image": 1.0, "small": -1.0, "large": 2.0}, [1, 2]):
        torch.save({**content, "box_sizes": wrong}, tmp_path / "wrong.ckpt")
        with pytest.raises(Exception, match="box_sizes"):
            load(tmp_path / "wrong.ckpt")
    torch.save({**content, "box_sizes": {"image": 400.0, "small": 12.0, "large": 30.0}}, tmp_path / "right.ckpt")
    assert tile_side(load(tmp_path / "right.ckpt"), "auto") == 200
    assert tile_shape(load(tmp_path / "right.ckpt"), "auto") == 1  # a file of before there was a shape
    shaped = {"image": 400.0, "small": 12.0, "large": 30.0, "shape": 0.75}
    torch.save({**content, "box_sizes": shaped}, tmp_path / "shaped.ckpt")
    detector = load(tmp_path / "shaped.ckpt")
    assert (tile_shape(detector, "auto"), tile_shape(detector, 200)) == (0.75, 1)
    seen: list[tuple[int, ...]] = []
    detect = detector.detect

    def watched(images: Any, *words: Any, **named: Any) -> Any:
        seen.extend(tuple(image.shape[1:]) for image in images)
        return detect(images, *words, **named)

    detector.detect = watched  # type: ignore[method-assign]
    detect_tiled(detector, np.zeros((300, 500, 3), np.uint8), "auto", 0.2)
    assert {*seen[:-1]} == {(150, 200)}  # the last is the view of the entire image
