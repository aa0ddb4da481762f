"""Made scenes: coloured, textured, turned shapes on textured grounds, as real PNG files and COCO JSON.

A scene is a function of (seed, split, index) alone. Shapes are drawn on a visibility map four times finer than the
image, so a box stands at quarters of a pixel, tight around what later things leave visible of its thing.
No torch in here: the processes that draw start fast.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detr_mini.errors import DataError, UserError

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
SPLITS = ("train", "val", "test")
VERSION = 1
FINE = 4
"""Points of the visibility map along one pixel."""
THINGS = (1, 8)
SIZES = (10.0, 44.0)
"""Longest side of a thing's own tight box, in pixels of a 128 pixel canvas."""
LEAST_VISIBLE = 0.5
CONTRAST = 0.22
"""Distance in RGB (each in [0, 1]) that a thing's colours keep from nearly all pixels around its edge."""
TEXTURES = ("plain", "stripes", "checks", "dots", "gradient")


def _outlines() -> dict[str, np.ndarray]:
    """Corner points (n, 2) of each shape, y down, not yet scaled."""

    def ring(angles: np.ndarray, radii: np.ndarray | float = 1.0) -> np.ndarray:
        return np.stack([np.cos(angles), np.sin(angles)], 1) * np.broadcast_to(radii, angles.shape)[:, None]

    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    heart = np.stack(
        [16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], 1
    )
    arm = 0.36
    corner = np.array([[1, -arm], [1, arm], [arm, arm]])
    quarter = np.array([[0, -1], [1, 0]])
    cross = np.concatenate([corner @ np.linalg.matrix_power(quarter, k).T for k in range(4)])
    return {
        "circle": ring(t),
        "square": ring(np.arange(4) * math.pi / 2 + math.pi / 4),
        "triangle": ring(np.arange(3) * 2 * math.pi / 3 - math.pi / 2),
        "star": ring(np.arange(10) * math.pi / 5 - math.pi / 2, np.where(np.arange(10) % 2 == 0, 1.0, 0.45)),
        "cross": cross,
        "heart": heart,
    }


OUTLINES = _outlines()


@dataclass(frozen=True)
class Thing:
    """One shape of a scene, in pixels of the image."""

    shape: str
    outline: np.ndarray
    """(n, 2) corner points."""
    color: tuple[int, int, int]
    size: float
    """Longest side of the tight box of the whole thing, hidden parts included."""
    rotation: float
    """Degrees, clockwise."""
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """xywh, tight around the visible part."""
    area: float = 0.0
    """Visible area."""
    visible: float = 1.0
    """Visible share of the whole area."""


@dataclass(frozen=True)
class Scene:
    """One made image and what is in it, first drawn first (so lowest)."""

    image: np.ndarray
    """(size, size, 3) uint8."""
    things: tuple[Thing, ...]
    owner: np.ndarray
    """(size * 4, size * 4): which thing is seen where, counted from 1; 0 is the ground."""


