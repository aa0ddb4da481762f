"""`detr-mini data stats`: counts, sizes and shapes of a dataset, as tables, JSON and one picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from detr_mini.config.run_folder import write_text
from detr_mini.data.statistics import plain, split_stats, tables
from detr_mini.drawing.statistics import statistics
from detr_mini.formats.columns import columns_of
from detr_mini.formats.convert import check_sizes
from detr_mini.formats.discover import Source


def data_stats(config: Mapping[str, Any]) -> Path:
    """Print the tables of `config.data`, write stats.json and stats.png into `config.output`; the folder."""
    source = Source.of(config["data"], shards=True)
    source.print_notes()
    found = {}
    for name, tree in source.trees().items():
        columns_of(tree.content, tree.path)
        check_sizes(name, tree)
        found[name] = split_stats(tree)
    output = Path(config["output"] or Path("outputs") / "stats" / source.root.resolve().name).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "stats.json", json.dumps(plain(found), indent=1, ensure_ascii=False))
    statistics(found, output / "stats.png", str(source.root.resolve().name))
    for table in tables(found):
        Console().print(table)
    print(f"written to {output}: stats.json, stats.png")
    return output
