"""Counts the files of the package that one needs to read to follow two things from end to end.

`detr-mini predict` of one picture, and one training step after the first: a file counts if a function in it is entered.

python docs/count_files.py
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

import detr_mini
from detr_mini.cli import main
from detr_mini.training.task import DetectionTask

PACKAGE = Path(detr_mini.__file__).parent
TINY = ("model.dim=32", "model.heads=2", "model.feedforward=32", "model.queries=8", "model.sample_channels=8",
        "backbone.channels=[4,8,16,32]", "backbone.blocks=[0,1,1,1]")  # fmt: skip


@contextmanager
def entered(files: dict[str, list[str]]) -> Iterator[None]:
    """Collect in `files` the functions that are entered inside, by file, both in order of their first call."""

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if ours(frame) and not importing(frame):
            names = files.setdefault(Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix(), [])
            if frame.f_code.co_name not in names:
                names.append(frame.f_code.co_name)

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


def ours(frame: FrameType) -> bool:
    return Path(frame.f_code.co_filename).is_relative_to(PACKAGE)


def importing(frame: FrameType | None) -> bool:
    """Whether this is a module's or a class's own code, or called from there."""
    while frame is not None:
        if ours(frame) and not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            return True
        frame = frame.f_back
    return False


class StepWatch(pl.Callback):
    """Watches the second training step, from the moment that its batch is there until the weights are updated."""

    def __init__(self, files: dict[str, list[str]]) -> None:
        self.watching = entered(files)

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, index: int) -> None:
        if index == 1:
            self.watching.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, out: Any, batch: Any, i: int) -> None:
        if i == 1:
            self.watching.__exit__(None, None, None)


def count(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The files of a prediction and of a training step, with the functions that are entered."""
    predicting: dict[str, list[str]] = {}
    stepping: dict[str, list[str]] = {}
    data, run = folder / "shapes", folder / "run"
    assert main(["data", "shapes", f"root={data}", "train=16", "val=4", "test=1", "size=64"]) == 0
    watch = StepWatch(stepping)
    configured = DetectionTask.configure_callbacks
    DetectionTask.configure_callbacks = lambda self: [watch]  # type: ignore[method-assign]
    try:
        words = ["experiment=shapes", f"data.root={data}", "data.make=null", "data.workers=0", "data.batch_size=4"]
        length = ["trainer.max_steps=2", "trainer.max_epochs=null", "trainer.progress=false", f"run_folder={run}"]
        assert main(["train", *words, *length, *TINY]) == 0
    finally:
        DetectionTask.configure_callbacks = configured  # type: ignore[method-assign]
    picture = next((data / "test").iterdir())
    with entered(predicting):
        assert main(["predict", f"checkpoint={run}", f"source={picture}", f"output={folder / 'found'}"]) == 0
    return predicting, stepping


def show(title: str, files: Mapping[str, list[str]]) -> None:
    print(f"\n{title}: {len(files)} files")
    for path, names in files.items():
        print(f"  {path}: {', '.join(names)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        prediction, step = count(Path(folder))
    show("detr-mini predict of one picture", prediction)
    show("one training step", step)
