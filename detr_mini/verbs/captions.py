"""The verbs `data scene`, `data ground` and `data refer`: captions, as files and as pictures to judge by."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from rich.console import Console
from rich.table import Table
from yaml import YAMLError

from detr_mini.boxes import xywh_to_xyxy
from detr_mini.captions.from_boxes import checked_kinds, words_for
from detr_mini.captions.from_boxes_files import referred
from detr_mini.captions.made_dataset import captions_of_all_kinds
from detr_mini.captions.mdetr_format import caption_records, instances_of, pictures_of, read_captions, write_json
from detr_mini.captions.noun_grounding import grounded, read_sentences
from detr_mini.captions.nouns import COCO, Nouns, checked_table
from detr_mini.captions.scenes import draw_items
from detr_mini.drawing.caption_cards import Told, draw_captions
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.coco import CocoSet, read_coco
from detr_mini.formats.columns import any_json, read_json
from detr_mini.formats.discover import find_layout, read_split
from detr_mini.images.load import load_image
from detr_mini.structures import Caption


def scene(config: DictConfig) -> Path:
    """Draw a made scene that nobody trained on, say a sentence of each kind about it; the picture's path."""
    output = Path(config.output).expanduser()
    if output.suffix.lower() != ".png":
        raise ConfigError(f"the output {output} is no PNG file; say output=scene.png")
    pixels, items = draw_items(int(config.seed), "test", 0, int(config.size))
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(output)
    told = captions_of_all_kinds(items, int(config.size), random.Random(int(config.seed)), "test")
    table = Table("kind", "sentence", "boxes", title=f"{len(items)} things in {output}")
    for caption in told:
        asked = [thing for phrase in caption.phrases if phrase.asked for thing in phrase.things]
        table.add_row(caption.kind, caption.text, str(len(asked)))
    console = Console()
    console.print(table)
    example = next((c.text for c in told if c.kind == "relation"), told[0].text if told else "the star")
    console.print(f'detr-mini predict checkpoint=shapes_captions source={output} caption="{example}"', soft_wrap=True)
    return output


def ground(config: DictConfig) -> Path:
    """Tie the captions of `config.captions` to the boxes of a split; the output folder.

    A captions file that has its spans and boxes already (as of MDETR) is checked and written as it is read.
    """
    root, output = Path(config.root).expanduser(), Path(config.output).expanduser()
    captions = root / config.captions
    if _is_grounded(captions):
        coco = _from_grounded(captions, config, output)
        told = read_captions(captions, coco)
        pictures = [(p, [t for t in things if not t["iscrowd"]], told[p["id"]]) for p, things in pictures_of(coco)]
        if not any(own for *_, own in pictures):
            raise DataError(f"{captions} has no caption of a picture that is there; check root and boxes")
        content: dict[str, Any] = {"info": {}, "categories": coco.categories.records(), **caption_records(pictures)}
        rows = {"captions": len(content["images"]), "boxes that they speak of": len(content["annotations"])}
    else:
        coco = _read(config)
        content = grounded(read_sentences(captions), coco, _nouns(config.nouns, coco.categories.names))
        rows = _found(content["info"])
    _write(output, content, coco)
    _show("Captions tied to boxes", rows)
    _draw(output, coco, config.pictures, config.seed, "Nouns of captions and the boxes that they are tied to")
    return output


def refer(config: DictConfig) -> Path:
    """Make captions of the boxes of a split; the output folder."""
    output = Path(config.output).expanduser()
    coco = _read(config)
    given = OmegaConf.to_container(config)
    assert isinstance(given, dict)
    words = words_for(coco.categories.names, _section("names", given["names"]), given["complete"])
    weights = checked_kinds(_section("kinds", given["kinds"]))
    content = referred(coco, words, each=config.each, weights=weights, seed=config.seed)
    _write(output, content, coco)
    info = content["info"]
    rows = {"captions": len(content["images"]), **{f"  {kind}": count for kind, count in info["kinds"].items()}}
    _show("Captions made from boxes", rows | {"refused by the checker": info["refused"]})
    _draw(output, coco, config.pictures, config.seed, "Captions made from boxes")
    return output


