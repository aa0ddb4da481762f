"""What `data ground` and `data refer` read and write: the boxes of a split, and a folder of captions about them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table
from yaml import YAMLError

from detr_mini.boxes import xywh_to_xyxy
from detr_mini.captions.captions_of_split import objects_of, read_captions
from detr_mini.captions.mdetr_format import caption_records, instances_of, write_json
from detr_mini.captions.nouns import COCO, Nouns, check_categories
from detr_mini.drawing.caption_cards import CaptionCard, draw_captions
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.columns import any_json, read_json
from detr_mini.formats.discover import find_layout
from detr_mini.formats.load import read_split
from detr_mini.formats.split import CocoSet
from detr_mini.phrases import Caption


def boxes_of_split(root: Path, split: str, boxes: Mapping[str, Any] | None, format: str = "auto") -> CocoSet:
    """Images and boxes of a split below `root`: where `boxes` says, else where they are detected.

    DataError where there is no such split, or it cannot be read.
    """
    if boxes is not None:
        return read_split(root, dict(boxes), split, format="coco" if format == "auto" else format, on_missing="skip")
    layout = find_layout(root)
    if split not in layout.splits:
        raise DataError(f"{root} has no split {split} (it has: {', '.join(layout.splits)}); "
                        "choose one with split=..., or say where it is with boxes={...}")  # fmt: skip
    return read_split(root, dict(layout.splits[split]), split, format=layout.format, on_missing="skip")


def is_grounded(captions: Path) -> bool:
    """Whether a file holds captions in MDETR's format, whose phrases have boxes already."""
    content = any_json(captions) if captions.is_file() else None
    images = content.get("images") if isinstance(content, dict) else None
    return isinstance(images, list) and any(isinstance(i, dict) and "caption" in i for i in images)


def boxes_of_captions(captions: Path, images: Path, output: Path) -> CocoSet:
    """The boxes that a grounded file holds itself; they are written to instances.json in the folder `output`."""
    write_json(output / "instances.json", instances_of(read_json(captions), captions))
    return read_coco(output / "instances.json", images, split="captions", on_missing="skip")


def checked_captions(captions: Path, coco: CocoSet) -> dict[str, Any]:
    """A grounded file's captions of the images in `coco`, every span and box checked, in MDETR's format.

    `info` counts what is `left_out`, see `read_captions`. DataError for a fault, and where no image has a caption.
    """
    left_out = Counter[str]()
    found = read_captions(captions, coco, left_out)
    images = [(own.record, own.annotations, found[own.record["id"]]) for own in objects_of(coco)]
    return {"info": {"left_out": dict(left_out)}, "categories": coco.categories.records(), **caption_records(images)}


def nouns_for(setting: Any, categories: Sequence[str]) -> Nouns:
    """The nouns of each category: `setting` is "coco", the path of a YAML file, or the table itself.

    ConfigError where it is none of these, or the table names an unknown category.
    """
    if setting == "coco":
        return Nouns(COCO, categories)
    if isinstance(setting, str):
        path = Path(setting).expanduser()
        if not path.is_file():
            raise ConfigError(f"nouns={setting} does not exist; give 'coco', a YAML file, or {{category: [noun, ...]}}")
        try:
            setting = OmegaConf.load(path)
        except (YAMLError, OmegaConfBaseException, OSError) as error:
            raise ConfigError(f"{path} is not a YAML file of nouns ({str(error).splitlines()[0]}); "
                              "write lines like 'dog: [dog, ~puppy]'") from error  # fmt: skip
    plain = OmegaConf.to_container(setting) if OmegaConf.is_config(setting) else setting
    if not isinstance(plain, dict):
        raise ConfigError(f"nouns is {plain!r}; give 'coco', a YAML file, or {{category: [noun, ...]}}")
    table: dict[str, Any] = {str(category): nouns for category, nouns in plain.items()}
    check_categories("nouns", filter(None, table), categories)
    return Nouns(table, categories)


def write_captions(output: Path, content: Mapping[str, Any], coco: CocoSet, title: str, count: int, seed: int) -> str:
    """Write captions.json, instances.json and captions.png into `output`; their names, for a message.

    captions.png shows one caption of at most `count` images, the kinds of captions in turn. It is drawn from the file
    as it is read back.
    """
    write_json(output / "instances.json", coco.truth)
    write_json(output / "captions.json", content)
    found = read_captions(output / "captions.json", coco)
    rng, chosen, kinds = random.Random(seed), list[tuple[int, Caption]](), dict[str, int]()
    for index in rng.sample(range(len(coco)), len(coco)):
        own = found[coco.records[index].image_id]
        if not own or len(chosen) >= count:
            continue
        caption = min(rng.sample(own, len(own)), key=lambda c: kinds.get(c.kind, 0))
        kinds[caption.kind] = kinds.get(caption.kind, 0) + 1
        chosen.append((index, caption))
    if chosen:
        draw_captions((_card(coco, *one) for one in chosen), output / "captions.png", title)
    return f"{output / 'captions.json'}, instances.json" + (", captions.png" if chosen else "")


def counts_table(title: str, rows: Mapping[str, int]) -> Table:
    """Counts by name, for the terminal."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    return table


def _card(coco: CocoSet, index: int, caption: Caption) -> CaptionCard:
    record = coco.records[index]
    begin, end = int(coco.first[index]), int(coco.first[index + 1])
    own = coco.boxes_xywh[begin:end][~coco.is_crowd[begin:end]]
    return CaptionCard(record.pixels(), xywh_to_xyxy(own).to(torch.float32), caption, record.file_name)
