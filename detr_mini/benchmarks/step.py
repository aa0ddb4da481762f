"""The verb `benchmark step`: how the time of a training step divides, and how fast it is for this machine."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, repeat
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detr_mini.benchmarks.operations import OperationCounter
from detr_mini.cpu_runtime import tiny_numbers_as_zero
from detr_mini.losses import criterion as criterion_module
from detr_mini.models.protocol import DetectionModel
from detr_mini.structures import Batch
from detr_mini.training.build import Parts, build
from detr_mini.training.device import AUTOCAST
from detr_mini.training.plan import now

PARTS = {
    "backbone": ("backbone",),
    "encoder": ("encoder", "transformer.encoder", "top_down"),
    "decoder": ("decoder", "transformer.decoder"),
    "words": ("text", "connectives"),
    "queries and words": ("joint",),
}
"""Rows of the table, and the submodules whose forward pass they time, for any model."""


class Stopwatch:
    """Seconds by name, for each step. On a GPU it waits for the device, so a timed step is longer than a free one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.step: dict[str, float] = defaultdict(float)
        self.steps: list[dict[str, float]] = []

    def now(self) -> float:
        """The time in seconds, once the device has finished its work."""
        return now(self.device)

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Count the time inside as `name`."""
        started = self.now()
        yield
        self.step[name] += self.now() - started

    def next_step(self) -> None:
        """Start a new step."""
        self.steps.append(dict(self.step))
        self.step.clear()

    def typical(self) -> dict[str, float]:
        """Milliseconds of each name: the mean over the middle half of the steps, ordered by their total time.

        It is as robust as a median but keeps sums: a whole is never less than its parts.
        """
        by_length = sorted(self.steps, key=lambda step: step["step"])
        middle = by_length[len(by_length) // 4 : len(by_length) - len(by_length) // 4]
        names = dict.fromkeys(name for step in self.steps for name in step)
        return {n: statistics.fmean(step.get(n, 0.0) for step in middle) * 1e3 for n in names}


def benchmark_step(config: DictConfig) -> dict[str, Any]:
    """Time `config.steps` steps of the training that `config` describes; print and return the table.

    Images have their full size from the first step on, also where they grow during the training.
    Milliseconds are means over the middle half of the steps. `gflops` is the rate of the step's floating-point
    operations (matrix products and convolutions, counted by torch); `matrix_gflops` is the rate of one large matrix
    product on the same threads, in the training's precision. `operations`, `bytes`: see `OperationCounter`.
    """
    parts = build(config)
    parts.data.follow(lambda: 0.0, lambda batches: 1.0)
    device = torch.device(parts.options.device_type)
    parts.task.model.to(device).train()
    kind = parts.used.precision
    dtype = AUTOCAST.get(kind, torch.float32)
    watch = Stopwatch(device)
    run = _stepper(parts, watch, device, dtype)
    with tiny_numbers_as_zero(), _timed(parts.task.model, watch):
        for _ in range(config.warmup):
            run(nullcontext())
        watch.steps.clear()
        for _ in range(config.steps):
            run(nullcontext())
    counter, operations = operations_counter(), OperationCounter()
    run(counter)
    run(operations)
    typical = watch.typical()
    whole = typical.pop("step")
    table = _table(typical, whole)
    flops, matrix_rate = counter.get_total_flops(), _matrix_rate(config.matrix, dtype, watch)
    result = {
        "milliseconds": table, "step": whole, "images_per_second": parts.data.batch_size / whole * 1e3,
        "gflops": flops / whole * 1e-6, "matrix_gflops": matrix_rate, "threads": torch.get_num_threads(),
        "precision": kind, "operations": operations.total, "flops": flops, "bytes": operations.bytes,
    }  # fmt: skip
    _print(result)
    return result


def operations_counter() -> FlopCounterMode:
    """torch's counter, corrected for grouped convolutions: it counts their gradients as if they were not grouped."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _of_gradients})


def _of_gradients(gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], *settings: Any, **_: Any) -> int:
    """Each of the two gradients multiplies as often as the convolution did. The counter passes shapes, not tensors."""
    transposed, wanted = settings[-4], settings[-1]
    places = math.prod((x if transposed else gradient)[2:])
    return 2 * gradient[0] * places * math.prod(weight) * sum(wanted[:2])