def draw_scene(seed: int, split: str, index: int, size: int = 128) -> Scene:
    """The scene `index` of a split."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, SPLITS.index(split), index))))
    image = _texture(rng, _grid(0, 0, size, size), rng.random(3), 0.3, size / 128)
    owner = np.zeros((size * FINE, size * FINE), np.uint8)
    things: list[Thing] = []
    areas: list[int] = []
    seen = np.zeros(THINGS[1] + 1, np.int64)
    for _ in range(rng.integers(THINGS[0], THINGS[1] + 1)):
        for _ in range(20):  # A place where too much of an earlier thing would be hidden is given up for another.
            shape = SHAPES[rng.integers(len(SHAPES))]
            outline, rotation = _place(rng, shape, size)
            left, top, mask = _rasterise(outline, size)
            crop = np.s_[top * FINE : top * FINE + mask.shape[0], left * FINE : left * FINE + mask.shape[1]]
            hidden = np.bincount(owner[crop][mask], minlength=len(seen))
            left_over = (seen - hidden)[1 : len(things) + 1]
            if not things or bool((left_over >= LEAST_VISIBLE * np.array(areas)).all()):
                break
        else:
            continue
        number = len(things) + 1
        color = _paint(rng, image, left, top, mask, size / 128)
        seen -= hidden
        seen[number] = int(mask.sum())
        areas.append(int(seen[number]))
        owner[crop][mask] = number
        own = _tight(mask)
        rgb = (int(color[0]), int(color[1]), int(color[2]))
        things.append(Thing(shape, outline, rgb, max(own[2], own[3]), rotation))
    image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 0.035))
    pixels = (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return Scene(pixels, tuple(_measure(t, k + 1, owner, areas[k]) for k, t in enumerate(things)), owner)


def _measure(thing: Thing, number: int, owner: np.ndarray, area: int) -> Thing:
    """`thing` with box, area and share of what is seen of it in the finished scene."""
    low = np.maximum(np.floor(thing.outline.min(0) * FINE).astype(int) - 2, 0)
    high = np.ceil(thing.outline.max(0) * FINE).astype(int) + 3
    mask = owner[low[1] : high[1], low[0] : high[0]] == number
    x, y, w, h = _tight(mask)
    box = (x + low[0] / FINE, y + low[1] / FINE, w, h)
    count = int(mask.sum())
    return Thing(
        thing.shape, thing.outline, thing.color, thing.size, thing.rotation, box, count / FINE**2, count / area
    )


def _place(rng: np.random.Generator, shape: str, size: int) -> tuple[np.ndarray, float]:
    """Outline of a turned thing somewhere on the canvas, wholly inside, and its rotation in degrees."""
    rotation = float(rng.uniform(0, 360))
    turn = math.radians(rotation)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    points = OUTLINES[shape] @ matrix.T
    low, extent = points.min(0), np.ptp(points, axis=0)
    # half a pixel of margin: drawing rounds to quarters of a pixel, and the measured size stays within SIZES
    longest = rng.uniform(SIZES[0] + 0.5, SIZES[1] - 0.5) * size / 128
    scale = longest / extent.max()
    corner = rng.random(2) * (size - 1 - extent * scale) + 0.5
    return (points - low) * scale + corner, rotation


def _rasterise(outline: np.ndarray, size: int) -> tuple[int, int, np.ndarray]:
    """Left and top pixel of a crop around the outline, one pixel of margin, and the fine mask of the crop."""
    low = np.maximum(np.floor(outline.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + 1, size)
    width, height = (high - low) * FINE
    canvas = Image.new("L", (int(width), int(height)))
    # Pillow's pixel (i, j) is centred on its coordinate: half a fine point back
    points = (outline - low) * FINE - 0.5
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in points], fill=1)
    return int(low[0]), int(low[1]), np.asarray(canvas, np.uint8).astype(bool)


def _tight(mask: np.ndarray) -> tuple[float, float, float, float]:
    """xywh box, in pixels, around the True points of a fine mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = columns[0], rows[0]
    return x / FINE, y / FINE, (columns[-1] + 1 - x) / FINE, (rows[-1] + 1 - y) / FINE


