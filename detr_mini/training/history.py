"""history.csv: one row for each logged step and each evaluation."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.config.run_folder import whole

LOSSES = ("class", "l1", "giou")
"""Parts of the loss, one column each."""
CAPTION_LOSSES = ("tokens", "tags", "attributes")
"""Further parts, for data with captions."""
LOGGED = (*LOSSES, *CAPTION_LOSSES)
SHOWN = ("AP", "AP50", "AP75", "grounding/accuracy", "grounding/top1", "grounding/absent_rejected")
"""Metrics of a validation."""
COLUMNS = (
    "step", "epoch", "seconds", "lr",
    "train/loss", *(f"train/loss_{part}" for part in LOGGED),
    "images_per_second", "val/loss", *(f"val/{name}" for name in SHOWN),
)  # fmt: skip


class History:
    """Rows are appended and flushed. Fields that a row does not have stay empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, step: int) -> None:
        """Start the file, or keep the rows of an earlier one up to `step`: later steps are trained again."""
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        with whole(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def rows(self) -> list[dict[str, str]]:
        """All complete rows, as text."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as stream:
            lines = [line for line in stream if line.endswith("\n")]  # a killed process may leave half a row
        return [row for row in csv.DictReader(lines) if all(value is not None for value in row.values())]

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, COLUMNS).writerow({name: _text(row[name]) for name in row})


def _text(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