def _stepper(
    parts: Parts, watch: Stopwatch, device: torch.device, dtype: torch.dtype
) -> Callable[[AbstractContextManager[Any]], None]:
    task = parts.task
    optimizer = task.make_optimizer(task.model)
    batches: Iterator[Batch] = chain.from_iterable(map(iter, repeat(parts.data.train_dataloader())))
    count = iter(range(1_000_000))

    def run(around: AbstractContextManager[Any]) -> None:
        with watch.measuring("step"):
            with watch.measuring("data"):
                batch = next(batches).to(device)
            with around:
                compute(batch)
        watch.next_step()

    def compute(batch: Batch) -> None:
        with watch.measuring("denoising queries"):
            step = next(count)
            noise = task.model.noised_truths(batch.packed, batch.image_ids, seed=0, step=step)
        with watch.measuring("forward"), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = task.model(batch.images, batch.mask(), denoising=noise, **batch.with_captions)
        with watch.measuring("loss"):
            losses = task.criterion(output, batch.packed, 0.0, **batch.with_captions)
            loss = losses.total / max(losses.boxes, 1)
        with watch.measuring("backward"):
            loss.backward()
        with watch.measuring("optimizer"):
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), task.clip, foreach=True)
            optimizer.step()
            optimizer.zero_grad()
        with watch.measuring("averaging"):
            task.averaged.update()

    task.averaged.to(device)
    return run


@contextmanager
def _timed(model: DetectionModel, watch: Stopwatch) -> Iterator[None]:
    """Time the model's parts with hooks, and the matching inside the losses."""
    handles, started = [], {}
    modules = dict(model.named_modules())
    for row, names in PARTS.items():
        for name in (n for n in names if n in modules):
            module = modules[name]
            for layer in module if isinstance(module, nn.ModuleList) else [module]:

                def before(m: nn.Module, _: Any) -> None:
                    started[m] = watch.now()

                def after(m: nn.Module, _: Any, __: Any, row: str = row) -> None:
                    watch.step[row] += watch.now() - started[m]

                handles += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    originals = {name: getattr(criterion_module, name) for name in ("assign", "matching_cost")}

    def timing(function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with watch.measuring("matching"):
                return function(*args, **kwargs)

        return timed

    for name, function in originals.items():
        setattr(criterion_module, name, timing(function))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, function in originals.items():
            setattr(criterion_module, name, function)


def _table(typical: dict[str, float], whole: float) -> dict[str, float]:
    matching = typical.get("matching", 0.0)  # a peer's is inside its library's loss
    rest = typical["forward"] - sum(typical.get(name, 0.0) for name in PARTS)
    rows = {"data": typical["data"], "denoising queries": typical["denoising queries"]}
    rows |= {name: typical[name] for name in PARTS if name in typical}
    rows |= {"rest of the model": rest, "matching": matching, "loss": typical["loss"] - matching}
    rows |= {name: typical[name] for name in ("backward", "optimizer", "averaging")}
    return rows | {"between": whole - sum(rows.values())}


def _matrix_rate(side: int, dtype: torch.dtype, watch: Stopwatch) -> float:
    a, b = (torch.randn(side, side, device=watch.device).to(dtype) for _ in range(2))
    times = []
    for _ in range(10):
        started = watch.now()
        a @ b
        times.append(watch.now() - started)
    return 2 * side**3 / statistics.median(times) * 1e-9


def _print(result: dict[str, Any]) -> None:
    view = Table("part of a step", "ms", "share")
    for column in view.columns[1:]:
        column.justify = "right"
    for name, milliseconds in result["milliseconds"].items():
        view.add_row(name, f"{milliseconds:.1f}", f"{milliseconds / result['step']:.0%}")
    view.add_row("step", f"{result['step']:.1f}", "", style="bold")
    console = Console()
    console.print(view)
    console.print(
        f"{result['images_per_second']:.0f} images a second; {result['gflops']:.0f} GFLOP/s in the step, "
        f"{result['matrix_gflops']:.0f} GFLOP/s in a large matrix product ({result['precision']}, "
        f"{result['threads']} threads); {result['operations']:,} operations in the step, which read and write "
        f"{result['bytes'] / 1e9:.2f} GB"
    )
    console.print(json.dumps({k: v for k, v in result.items() if k != "milliseconds"}), soft_wrap=True)
