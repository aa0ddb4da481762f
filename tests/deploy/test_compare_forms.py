"""`compare` measures exported files on the data of a run and tests the differences; `benchmark latency` times them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy_parts import Export
from detr_mini.cli import main


@pytest.mark.parametrize("form", [("a.onnx",), ("a_openvino", "format=openvino")], ids=["onnx", "openvino"])
def test_an_exported_file_is_compared_with_its_checkpoints_evaluation(
    export: Export, checkpoint: Path, form: tuple[str, ...], scenes_root: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    file = export(*form)
    monkeypatch.chdir(tmp_path)
    data = ["data=coco", f"data.root={scenes_root}", "subset.share=0.9"]
    data += ["data.val.images=val", "data.val.annotations=annotations/val.json", "resamples=0", "gallery=0"]
    assert main(["evaluate", f"checkpoint={checkpoint}", *data, "output=own", "detection_limit=50"]) == 0
    assert main(["compare", f"runs=[own,{file},{checkpoint}]", "output=three", "rounds=50"]) == 0
    assert len(json.loads((tmp_path / "three" / "compare.json").read_text())["pairs"]) == 3
    assert main(["compare", f"runs=[own,{file}]", "output=out", "rounds=50"]) == 0
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["images"] == 7  # of eight: the subset is that of the run
    whole = next(row for row in content["numbers"] if row["name"] == "AP")
    assert abs(whole["difference"]) < 1e-3
    assert not whole["real"]
    measured = Path(content["runs"][1])
    assert json.loads((measured / "metrics.json").read_text())["detection_limit"] == 50


def test_detectors_alone_have_no_data_to_be_measured_on(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", f"runs=[{checkpoint},{checkpoint}]", f"output={tmp_path / 'out'}"]) == 2
    assert "names detectors only" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", [("a.onnx",), ("a.pt2",)], ids=["onnx", "torch"])
def test_latency_of_an_exported_file(
    export: Export, form: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"checkpoint={export(*form)}", f"output={tmp_path}", "batch=[1,2]", "repeats=2"]
    assert main(["benchmark", "latency", *words]) == 0
    rows = json.loads((tmp_path / "latency.json").read_text())["rows"]
    assert [(row["form"], row["batch"]) for row in rows] == [(form[0], 1), (form[0], 2)]
    assert all(row[part]["median"] > 0 for row in rows for part in ("network", "whole"))
    assert main(["benchmark", "latency", *words, "forms=[onnx]"]) == 2
    assert "is one form already" in capsys.readouterr().err
