"""The forms of a detector beside an earlier version of this package and beside files of another detector, in one run.

    python docs/latency_beside.py CHECKPOINT PHOTOGRAPH [before=CHECKOUT,CHECKPOINT] [other=FILE.onnx,HEIGHT,WIDTH ...]

CHECKOUT is a working tree of the earlier commit, CHECKPOINT one that it wrote. It computes in a process of its own and
sleeps while the others are timed. FILE takes floats of (1, 3, HEIGHT, WIDTH) and is timed in ONNX Runtime and OpenVINO,
with whatever selection and suppression it holds. All forms are called in turn, 100 times.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

from detr_mini.benchmarks.forms import FORMS, WARM_UP, forms_of
from detr_mini.deploy.load import load
from detr_mini.deploy.runtimes import open_onnx, open_openvino
from detr_mini.evaluation.report.table import markdown
from detr_mini.inference.pixels import as_tensor

TURNS = 100
BEFORE = """
import sys, time, torch
from detr_mini.inference.detector import load
detector = load(sys.argv[1])
model, batch = detector.model.eval(), next(detector.batches([sys.argv[2]], 1))
def network():
    with torch.no_grad():
        model(batch.images, batch.mask())
calls = {"network": network, "file": lambda: detector.detect(sys.argv[2])}
for line in sys.stdin:
    started = time.perf_counter()
    calls[line.strip()]()
    print(time.perf_counter() - started, flush=True)
"""
Timed = Callable[[], float]
"""Seconds of one call."""


def main(checkpoint: str, photograph: str, settings: Mapping[str, list[str]]) -> None:
    """Print a table."""
    detector = load(checkpoint)
    picture = as_tensor(photograph).permute(1, 2, 0).contiguous().numpy()
    with tempfile.TemporaryDirectory() as folder:
        forms, missing = forms_of(detector, FORMS, picture, Path(folder))
        calls = {(name, "network"): timed(form.network(1)) for name, form in forms.items()}
        calls |= {(name, "pixels to boxes"): timed(form.whole(1)) for name, form in forms.items()}
        calls["torch", "file to boxes"] = timed(lambda: detector.detect(photograph))
        for value in settings.get("before", []):
            checkout, written = value.split(",")
            calls |= before(Path(checkout), Path(written), Path(photograph))
        for value in settings.get("other", []):
            file, height, width = value.split(",")
            calls |= other(Path(file), int(height), int(width))
        seconds = {key: [call() for _ in range(WARM_UP)] for key, call in calls.items()}
        for _ in range(TURNS):
            for key, call in calls.items():
                seconds[key].append(call())
    rows = [
        [form, part, *(f"{1e3 * np.percentile(times[WARM_UP:], q):.1f}" for q in (50, 95))]
        for (form, part), times in seconds.items()
    ]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", *missing, sep="\n")
    print(markdown(["form", "part", "median, ms", "95 %, ms"], rows))


def timed(call: Callable[[], object]) -> Timed:
    """`call` as a function that says how long it took."""

    def run() -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    return run


def before(checkout: Path, checkpoint: Path, photograph: Path) -> dict[tuple[str, str], Timed]:
    """Both parts of the earlier version."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEFORE, str(checkpoint.resolve()), str(photograph.resolve())],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(part: str) -> float:
        assert process.stdin
        assert process.stdout
        print(part, file=process.stdin, flush=True)
        return float(process.stdout.readline())

    name = f"torch, {checkout.name}"
    return {(name, "network"): lambda: ask("network"), (name, "file to boxes"): lambda: ask("file")}


def other(file: Path, height: int, width: int) -> dict[tuple[str, str], Timed]:
    """A file in both runtimes, opened as ours are."""
    image = np.random.default_rng(0).random((1, 3, height, width), np.float32)
    model = onnx.load(file).graph
    inputs, outputs = {model.input[0].name: image}, [each.name for each in model.output]
    opened = {
        "onnx": open_onnx(file),
        "openvino": open_openvino(file, alike=WARM_UP),
        "openvino bf16": open_openvino(file, bfloat16=True, alike=WARM_UP),
    }
    return {
        (f"{name}, {file.stem}", "network"): timed(partial(each.compute, inputs, outputs))
        for name, each in opened.items()
    }


if __name__ == "__main__":
    said: dict[str, list[str]] = {}
    for word in sys.argv[3:]:
        key, _, value = word.partition("=")
        said.setdefault(key, []).append(value)
    main(sys.argv[1], sys.argv[2], said)
