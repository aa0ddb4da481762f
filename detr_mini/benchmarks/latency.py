"""The verb `benchmark latency`: how long each form of a detector takes on this machine, side by side in one run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from detr_mini.benchmarks.forms import FORMS, WARM_UP, Form, Picture, form_of_file, forms_of
from detr_mini.benchmarks.output import show
from detr_mini.cpu_runtime import threads
from detr_mini.deploy.detector import ExportedDetector
from detr_mini.deploy.load import load
from detr_mini.drawing.plotting import legend, new_figure, panel, write
from detr_mini.errors import ConfigError, nearest
from detr_mini.evaluation.report.table import markdown
from detr_mini.inference.pixels import as_tensor
from detr_mini.progress import track

PARTS = {"network": "network alone", "whole": "picture to boxes"}


def benchmark_latency(config: DictConfig) -> Path:
    """Time the forms of `config.checkpoint` in turn; write and print the table; the folder. An exported file is a form.

    It holds latency.json, latency.md and latency.png. Times are medians and 95th percentiles in milliseconds, of the
    network alone and from a picture to boxes.
    """
    wanted = list(FORMS if config.forms is None else config.forms)
    for name in wanted:
        if name not in FORMS:
            raise ConfigError(f"form '{name}' does not exist{nearest(name, FORMS)}; the forms are {', '.join(FORMS)}")
    if config.repeats < 1 or not config.batch or min(config.batch) < 1:
        raise ConfigError(f"repeats is {config.repeats}, batch {list(config.batch)}; both must be 1 or more")
    picture = _picture(config)
    with (
        threads(config.threads or torch.get_num_threads()),
        tempfile.TemporaryDirectory(prefix="detr_mini-latency-") as folder,
    ):
        detector = load(config.checkpoint)
        if isinstance(detector, ExportedDetector) and config.forms is not None:
            raise ConfigError(
                f"forms={wanted} is for a checkpoint; {config.checkpoint} is one form already: leave it out"
            )
        if isinstance(detector, ExportedDetector):
            forms, missing = {Path(str(config.checkpoint)).name: form_of_file(detector, picture)}, list[str]()
        else:
            forms, missing = forms_of(detector, wanted, picture, Path(folder))
        rows = _measured(forms, [int(count) for count in config.batch], config.repeats)
        result = {"rows": rows, "threads": torch.get_num_threads(), "picture": list(picture.shape[:2]),
                  "size": detector.image["size"], "missing": missing}  # fmt: skip
    text = "\n".join([_markdown(rows), *missing, *_remarks(rows)])
    return show(config.output, "latency", result, text, partial(_plot, rows))


def _picture(config: DictConfig) -> Picture:
    """The picture that is timed: the user's, or one of random colours."""
    if config.picture is not None:
        return as_tensor(str(config.picture)).permute(1, 2, 0).numpy()
    height, width = config.picture_size
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width])


def _measured(forms: dict[str, Form], batches: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """A row for each form and batch. All are called in turn, so that what slows the machine slows all of them."""
    rows = []
    for count in batches:
        calls = {(name, part): getattr(form, part)(count) for name, form in forms.items() for part in Form._fields}
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        for call in (*calls.values(),) * WARM_UP:
            call()
        for _ in track(range(repeats), f"Timing batches of {count}"):
            for key, call in calls.items():
                started = time.perf_counter()
                call()
                seconds[key].append(time.perf_counter() - started)
        for name in forms:
            row: dict[str, Any] = {"form": name, "batch": count}
            for part in Form._fields:
                times = np.array(seconds[name, part]) * 1e3
                row[part] = {"median": float(np.median(times)), "p95": float(np.percentile(times, 95))}
            rows.append(row)
    return rows


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where 8 bits do not pay on this machine."""
    times = {(row["form"], row["batch"]): row["network"]["median"] for row in rows}
    return [
        f"{kind} int8 is no faster than float32 here in batches of {count}: {slow:.1f} beside {fast:.1f} ms."
        for (form, count), slow in times.items()
        if (kind := form.removesuffix(" int8")) != form and (fast := times.get((kind, count))) and slow >= fast
    ]


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["form", "batch", "network, ms", "95 %", "detect, ms", "95 %"]
    cells = [
        [row["form"], str(row["batch"]), *(f"{row[part][key]:.1f}" for part in PARTS for key in ("median", "p95"))]
        for row in rows
    ]
    return markdown(head, cells)


def _plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    batches = sorted({row["batch"] for row in rows})
    figure = new_figure(5.5 * len(batches), 0.45 * len(rows) / len(batches) + 1.5)
    for axes, count in zip(figure.subplots(1, len(batches), squeeze=False)[0], batches, strict=True):
        chosen = [row for row in rows if row["batch"] == count][::-1]
        for offset, (part, title) in zip((0.2, -0.2), PARTS.items(), strict=True):
            middle = np.array([row[part]["median"] for row in chosen])
            above = np.array([row[part]["p95"] for row in chosen]) - middle
            places = np.arange(len(chosen)) + offset
            axes.barh(places, middle, 0.36, xerr=[np.zeros_like(middle), above], label=title, ecolor="grey")
        axes.set(yticks=range(len(chosen)), yticklabels=[row["form"] for row in chosen], xlabel="ms, to the 95 %")
        panel(axes, "one picture" if count == 1 else f"{count} pictures together")
        legend(axes)
    write(figure, path)
