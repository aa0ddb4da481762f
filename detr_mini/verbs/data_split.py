"""`detr-mini data split`: a dataset divided into train, val and test, every category in proportion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.data.splits import new_splits
from detr_mini.data.tree_parts import write_splits
from detr_mini.formats.discover import Source
from detr_mini.formats.writing import free_place


def data_split(config: Mapping[str, Any]) -> Path:
    """Write `config.data`, divided by the shares `val` and `test`, into the new folder `config.output`; the folder."""
    free_place(config["output"])
    source = Source.of(config["data"])
    source.print_notes()
    parts, together = new_splits(
        source, val=config["val"], test=config["test"], seed=config["seed"], whole=config["all"]
    )
    if together:
        print(f"{together} images stay with another one: the same image, or a frame or tile of one scene")
    for line in write_splits(config["output"], source.format, parts, config["images"]):
        print(line)
    return Path(config["output"])
