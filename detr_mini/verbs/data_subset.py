"""`detr-mini data subset`: a part of a dataset, chosen by categories, ids, count or share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.data.choice import Choice
from detr_mini.data.tree_parts import subset_of_splits, write_splits
from detr_mini.formats.discover import Source
from detr_mini.formats.writing import free_place


def data_subset(config: Mapping[str, Any]) -> Path:
    """Write the chosen part of `config.data` into the new folder `config.output`; the folder."""
    free_place(config["output"])
    source = Source.of(config["data"])
    source.print_notes()
    choice = Choice.of({key: config[key] for key in ("categories", "ids", "count", "share", "seed")})
    parts = subset_of_splits(source, choice, config["splits"])
    for line in write_splits(config["output"], source.format, parts, config["images"]):
        print(line)
    return Path(config["output"])
