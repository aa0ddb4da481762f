"""`detr-mini data convert`: a dataset in another annotation format, with the same boxes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.formats.convert import convert
from detr_mini.formats.discover import Source


def data_convert(config: Mapping[str, Any]) -> Path:
    """Write `config.data` in the format `config.to` into the new folder `config.output`; the folder."""
    source, output = Source.of(config["data"]), Path(config["output"])
    source.print_notes()
    for note in convert(source, output, config["to"], images=config["images"]):
        print(note)
    print(f"{output} ({config['to']}) holds the splits {', '.join(source.splits)} of {source.root} ({source.format})")
    return output
