"""`detr-mini data refer`: captions made from the boxes of a dataset, to train a detector that reads captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from detr_mini.captions.caption_folder import boxes_of_split, counts_table, write_captions
from detr_mini.captions.from_boxes import checked_kinds, words_for
from detr_mini.captions.from_boxes_files import referred
from detr_mini.config.plain import plain_dict
from detr_mini.errors import ConfigError


def data_refer(config: DictConfig) -> Path:
    """Make captions of the boxes of a split, and write them to `config.output`; the folder."""
    root, output = Path(config.root).expanduser(), Path(config.output).expanduser()
    coco = boxes_of_split(root, config.split, config.boxes, config.format)
    given = plain_dict(config)
    words = words_for(coco.categories.names, _section("names", given["names"]), given["complete"])
    weights = checked_kinds(_section("kinds", given["kinds"]))
    content = referred(coco, words, each=config.each, weights=weights, seed=config.seed)
    written = write_captions(output, content, coco, "Captions made from boxes", config.pictures, config.seed)
    kinds = content["info"]["kinds"].items()
    rows = {"captions": len(content["images"]), **{f"  {kind}": count for kind, count in kinds}}
    console = Console()
    console.print(counts_table("Captions made from boxes", rows))
    console.print(f"wrote {written}")
    return output


def _section(key: str, value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{key} is {value!r}; it must be a section, for example {key}={{...: ...}}")
    return value
