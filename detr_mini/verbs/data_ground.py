"""`detr-mini data ground`: links the nouns of captions to boxes, and writes captions in MDETR's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from detr_mini.captions.caption_folder import (
    boxes_of_captions,
    boxes_of_split,
    checked_captions,
    counts_table,
    is_grounded,
    nouns_for,
    write_captions,
)
from detr_mini.captions.noun_grounding import grounded, read_sentences

TITLE = "Nouns of captions and the boxes that they are linked to"


def data_ground(config: DictConfig) -> Path:
    """Link the captions `config.captions` to the boxes of a split, and write them to `config.output`; the folder.

    Captions that have spans and boxes already (MDETR's format) are checked, and those of the images are written again.
    """
    root, output = Path(config.root).expanduser(), Path(config.output).expanduser()
    captions = root / config.captions
    if is_grounded(captions):
        if config.boxes is not None and "annotations" in config.boxes:
            coco = boxes_of_split(root, config.split, config.boxes, config.format)
        else:
            coco = boxes_of_captions(captions, root / ((config.boxes or {}).get("images") or "."), output)
        content = checked_captions(captions, coco)
        rows = {"captions": len(content["images"]), "boxes they refer to": len(content["annotations"])}
        rows |= content["info"]["left_out"]
    else:
        coco = boxes_of_split(root, config.split, config.boxes, config.format)
        nouns = nouns_for(config.nouns, coco.categories.names)
        content = grounded(read_sentences(captions), coco, nouns)
        rows = _linked(content["info"])
    written = write_captions(output, content, coco, TITLE, config.pictures, config.seed)
    console = Console()
    console.print(counts_table("Captions linked to boxes", rows))
    console.print(f"wrote {written}")
    return output


def _linked(info: Mapping[str, Any]) -> dict[str, int]:
    rows = {"captions read": info["captions"], "written": info["written"], "  with every noun linked": info["whole"]}
    if info["without_picture"]:
        rows["captions of missing images"] = info["without_picture"]
    rows["nouns linked"] = info["phrases"]
    rows["nouns left out"] = sum(info["left_out"].values())
    return rows | {f"  {reason}": count for reason, count in info["left_out"].items()}
