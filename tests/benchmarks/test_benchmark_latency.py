"""The verb `benchmark latency`: every form is timed, what is missing is said, wrong settings are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detector_parts import BACKBONE, MODEL, checkpoint_of
from detr_mini.benchmarks.forms import FORMS
from detr_mini.benchmarks.latency import _remarks
from detr_mini.cli import main
from detr_mini.models.build import build_model
from detr_mini.structures import Categories
from training_parts import unchecked


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    categories = Categories((1, 2), ("bolt", "nut"))
    model: Any = build_model(MODEL, BACKBONE, 2)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.save({**checkpoint_of(model, categories), "config": {"model": MODEL, "backbone": BACKBONE}}, path)
    return path


def row(form: str, batch: int, ms: float) -> dict[str, Any]:
    return {"form": form, "batch": batch, "network": {"median": ms, "p95": ms}}


def test_slower_int8_is_said_for_its_own_runtime_and_batch() -> None:
    rows = [row("onnx", 1, 5.0), row("onnx int8", 1, 6.0), row("onnx", 8, 40.0), row("onnx int8", 8, 20.0),
            row("openvino int8", 1, 9.0)]  # fmt: skip
    (said,) = _remarks(rows)
    assert "onnx int8 is no faster than float32 here in batches of 1: 6.0 beside 5.0 ms" in said


def test_torch_is_timed_and_missing_packages_are_said(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    words = [f"checkpoint={checkpoint}", f"output={tmp_path / 'out'}", "batch=[1,2]", "repeats=2",
             "picture_size=[30,50]", "forms=[torch,onnx]"]  # fmt: skip
    threads = torch.get_num_threads()
    assert main(["benchmark", "latency", *words, "threads=1"]) == 0
    result = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert [(row["form"], row["batch"]) for row in result["rows"]] == [("torch", 1), ("torch", 2)]
    assert all(0 < row[part]["median"] <= row[part]["p95"] for row in result["rows"] for part in ("network", "whole"))
    assert result["threads"] == 1 and torch.get_num_threads() == threads
    assert "onnx is left out: the package onnxruntime is not installed" in result["missing"][0]
    assert "| torch | 2 |" in (tmp_path / "out" / "latency.md").read_text()
    with Image.open(tmp_path / "out" / "latency.png") as picture:
        assert picture.width > 500
    assert "detect, ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["forms=[torc]"], "form 'torc' does not exist; did you mean 'torch'?"),
        (["batch=[0]"], "batch [0]"),
        (["picture=nowhere.png"], "nowhere.png"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(
    checkpoint: Path, words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["benchmark", "latency", f"checkpoint={checkpoint}", f"output={output}", *words]) == 2
    assert says in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.slow
def test_every_form_is_timed(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(name, reason=f"the package {name} of the extra 'export' is not installed")
    with unchecked():
        words = [f"checkpoint={checkpoint}", f"output={tmp_path}", "batch=[1]", "repeats=2"]
        assert main(["benchmark", "latency", *words]) == 0
    result = json.loads((tmp_path / "latency.json").read_text())
    timed = [row["form"] for row in result["rows"]]
    left_out = [sentence.split(" is left out")[0] for sentence in result["missing"]]
    assert sorted([*timed, *left_out]) == sorted(FORMS)
    assert set(left_out) <= {"openvino bf16"}
