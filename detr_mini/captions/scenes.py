"""Draws scenes for captions: objects with a shape, a named colour, a size and a texture, on a greyish ground."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from detr_mini.captions.templates.scene import COLORS, SIZES, TEXTURES, Item
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
    texture,
    tight,
)
from detr_mini.seeding import number_generator

SPLITS = ("train", "val", "test", "test_composition", "test_wording", "test_length")
OBJECTS = (3, 12)
SIDES = {"small": (11.0, 17.0), "large": (24.0, 36.0)}
"""Longest side of an object's tight box, in pixels of a 128 pixel canvas."""
PAINTS = {
    "red": (0, 0.85, 1.0, 0.7, 0.95), "orange": (27, 0.9, 1.0, 0.9, 1.0), "yellow": (55, 0.8, 1.0, 0.85, 1.0),
    "green": (120, 0.7, 1.0, 0.45, 0.8), "cyan": (180, 0.7, 1.0, 0.75, 1.0), "blue": (228, 0.75, 1.0, 0.6, 0.95),
    "purple": (278, 0.6, 0.9, 0.5, 0.8), "pink": (332, 0.35, 0.55, 0.95, 1.0),
}  # fmt: skip
"""Hue in degrees, then the ranges of saturation and value."""
HUE_JITTER = 6.0
PATTERNS = {"plain": "plain", "striped": "stripes", "dotted": "dots"}
UNSEEN = frozenset(
    {
        ("red", "heart"), ("orange", "circle"), ("yellow", "cross"), ("green", "star"), ("cyan", "triangle"),
        ("blue", "square"), ("purple", "circle"), ("pink", "star"),
    }
)  # fmt: skip
"""Pairs of colour and shape that occur only in `test_composition`, in objects and in words."""


def draw_items(seed: int, split: str, index: int, size: int = 128) -> tuple[np.ndarray, list[Item]]:
    """Scene `index` of a split: (size, size, 3) uint8, and its items, lowest first."""
    rng = number_generator(seed, 7, SPLITS.index(split), index)
    ground = rng.uniform(0.1, 0.9) + rng.uniform(-0.06, 0.06, 3)
    canvas = Canvas(texture(rng, grid(0, 0, size, size), ground.clip(0, 1), 0.15, size / 128), OBJECTS[1])
    palette = _palette(rng)
    objects: list[SceneObject] = []
    looks: list[tuple[str, str, str, str]] = []
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        shape, color, kind, pattern = _look(rng, palette, allow_unseen=split == "test_composition")
        for _ in range(20):
            outline, rotation = place(rng, shape, size, SIDES[kind])
            spot = canvas.spot(outline)
            if spot:
                break
        else:
            continue
        rgb = _paint(rng, canvas.image, spot, color, pattern, size / 128)
        canvas.put(spot)
        own = tight(spot.mask)
        objects.append(SceneObject(shape, outline, rgb, max(own[2], own[3]), rotation))
        looks.append((shape, color, kind, pattern))
    boxes = [each.box for each in canvas.measured(objects)]
    items = [
        Item(*look, (float(x), float(y), float(w), float(h))) for look, (x, y, w, h) in zip(looks, boxes, strict=True)
    ]
    return canvas.pixels(rng), items


def _palette(rng: np.random.Generator) -> tuple[list[str], list[str], list[str]]:
    """A few shapes, colours and textures, so that objects share them and one word seldom names one object."""
    few = [int(n) for n in rng.integers((2, 2, 1), (5, 5, 4))]
    picked = [rng.permutation(names)[:n] for names, n in zip((SHAPES, COLORS, TEXTURES), few, strict=True)]
    shapes, colors, textures = ([str(name) for name in names] for names in picked)
    return shapes, colors, textures


def _look(
    rng: np.random.Generator, palette: tuple[Sequence[str], ...], allow_unseen: bool
) -> tuple[str, str, str, str]:
    while True:
        shape, color, pattern, size = (names[int(rng.integers(len(names)))] for names in (*palette, SIZES))
        if allow_unseen or (color, shape) not in UNSEEN:
            return shape, color, size, pattern


def _paint(
    rng: np.random.Generator, image: np.ndarray, spot: Spot, color: str, pattern: str, scale: float
) -> tuple[int, int, int]:
    """Draw an object in shades of its colour that stand out from its surroundings. Returns its RGB, 0 to 255."""
    hue, *ranges = PAINTS[color]
    lows, highs = np.array([hue - HUE_JITTER, *ranges[::2]]), np.array([hue + HUE_JITTER, *ranges[1::2]])
    shades = rng.uniform(lows, highs, (16, 3)).tolist()
    first = np.array([colorsys.hsv_to_rgb(h / 360 % 1, s, v) for h, s, v in shades], np.float32)
    second = first * 0.35 if pattern == "striped" else first * 0.3 + 0.7
    pick = clearest(image, spot, first[None])
    height, width = spot.mask.shape[0] // FINE, spot.mask.shape[1] // FINE
    side = max(height, width) / scale
    periods = (0.22 * side + 1.5, 0.3 * side + 2)
    cells = grid(spot.left, spot.top, width, height)
    fill(image, spot, texture(rng, cells, first[pick], second[pick], scale, PATTERNS[pattern], periods))
    r, g, b = (first[pick] * 255 + 0.5).astype(int)
    return int(r), int(g), int(b)