def _read(config: DictConfig) -> CocoSet:
    """The pictures and boxes of a split: where `config.boxes` says, or where they are found."""
    root = Path(config.root).expanduser()
    if config.boxes is not None:
        where, form = dict(config.boxes), "coco" if config.format == "auto" else config.format
    else:
        layout = find_layout(root)
        if config.split not in layout.splits:
            raise DataError(f"{root} has no split {config.split} (it has: {', '.join(layout.splits)}); "
                            "choose one with split=..., or say where it lies with boxes={...}")  # fmt: skip
        where, form = dict(layout.splits[config.split]), layout.format
    return read_split(root, where, config.split, format=form, on_missing="skip")


def _is_grounded(captions: Path) -> bool:
    content = any_json(captions) if captions.is_file() else None
    images = content.get("images") if isinstance(content, dict) else None
    return isinstance(images, list) and any(isinstance(i, dict) and "caption" in i for i in images)


def _from_grounded(captions: Path, config: DictConfig, output: Path) -> CocoSet:
    """The pictures and boxes of a grounded file; where `config.boxes` says, or its own."""
    if config.boxes is not None and "annotations" in config.boxes:
        return _read(config)
    write_json(output / "instances.json", instances_of(read_json(captions), captions))
    images = Path(config.root).expanduser() / ((config.boxes or {}).get("images") or ".")
    return read_coco(output / "instances.json", images, split="captions", on_missing="skip")


def _nouns(given: Any, categories: Sequence[str]) -> Nouns:
    """The table that a config names or holds."""
    if given == "coco":
        return Nouns(COCO, categories)
    if isinstance(given, str):
        path = Path(given).expanduser()
        if not path.is_file():
            raise ConfigError(f"nouns={given} is no file; give 'coco', a YAML file, or {{category: [noun, ...]}}")
        try:
            given = OmegaConf.load(path)
        except (YAMLError, OmegaConfBaseException, OSError) as error:
            raise ConfigError(f"{path} is no YAML file of nouns ({str(error).splitlines()[0]}); "
                              "write lines such as 'dog: [dog, ~puppy]'") from error  # fmt: skip
    plain = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    if not isinstance(plain, dict):
        raise ConfigError(f"nouns is {plain!r}; give 'coco', a YAML file, or {{category: [noun, ...]}}")
    table: dict[str, Any] = {str(category): nouns for category, nouns in plain.items()}
    checked_table(table, categories)
    return Nouns(table, categories)


def _section(key: str, value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{key} is {value!r}; it must be a section, such as {key}={{...: ...}}")
    return value


def _write(output: Path, content: Mapping[str, Any], coco: CocoSet) -> None:
    write_json(output / "instances.json", coco.truth)
    write_json(output / "captions.json", content)


def _found(info: Mapping[str, Any]) -> dict[str, int]:
    rows = {"captions read": info["captions"], "written": info["written"], "  with every noun tied": info["whole"]}
    if info["without_picture"]:
        rows["of pictures that are not there"] = info["without_picture"]
    rows["nouns tied"] = info["phrases"]
    rows["nouns left out"] = sum(info["left_out"].values())
    return rows | {f"  {reason}": count for reason, count in info["left_out"].items()}


def _show(title: str, rows: Mapping[str, int]) -> None:
    view = Table(title=title, title_justify="left", show_header=False)
    view.add_column("")
    view.add_column("", justify="right")
    for name, count in rows.items():
        view.add_row(name, f"{count:,}")
    Console().print(view)


def _draw(output: Path, coco: CocoSet, pictures: int, seed: int, title: str) -> None:
    """captions.png: the file that was written, read back; one caption of each picture, the kinds taking turns."""
    told = read_captions(output / "captions.json", coco)
    rng, chosen, kinds = random.Random(seed), list[Told](), dict[str, int]()
    for index in rng.sample(range(len(coco)), len(coco)):
        record = coco.records[index]
        own = told[record.image_id]
        if not own or len(chosen) >= pictures:
            continue
        caption = min(rng.sample(own, len(own)), key=lambda c: kinds.get(c.kind, 0))
        kinds[caption.kind] = kinds.get(caption.kind, 0) + 1
        chosen.append(_told(coco, index, caption))
    path = output / "captions.png"
    if chosen:
        draw_captions(chosen, path, title)
    Console().print(f"wrote {output / 'captions.json'}, instances.json" + (", captions.png" if chosen else ""))


def _told(coco: CocoSet, index: int, caption: Caption) -> Told:
    record = coco.records[index]
    begin, end = int(coco.first[index]), int(coco.first[index + 1])
    own = coco.boxes_xywh[begin:end][~coco.is_crowd[begin:end]]
    return Told(load_image(record.path), xywh_to_xyxy(own).to(torch.float32), caption, record.file_name)
