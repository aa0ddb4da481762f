"""Made scenes: coloured, textured, turned shapes on textured grounds, as real PNG files and COCO JSON.

A scene is a function of (seed, split, index) alone. No torch in here: the processes that draw start fast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detr_mini.scenes.cache import Job, drawn, made_once
from detr_mini.scenes.rendering import (
    FINE,
    SHAPES,
    Canvas,
    SceneObject,
    Spot,
    clearest,
    fill,
    grid,
    place,
    second_color,
    texture,
    tight,
)
from detr_mini.seeding import number_generator

SPLITS = ("train", "val", "test")
VERSION = 1
OBJECTS = (1, 8)


@dataclass(frozen=True)
class Scene:
    """One made image and its objects, lowest first."""

    image: np.ndarray
    """(size, size, 3) uint8."""
    objects: tuple[SceneObject, ...]
    owner: np.ndarray
    """(size * 4, size * 4): the number of the visible object, from 1; 0 is the ground."""


def draw_scene(seed: int, split: str, index: int, size: int = 128) -> Scene:
    """The scene `index` of a split."""
    rng = number_generator(seed, SPLITS.index(split), index)
    canvas = Canvas(texture(rng, grid(0, 0, size, size), rng.random(3), 0.3, size / 128), OBJECTS[1])
    objects: list[SceneObject] = []
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        for _ in range(20):  # another place where too much of an earlier object would be hidden
            shape = SHAPES[rng.integers(len(SHAPES))]
            outline, rotation = place(rng, shape, size)
            spot = canvas.spot(outline)
            if spot:
                break
        else:
            continue
        rgb = _paint(rng, canvas.image, spot, size / 128)
        canvas.put(spot)
        own = tight(spot.mask)
        objects.append(SceneObject(shape, outline, rgb, max(own[2], own[3]), rotation))
    pixels = canvas.pixels(rng)
    return Scene(pixels, canvas.measured(objects), canvas.owner)


def _paint(rng: np.random.Generator, image: np.ndarray, spot: Spot, scale: float) -> tuple[int, int, int]:
    """Draw an object in any colours that stand out from its surroundings. Returns its RGB, 0 to 255."""
    first = rng.random((24, 3), np.float32)
    second = second_color(rng, first, 0.35)
    pick = clearest(image, spot, np.stack([first, (first + second) / 2, second]))
    height, width = spot.mask.shape[0] // FINE, spot.mask.shape[1] // FINE
    fill(image, spot, texture(rng, grid(spot.left, spot.top, width, height), first[pick], second[pick], scale))
    r, g, b = (first[pick] * 255 + 0.5).astype(int)
    return int(r), int(g), int(b)


def _write_chunk(jobs: list[Job], folder: str, size: int) -> list[tuple[str, int, tuple[SceneObject, ...]]]:
    """Draw and write some scenes. Returns their objects."""
    done = []
    for seed, split, index in jobs:
        scene = draw_scene(seed, split, index, size)
        Image.fromarray(scene.image).save(Path(folder) / split / f"{index:06d}.png", compress_level=1)
        done.append((split, index, scene.objects))
    return done


def ensure_scenes(
    root: str | Path, *, train: int = 4000, val: int = 400, test: int = 400, seed: int = 0, size: int = 128,
    processes: int = 2,
) -> str:  # fmt: skip
    """Write the scenes into `root` unless they are there already. Returns a sentence for the user.

    They go to `root/<split>/*.png` and `root/annotations/<split>.json`. DataError: see `made_once`.
    """
    splits = {"train": train, "val": val, "test": test}
    return made_once(
        root,
        {"version": VERSION, **splits, "seed": seed, "size": size},
        splits,
        partial(_write_all, processes=processes),
    )


def _write_all(folder: Path, wanted: Mapping[str, int], processes: int) -> None:
    jobs = [(wanted["seed"], split, index) for split in SPLITS for index in range(wanted[split])]
    scenes = drawn(partial(_write_chunk, folder=str(folder), size=wanted["size"]), jobs, processes)
    for split in SPLITS:
        content = _coco([(index, objects) for s, index, objects in scenes if s == split], wanted["size"])
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


def _coco(scenes: list[tuple[int, tuple[SceneObject, ...]]], size: int) -> dict[str, Any]:
    images = [{"id": i + 1, "file_name": f"{i:06d}.png", "width": size, "height": size} for i, _ in scenes]
    annotations = [
        {
            "image_id": index + 1,
            "category_id": SHAPES.index(each.shape) + 1,
            "bbox": list(each.box),
            "area": each.area,
            "iscrowd": 0,
            "color": list(each.color),
            "size": each.size,
            "rotation": round(each.rotation, 2),
            "visible": round(each.visible, 4),
        }
        for index, objects in scenes
        for each in objects
    ]
    categories = [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(SHAPES)]
    return {
        "info": {"description": "made scenes of shapes (detr_mini)"},
        "images": images,
        "annotations": [{"id": k + 1, **a} for k, a in enumerate(annotations)],
        "categories": categories,
    }