def _paint(
    rng: np.random.Generator, image: np.ndarray, left: int, top: int, mask: np.ndarray, scale: float
) -> np.ndarray:
    """Draw a thing into `image`, in place, in colours unlike what lies around its edge; its RGB, 0 to 255."""
    height, width = mask.shape[0] // FINE, mask.shape[1] // FINE
    cover = mask.reshape(height, FINE, width, FINE).mean((1, 3), dtype=np.float32)
    crop = image[top : top + height, left : left + width]
    grown = np.pad(cover, 1)
    grown = np.maximum.reduce([grown[:-2, 1:-1], grown[2:, 1:-1], grown[1:-1, :-2], grown[1:-1, 2:]])
    around = crop[(grown > 0) & (cover < 1)]
    first = rng.random((24, 3), np.float32)
    second = _second(rng, first, 0.35)
    pairs = np.stack([first, (first + second) / 2, second])
    distance = np.sqrt(((pairs[:, :, None] - around[None, None]) ** 2).sum(-1)).min(0)
    clear = np.partition(distance, len(around) // 20, axis=1)[:, len(around) // 20]
    passing = np.flatnonzero(clear >= CONTRAST)
    pick = int(passing[0]) if len(passing) else int(clear.argmax())
    paint = _texture(rng, _grid(left, top, width, height), first[pick], second[pick], scale)
    crop += cover[..., None] * (paint - crop)
    return (first[pick] * 255 + 0.5).astype(int)


def _second(rng: np.random.Generator, color: np.ndarray, reach: float) -> np.ndarray:
    """A second colour for each (..., 3) colour: lighter or darker, and a little off in hue."""
    away = np.where(color.mean(-1, keepdims=True) > 0.5, -1.0, 1.0) * rng.uniform(0.4, 1, (*color.shape[:-1], 1))
    return (color + reach * (away + rng.uniform(-0.3, 0.3, color.shape))).clip(0, 1).astype(np.float32)


def _grid(left: int, top: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: x (1, width) and y (height, 1)."""
    return (
        np.arange(left, left + width, dtype=np.float32)[None] + 0.5,
        np.arange(top, top + height, dtype=np.float32)[:, None] + 0.5,
    )


def _texture(
    rng: np.random.Generator,
    grid: tuple[np.ndarray, np.ndarray],
    color: np.ndarray,
    second: np.ndarray | float,
    scale: float,
) -> np.ndarray:
    """(height, width, 3) float32: `color` and `second` (a number: how far from the first) in one of TEXTURES."""
    color = color.astype(np.float32)
    other = _second(rng, color, second) if isinstance(second, float) else second
    kind = TEXTURES[rng.integers(len(TEXTURES))]
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi, 2).astype(np.float32)
    period = np.float32(rng.uniform(5, 14) * scale)
    x, y = grid
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u, v = x * c + y * s, y * c - x * s
    if kind == "plain":
        share = np.zeros((y.shape[0], x.shape[1]), np.float32)
    elif kind == "gradient":
        share = (u - u.min()) / max(float(np.ptp(u)), 1.0)
    else:
        turn = np.float32(2 * math.pi) / period
        wave, other_wave = np.sin(u * turn + phase[0]), np.sin(v * turn + phase[1])
        # the wave's slope at its zero is `turn`: dividing by it makes an edge about one pixel wide
        edge = {"stripes": wave, "checks": wave * other_wave, "dots": (wave + other_wave) / 2 - np.float32(0.45)}[kind]
        share = (edge / turn + np.float32(0.5)).clip(0, 1)
    return color + share[..., None] * (other - color)


def _write_chunk(jobs: list[tuple[int, str, int]], folder: str, size: int) -> list[tuple[str, int, tuple[Thing, ...]]]:
    """Draw and write some scenes; their things."""
    done = []
    for seed, split, index in jobs:
        scene = draw_scene(seed, split, index, size)
        Image.fromarray(scene.image).save(Path(folder) / split / f"{index:06d}.png", compress_level=1)
        done.append((split, index, scene.things))
    return done


def ensure_scenes(
    root: str | Path, *, train: int = 4000, val: int = 400, test: int = 400, seed: int = 0, size: int = 128,
    processes: int = 2,
) -> str:  # fmt: skip
    """Write the scenes into `root` unless they lie there already; a sentence that says which.

    `root/<split>/*.png` and `root/annotations/<split>.json`, first in a temporary folder beside it, then renamed:
    a folder that is there is whole. DataError for a folder that holds something else, or scenes made otherwise.
    """
    root = Path(root)
    wanted = {"version": VERSION, "train": train, "val": val, "test": test, "seed": seed, "size": size}
    if min(train, val, test) < 0 or train + val + test == 0:
        raise DataError(f"cannot make {train}, {val} and {test} scenes; ask for at least one in all")
    if not 48 <= size <= 4096:
        raise DataError(f"made scenes of {size} pixels are not possible; give a size from 48 to 4096")
    if _same(root, wanted):
        return f"the made scenes in {root} are there already and are used as they are"
    absolute = Path(os.path.abspath(root))
    temporary = absolute.with_name(f".{absolute.name}.making-{os.getpid()}")
    try:
        _write_all(temporary, wanted, processes)
        try:
            os.rename(temporary, root)
        except OSError:
            if not _same(root, wanted):  # otherwise another process made the very same in the meantime
                raise
    except OSError as error:
        raise DataError(f"cannot write made scenes to {root}: {error.strerror or error}; "
                        "free some space, or set data.root to a folder that you may write") from error  # fmt: skip
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"made {train + val + test} scenes of {size} x {size} pixels in {root}"


def _same(root: Path, wanted: Mapping[str, int]) -> bool:
    """Whether finished scenes as wanted lie in `root`; DataError where something else does."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / "scenes.json").read_text())
    except (OSError, ValueError):
        raise DataError(f"{root} holds something else than made scenes; set data.root to a new folder") from None
    if found == wanted:
        return True
    differ = ", ".join(f"{k}={found.get(k)} there, {v} wanted" for k, v in wanted.items() if found.get(k) != v)
    raise DataError(f"{root} holds scenes made otherwise ({differ}); set data.root to a new folder, or remove this one")


def _write_all(folder: Path, wanted: Mapping[str, int], processes: int) -> None:
    from rich.progress import track

    shutil.rmtree(folder, ignore_errors=True)
    for name in (*SPLITS, "annotations"):
        (folder / name).mkdir(parents=True)
    jobs = [(wanted["seed"], split, index) for split in SPLITS for index in range(wanted[split])]
    chunks = [jobs[i : i + 25] for i in range(0, len(jobs), 25)]
    work = partial(_write_chunk, folder=str(folder), size=wanted["size"])
    scenes = []
    if processes > 1 and len(chunks) > 1:
        with get_context().Pool(processes) as pool:  # before the bar: its thread must not be copied by a fork
            for done in track(pool.imap(work, chunks), "Drawing scenes", total=len(chunks), transient=True):
                scenes += done
    else:
        for chunk in track(chunks, "Drawing scenes", transient=True):
            scenes += work(chunk)
    for split in SPLITS:
        content = _coco([(index, things) for s, index, things in scenes if s == split], wanted["size"])
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    (folder / "scenes.json").write_text(json.dumps(wanted))


def _coco(scenes: list[tuple[int, tuple[Thing, ...]]], size: int) -> dict[str, Any]:
    images = [{"id": i + 1, "file_name": f"{i:06d}.png", "width": size, "height": size} for i, _ in scenes]
    annotations = [
        {
            "image_id": index + 1,
            "category_id": SHAPES.index(thing.shape) + 1,
            "bbox": list(thing.box),
            "area": thing.area,
            "iscrowd": 0,
            "color": list(thing.color),
            "size": thing.size,
            "rotation": round(thing.rotation, 2),
            "visible": round(thing.visible, 4),
        }
        for index, things in scenes
        for thing in things
    ]
    categories = [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(SHAPES)]
    return {
        "info": {"description": "made scenes of shapes (detr_mini)"},
        "images": images,
        "annotations": [{"id": k + 1, **a} for k, a in enumerate(annotations)],
        "categories": categories,
    }


def make(config: Mapping[str, Any]) -> None:
    """The verb `detr-mini data shapes root=... train=4000 val=400 test=400 seed=0 size=128 processes=2`."""
    names = ("train", "val", "test", "seed", "size", "processes")
    try:
        numbers = {name: int(config[name]) for name in names if name in config}
    except (TypeError, ValueError) as error:
        raise UserError(f"{' and '.join(names)} must be whole numbers: {error}") from None
    print(ensure_scenes(config["root"], **numbers))
