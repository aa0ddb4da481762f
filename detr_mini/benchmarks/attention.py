"""The verb `benchmark attention`: time and peak memory of each kind against the size of the set, with exponents."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from detr_mini.attention.core import attend_plain
from detr_mini.attention.deformable import sample_levels
from detr_mini.attention.efficient import chunked
from detr_mini.attention.kinds import KINDS, attention_named, settings_of
from detr_mini.benchmarks.output import show
from detr_mini.cpu_runtime import keep_freed_memory
from detr_mini.drawing.plotting import new_figure, write
from detr_mini.errors import ConfigError, nearest
from detr_mini.evaluation.report.table import markdown
from detr_mini.inference.detector import usable_device
from detr_mini.progress import track

Kind = Callable[[Tensor, Tensor, Tensor], Tensor]
Rows = dict[str, list[dict[str, int | float]]]


def benchmark_attention(config: DictConfig) -> Path:
    """Measure each of `config.kinds` (null: all) at each of `config.sizes`; write and print a table; return its folder.

    A row is one call on (1, heads, n, width): the median time, and the peak memory in bytes beyond the inputs. The
    exponent is the slope of log time (or bytes) over log n, fitted to the larger half of the sizes.
    """
    device = usable_device(config.device)
    makers = _makers(config, device)
    kinds = [*makers] if config.kinds is None else [*config.kinds]
    for kind in kinds:
        if kind not in makers:
            raise ConfigError(
                f"attention '{kind}' does not exist{nearest(kind, makers)}; the kinds are {', '.join(makers)}"
            )
    if len(config.sizes) < 2 or min(config.sizes) < 1 or list(config.sizes) != sorted(set(config.sizes)):
        raise ConfigError(f"sizes is {list(config.sizes)}; give two or more numbers in rising order")
    keep_freed_memory()
    rows: Rows = {kind: [] for kind in kinds}
    jobs = [(kind, n) for n in config.sizes for kind in kinds]
    for kind, n in track(jobs, "measuring"):
        torch.manual_seed(config.seed)
        inputs = [torch.randn(1, config.heads, n, config.width, device=device) for _ in range(3)]
        rows[kind].append({"n": n, **_measure(makers[kind](n), inputs, config)})
    slopes = {kind: exponents(measured) for kind, measured in rows.items()}
    result = {
        "rows": rows,
        "exponents": slopes,
        "threads": torch.get_num_threads(),
        "backward": bool(config.backward),
    }
    return show(config.output, "cost", result, _markdown(rows, slopes), partial(_plot, rows))


def exponents(measured: Sequence[Mapping[str, int | float]]) -> dict[str, float]:
    """Slopes of log milliseconds and log bytes over log n: least squares, larger half of the sizes, two at least."""
    upper = measured[-max(2, (len(measured) + 1) // 2) :]
    x = torch.tensor([row["n"] for row in upper], dtype=torch.float64).log()
    slopes = {}
    for name in ("ms", "bytes"):
        y = torch.tensor([max(row[name], 1e-6) for row in upper], dtype=torch.float64).log()
        slopes[name] = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return slopes


def _makers(config: DictConfig, device: torch.device) -> dict[str, Callable[[int], Kind]]:
    def named(kind: str, n: int) -> Kind:
        settings = {name: config[name] for name in settings_of(kind) if name in config and name != "size"}
        column: dict[str, Any] = {"size": (n, 1)} if "size" in settings_of(kind) else {}  # the elements as a map
        module = attention_named(kind, dim=config.heads * config.width, heads=config.heads, **settings, **column)
        return partial(module.to(device).eval(), **column)

    def deformable(n: int) -> Kind:
        height = next(side for side in range(math.isqrt(n), 0, -1) if n % side == 0)

        def call(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            places = key[..., : 2 * config.points].sigmoid().transpose(1, 2).unflatten(-1, (1, config.points, 2))
            weights = query[..., : config.points].softmax(-1).transpose(1, 2).unsqueeze(3)
            return sample_levels([value.transpose(2, 3).unflatten(3, (height, -1))], places, weights)

        return call

    return {
        "plain": lambda n: attend_plain,
        **{kind: partial(named, kind) for kind in KINDS},
        "chunked": lambda n: chunked,
        "deformable": deformable,
    }


def _measure(kind: Kind, inputs: Sequence[Tensor], config: DictConfig) -> dict[str, float]:
    def call() -> None:
        if config.backward:
            kind(*(x.detach().requires_grad_() for x in inputs)).square().sum().backward()
        else:
            with torch.no_grad():
                kind(*inputs)

    cuda = inputs[0].is_cuda
    call()
    times = []
    for _ in range(config.repeats):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return {"ms": statistics.median(times) * 1e3, "bytes": float(_peak_cuda(call) if cuda else peak_bytes(call))}


def peak_bytes(call: Callable[[], None]) -> int:
    """Peak CPU memory in bytes that torch allocates during `call`."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler prints two lines per call
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    alive = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most


def _peak_cuda(call: Callable[[], None]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def _markdown(rows: Rows, slopes: Mapping[str, Mapping[str, float]]) -> str:
    sizes = [int(row["n"]) for row in next(iter(rows.values()))]
    tables = []
    for name, title, scale in (("ms", "milliseconds", 1.0), ("bytes", "MiB at most", 2.0**20)):
        cells = [
            [kind, *(_short(row[name] / scale) for row in measured), f"{slopes[kind][name]:.2f}"]
            for kind, measured in rows.items()
        ]
        tables.append(markdown([title, *(f"n = {n:,}" for n in sizes), "exponent"], cells))
    return "\n".join(tables)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plot(rows: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    figure = new_figure(12, 4.6)
    for axes, name, title in zip(
        figure.subplots(1, 2), ("ms", "bytes"), ("milliseconds", "bytes at most"), strict=True
    ):
        for kind, measured in rows.items():
            axes.plot([row["n"] for row in measured], [row[name] for row in measured], marker="o", ms=3.5, label=kind)
        axes.set(xscale="log", yscale="log", xlabel="elements of the set", title=title)
        axes.grid(True, which="both", alpha=0.2)
        axes.legend(fontsize=8)
    write(figure, path)
