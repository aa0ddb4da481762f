"""The verb `benchmark attention`: true exponents, true bytes, a table, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from detr_mini.attention.kinds import KINDS
from detr_mini.benchmarks.attention import benchmark_attention, exponents, peak_bytes
from detr_mini.errors import ConfigError, UserError

CONFIG = Path(__file__).parents[2] / "configs" / "benchmark_attention.yaml"


def config(output: Path, **other: Any) -> DictConfig:
    defaults = OmegaConf.load(CONFIG)
    for key in ("defaults", "hydra"):
        defaults.pop(key)
    merged = OmegaConf.merge(defaults, {"output": str(output), "repeats": 1, **other})
    assert isinstance(merged, DictConfig)
    return merged


@given(st.floats(0.5, 3), st.floats(0.5, 3), st.floats(1e-3, 1e3))
def test_exponents_are_those_of_a_power_law(time: float, memory: float, factor: float) -> None:
    measured = [{"n": n, "ms": factor * n**time, "bytes": factor * n**memory} for n in (256, 512, 1024, 2048, 4096)]
    assert exponents(measured) == pytest.approx({"ms": time, "bytes": memory})


def test_the_peak_is_what_was_alive_at_once() -> None:
    def two_at_a_time() -> None:
        for _ in range(3):
            a = torch.ones(1000, 1000)
            b = a + 1
            del a, b

    assert 8e6 <= peak_bytes(two_at_a_time) < 9e6


@pytest.mark.parametrize("backward", [False, True])
def test_every_kind_is_measured_and_written_as_numbers_table_and_picture(tmp_path: Path, backward: bool) -> None:
    said = config(tmp_path / "out", sizes=[60, 1024], window=8, rank=8, features=8, backward=backward)
    folder = benchmark_attention(said)
    result = json.loads((folder / "cost.json").read_text())
    assert list(result["rows"]) == list(result["exponents"])
    assert set(result["rows"]) == {"plain", "chunked", "deformable", *KINDS}
    for measured in result["rows"].values():
        assert [row["n"] for row in measured] == [60, 1024]
        assert all(row["ms"] > 0 and row["bytes"] > 0 for row in measured)
    matrix = said.heads * 1024 * 1024 * 4
    assert result["rows"]["plain"][1]["bytes"] >= matrix > result["rows"]["windowed"][1]["bytes"]
    table = (folder / "cost.md").read_text()
    assert all(f"| {kind} |" in table for kind in result["rows"])
    with Image.open(folder / "cost.png") as picture:
        assert picture.width > 1000


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'windowd' does not exist; did you mean 'windowed'\?; the kinds are plain"):
        benchmark_attention(config(tmp_path, kinds=["windowd"]))
    for sizes in ([256], [512, 256], [0, 256], [256, 256]):
        with pytest.raises(ConfigError, match="give two or more numbers in rising order"):
            benchmark_attention(config(tmp_path, sizes=sizes))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'gpu' cannot be used on this machine"):
        benchmark_attention(config(tmp_path / "out", device="gpu"))
