"""What the report says of one run, read from its folder part by part; a part that is missing says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from detr_mini.config.plain import plain_dict
from detr_mini.config.run_config import read_config
from detr_mini.drawing.curves import read_history
from detr_mini.errors import UserError, first_line
from detr_mini.pages.charts import Chart, line_chart
from detr_mini.pretrained.packaged import boxed
from detr_mini.structures import Categories, Detections

LARGEST_JSON = 400_000_000
"""Bytes of a JSON file of a run; detections of a large split are the largest."""
T = TypeVar("T")


@dataclass(frozen=True)
class Part(Generic[T]):
    """A section of a report: its content, or why there is none."""

    content: T | None = None
    missing: str = ""


def part(read: Callable[[], T]) -> Part[T]:
    """What `read` gives. A file that is absent or broken makes its own section say so, and no other."""
    try:
        return Part(read())
    except UserError as error:
        return Part(missing=str(error))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return Part(missing=f"this part of the run cannot be read ({type(error).__name__}: {first_line(error)})")


@dataclass(frozen=True)
class RunFolder:
    """The folder of a training or of an evaluation."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> RunFolder:
        """The run in `folder`. UserError where it holds none."""
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder} is no run folder (it has no config.yaml); give the folder of a training or an "
                            "evaluation, or a folder that contains runs")  # fmt: skip
        return cls(folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its settings, plain values."""
        config: dict[str, Any] = plain_dict(read_config(self.folder / "config.yaml"))
        return config

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json. UserError where the run was not measured."""
        return _mapping(self.json("metrics.json", "the run was not measured: it has no metrics.json. Let it finish "
                                  "(train resume=RUN), or measure it with evaluate"))  # fmt: skip

    @property
    def measured(self) -> Part[dict[str, Any]]:
        """Its metrics, or why there are none."""
        return part(lambda: self.metrics)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Its detections as COCO results records."""
        found: list[dict[str, Any]] = self.json("predictions.json", "the run has no predictions.json; evaluate it")
        return found

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.folder.resolve().name

    @property
    def is_training(self) -> bool:
        """Whether it is a training, and not an evaluation of a checkpoint."""
        return "trainer" in self.config

    def json(self, name: str, absent: str) -> Any:
        """The content of a JSON file; UserError with `absent` where there is none."""
        file = self.folder / name
        if not file.is_file():
            raise UserError(absent)
        if file.stat().st_size > LARGEST_JSON:
            raise UserError(f"{name} has {file.stat().st_size:,} bytes, more than a run writes")
        try:
            return json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name} is not valid JSON and may be cut off ({first_line(error)})") from error

    def data_report(self) -> dict[str, Any]:
        """What was read of each split, the notices, and the settings that the data chose."""
        return _mapping(self.json("data_report.json", "the run has no data_report.json; a training writes it"))

    def curves(self) -> list[Chart]:
        """Loss, AP on val and learning rate over the steps."""
        file = self.folder / "history.csv"
        if not file.is_file():
            raise UserError("the run has no history.csv; a training writes it")
        series = read_history(file)
        parts = {name: line for name, line in series.items() if "loss" in name}
        quality = {name: line for name, line in series.items() if name in ("val/AP", "val/AP50", "val/AP75")}
        charts = [
            line_chart("Loss", parts, "step", log=True),
            line_chart("AP on val", quality, "step", top=1.0),
            line_chart("Learning rate", {n: s for n, s in series.items() if n == "lr"}, "step"),
        ]
        drawn = [chart for chart in charts if chart is not None]
        if not drawn:
            raise UserError("history.csv has no rows yet")
        return drawn

    @property
    def checkpoint(self) -> Path:
        """The checkpoint, or the one that was evaluated. UserError where there is none."""
        if any((self.folder / name).is_file() for name in ("best.ckpt", "last.ckpt")):
            return self.folder
        named = self.config.get("checkpoint")
        if not named:
            raise UserError("there is no checkpoint in the run folder (best.ckpt or last.ckpt)")
        given = Path(named).expanduser()
        found = given if given.exists() else boxed(named)
        if found is None:
            raise UserError(f"the checkpoint that was evaluated, {named}, is not there; run report in the folder where "
                            "evaluate was run, or put it back")  # fmt: skip
        return found


def detections_by_image(
    records: list[dict[str, Any]], categories: Categories, sizes: Mapping[int, tuple[int, int]]
) -> dict[int, Detections]:
    """COCO records as Detections, best first, by image id; records of other images and categories are left out."""
    label = {category_id: k for k, category_id in enumerate(categories.ids)}
    of: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in sizes}
    for record in records:
        if record["image_id"] in of and record["category_id"] in label:
            of[record["image_id"]].append(record)
    found = {}
    for image_id, own in of.items():
        own.sort(key=lambda record: -record["score"])
        boxes = torch.tensor([r["bbox"] for r in own], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([r["score"] for r in own], dtype=torch.float32)
        labels = torch.tensor([label[r["category_id"]] for r in own], dtype=torch.long)
        found[image_id] = Detections(boxes, scores, labels, categories, image_size=sizes[image_id])
    return found


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError("its JSON file does not hold names and values")
    return content
