"""The verb `benchmark detr`: both are one function, both are timed, and wrong settings are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from detr_mini.benchmarks.peer_detr import benchmark_detr, same_detectors
from detr_mini.config.compose import compose
from detr_mini.errors import ConfigError


def test_both_give_the_same_and_are_timed_in_every_precision(tmp_path: Path) -> None:
    pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")
    pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    words = ["depth=18", "size=64", "batch=1", "warmup=1", "repeats=2", f"output={tmp_path}"]
    folder = benchmark_detr(compose("benchmark_detr", words))
    result = json.loads((folder / "detr.json").read_text())
    assert [*result["rows"]] == ["training step, float32", "training step, bfloat16", "inference, float32",
                                 "inference, bfloat16"]  # fmt: skip
    assert all(row[key] > 0 for row in result["rows"].values() for key in ("ours", "transformers", "ratio"))
    assert result["largest_difference"] < 1e-3
    assert "outputs differ by" in (folder / "detr.md").read_text()
    assert (folder / "detr.png").stat().st_size > 1000


def test_both_train_the_same_parameters() -> None:
    pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")
    pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in same_detectors(18, False)]
    assert counts[0] == counts[1] > 0


def test_wrong_settings_and_a_missing_package_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for word, said in (("precisions=[float16]", "precision 'float16' does not exist"), ("repeats=0", "repeats is 0"),
                       ("device=tpu", "device is 'tpu'")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            benchmark_detr(compose("benchmark_detr", [word]))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="needs transformers"):
        same_detectors(18, False)
