"""Writes made scenes with captions to files: PNG images, instances with attributes, grounded captions."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from detr_mini.captions.mdetr_format import caption_records
from detr_mini.captions.scenes import SPLITS, UNSEEN, draw_items
from detr_mini.captions.templates.generator import Captioner
from detr_mini.captions.templates.scene import KINDS, Item
from detr_mini.phrases import Caption
from detr_mini.scenes.cache import Job, drawn, made_once
from detr_mini.scenes.rendering import SHAPES
from detr_mini.seeding import text_generator

VERSION = 1
WEIGHTS: dict[str, float] = {
    "list": 1.0, "attribute": 0.6, "count": 0.8, "relation": 1.6, "chain": 2.0, "order": 1.6, "ordinal": 1.0,
    "compare": 1.0, "same": 1.0, "not": 1.0, "absent": 2.0,
}  # fmt: skip
"""How often training draws each kind."""
PER_KIND = 1
"""Captions of each kind for a scene of val or test, where the scene allows any."""
FEWEST = 3
"""Objects in a scene at least; an emptier one is replaced by the scene of another number."""


def captions_of(
    items: Sequence[Item],
    size: int,
    rng: random.Random,
    count: int,
    weights: Mapping[str, float | int] = WEIGHTS,
    **how: Any,
) -> list[Caption]:
    """`count` captions of random kinds; fewer where the scene allows no more. `how`: see `Captioner`."""
    captioner, made = Captioner(items, size, rng, forbidden=UNSEEN, **how), list[Caption]()
    for _ in range(4 * count):
        made += captioner.make(rng.choices(list(weights), list(weights.values()))[0])
        if len(made) >= count:
            break
    return made[:count]


def captions_of_all_kinds(items: Sequence[Item], size: int, rng: random.Random, split: str) -> list[Caption]:
    """The captions of one scene in val or test: one of each kind, a pair for `order`."""
    how: dict[str, Any] = {"unseen": split == "test_wording", "forbidden": UNSEEN}
    if split == "test_composition":
        how |= {"forbidden": frozenset(), "required": UNSEEN}
    captioner = Captioner(items, size, rng, **how)
    if split == "test_length":
        return [c for _ in range(6) for c in captioner.make("chain") if c.detail == "3"][:2]
    return [caption for kind in KINDS for _ in range(PER_KIND) for caption in captioner.make(kind)]


def ensure_captioned(
    root: str | Path, *, train: int = 12_000, val: int = 400, test: int = 400, seed: int = 0, size: int = 128,
    processes: int = 2,
) -> str:  # fmt: skip
    """Write scenes and captions into `root` unless they are there already. Returns a sentence for the user.

    `test_composition`, `test_wording` and `test_length` also have `test` scenes each. `annotations/<split>.json` holds
    COCO instances with `attributes`, `annotations/<split>_captions.json` the captions of val and the test splits.
    Training makes new captions each epoch, from the attributes. DataError: see `made_once`.
    """
    splits = {"train": train, "val": val, **dict.fromkeys(SPLITS[2:], test)}
    wanted = {"version": VERSION, "train": train, "val": val, "test": test, "seed": seed, "size": size}
    return made_once(root, wanted, splits, partial(_write_all, splits=splits, processes=processes))


def _write_all(folder: Path, wanted: Mapping[str, int], splits: Mapping[str, int], processes: int) -> None:
    seed, size = wanted["seed"], wanted["size"]
    jobs = [(seed, split, index) for split, count in splits.items() for index in range(count)]
    scenes: dict[str, list[tuple[int, list[Item]]]] = {split: [] for split in splits}
    for split, index, items in drawn(partial(_write_chunk, folder=str(folder), size=size), jobs, processes):
        scenes[split].append((index, items))
    categories = [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(SHAPES)]
    for split, made in scenes.items():
        images, counts = [], Counter[str]()
        for index, items in made:
            image = {"id": index + 1, "file_name": f"{index:06d}.png", "width": size, "height": size}
            captions: list[Caption] = []
            if split != "train":
                captions = captions_of_all_kinds(items, size, text_generator(seed, split, index), split)
                counts.update(caption.kind for caption in captions)
            images.append((image, [_annotation(index + 1, item) for item in items], captions))
        instances = {
            "info": {"description": "made scenes that sentences speak of (detr_mini)"},
            "images": [image for image, *_ in images],
            "annotations": [
                {"id": number, **each}
                for number, each in enumerate((each for _, objects, _ in images for each in objects), start=1)
            ],
            "categories": categories,
        }
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(instances))
        if split != "train":
            grounded = {"info": {"kinds": dict(counts)}, "categories": categories, **caption_records(images)}
            (folder / "annotations" / f"{split}_captions.json").write_text(json.dumps(grounded))


def _write_chunk(jobs: list[Job], folder: str, size: int) -> list[tuple[str, int, list[Item]]]:
    done = []
    for seed, split, index in jobs:
        number = index
        while True:
            image, items = draw_items(seed, split, number, size)
            if len(items) >= FEWEST:
                break
            number += 10**7
        Image.fromarray(image).save(Path(folder) / split / f"{index:06d}.png", compress_level=1)
        done.append((split, index, items))
    return done


def _annotation(image_id: int, item: Item) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": SHAPES.index(item.shape) + 1,
        "bbox": list(item.box),
        "area": item.box[2] * item.box[3],
        "iscrowd": 0,
        "attributes": {name: getattr(item, name) for name in ("shape", "color", "size", "texture")},
    }


def items_of(annotations: Sequence[Mapping[str, Any]]) -> list[Item]:
    """The items of one image from its COCO annotations with `attributes`."""
    return [Item(**annotation["attributes"], box=tuple(annotation["bbox"])) for annotation in annotations]
