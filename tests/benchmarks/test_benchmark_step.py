"""Where a step of training spends its time: named parts, whatever else the machine does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detr_mini.benchmarks.operations import OperationCounter
from detr_mini.benchmarks.step import Stopwatch, benchmark_step, operations_counter
from detr_mini.config.compose import compose
from detr_mini.models.mini import MiniDETR
from training_parts import overrides


@pytest.mark.parametrize("model", ["mini", "detr"])
def test_each_part_of_a_step_is_named_and_none_is_counted_twice(scenes_root: Path, model: str) -> None:
    words = [word for word in overrides(scenes_root) if model == "mini" or not word.startswith("model.")]
    if model == "detr":
        words = ["model=detr", *words, "model.dim=32", "model.encoder_layers=1", "model.decoder_layers=1",
                 "model.queries=10"]  # fmt: skip
    config = compose("benchmark_step", [*words, "experiment=quickstart", "steps=3", "warmup=1", "matrix=64"])
    result = benchmark_step(config)
    rows = result["milliseconds"]
    assert {"data", "backbone", "encoder", "decoder", "matching", "loss", "backward", "optimizer"} <= rows.keys()
    assert min(rows.values()) >= 0, "a part that is counted twice leaves less than nothing for the time between parts"
    assert max(rows.values()) < result["step"]
    assert result["gflops"] > 0
    assert result["matrix_gflops"] > 0
    assert 300 < result["operations"] < 3000


def test_operations_are_counted_in_both_directions_and_views_are_not() -> None:
    x, weight = torch.randn(4, 3), torch.randn(5, 3, requires_grad=True)
    with OperationCounter() as operations:
        (x @ weight.t()).view(20)[:5].sum().backward()
        torch._foreach_add_([x, x.clone()], 1.0)
    counts = operations.counts
    assert counts["mm"] == 2 and counts["sum"] == 1 and counts["_foreach_add_"] == 1
    assert not {"t", "transpose", "view", "slice", "expand", "detach"} & counts.keys()
    assert operations.total == counts.total()


def test_the_bytes_of_an_operation_are_those_it_reads_and_those_it_writes() -> None:
    x, weight = torch.randn(4, 3), torch.randn(3, 5, dtype=torch.bfloat16)
    with OperationCounter() as product:
        x.bfloat16() @ weight
    assert product.bytes == (12 * 4 + 12 * 2) + 2 * (12 + 15 + 20), "a cast, then a product"
    with OperationCounter() as sum_of_one_value:
        torch.zeros(1).expand(1000).sum()
    assert sum_of_one_value.bytes == (4 if "zeros" in sum_of_one_value.counts else 0) + 4 + 4, "a value is read once"


def test_images_have_their_full_size_also_where_they_grow_during_the_training(
    scenes_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = MiniDETR.forward

    def watched(self: MiniDETR, images: Tensor, *words: Any, **named: Any) -> Any:
        seen.append(max(images.shape[2:]))
        return forward(self, images, *words, **named)

    monkeypatch.setattr(MiniDETR, "forward", watched)
    growing = ("trainer.coarse_scale=0.5", "trainer.coarse_until=0.75", "trainer.coarse_grow=true")
    benchmark_step(compose("benchmark_step", [*overrides(scenes_root), *growing, "steps=2", "warmup=1", "matrix=64"]))
    assert {*seen} == {64}


def test_a_slow_step_moves_no_part_and_parts_stay_within_their_whole() -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.steps = [{"step": 2.0 + k / 100, "data": 1.0 + (k % 3) / 100} for k in range(8)] + [
        {"step": 90.0, "data": 80.0}
    ]
    typical = watch.typical()
    assert 2000 < typical["step"] < 2100
    assert 1000 <= typical["data"] <= 1020


@pytest.mark.parametrize("groups", [1, 2, 12])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_gradient_counts_as_many_operations_as_its_convolution(kind: type[nn.Conv2d], groups: int) -> None:
    convolution = kind(12, 24, 3, stride=2, padding=1, groups=groups)
    image = torch.randn(2, 12, 9, 8, requires_grad=True)
    with operations_counter() as counter:
        output = convolution(image)
    forward = counter.get_total_flops()
    with operations_counter() as counter:
        output.sum().backward()
    assert counter.get_total_flops() == 2 * forward > 0
