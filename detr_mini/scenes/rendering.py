"""Draws objects: outlines on a visibility map four times finer than the image, filled with textures.

A box is tight, to a quarter of a pixel, around the part of its object that later objects leave visible. There is no
torch in here, so that the processes that draw start fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
FINE = 4
"""Points of the visibility map along one pixel."""
SIZES = (10.0, 44.0)
"""Longest side of an object's tight box, in pixels of a 128 pixel canvas."""
LEAST_VISIBLE = 0.5
CONTRAST = 0.22
"""Distance in RGB (each in [0, 1]) of an object's colours from nearly all pixels around its edge."""
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
class SceneObject:
    """One shape of a scene, in pixels of the image."""

    shape: str
    outline: np.ndarray
    """(n, 2) corner points."""
    color: tuple[int, int, int]
    size: float
    """Longest side of the tight box of the whole object, hidden parts included."""
    rotation: float
    """Degrees, clockwise."""
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """xywh, tight around the visible part."""
    area: float = 0.0
    """Visible area."""
    visible: float = 1.0
    """Visible share of the whole area."""


class Canvas:
    """An unfinished image: its pixels, and the object visible at each point of the visibility map."""

    def __init__(self, image: np.ndarray, most: int) -> None:
        """`image`: (size, size, 3) in [0, 1], drawn into; `most`: objects at most."""
        self.image, self.size = image, len(image)
        self.owner = np.zeros((self.size * FINE, self.size * FINE), np.uint8)
        self.areas: list[int] = []
        self._seen = np.zeros(most + 1, np.int64)

    def spot(self, outline: np.ndarray) -> Spot | None:
        """The place of an object with this outline, or None if it would hide too much of an earlier object."""
        left, top, mask = _rasterise(outline, self.size)
        crop = np.s_[top * FINE : top * FINE + mask.shape[0], left * FINE : left * FINE + mask.shape[1]]
        hidden = np.bincount(self.owner[crop][mask], minlength=len(self._seen))
        left_over = (self._seen - hidden)[1 : len(self.areas) + 1]
        if self.areas and not bool((left_over >= LEAST_VISIBLE * np.array(self.areas)).all()):
            return None
        return Spot(left, top, mask, hidden)

    def put(self, spot: Spot) -> None:
        """Mark the spot's object as drawn. It hides what is below."""
        height, width = spot.mask.shape
        number = len(self.areas) + 1
        crop = np.s_[spot.top * FINE : spot.top * FINE + height, spot.left * FINE : spot.left * FINE + width]
        self._seen -= spot.hidden
        self._seen[number] = int(spot.mask.sum())
        self.areas.append(int(self._seen[number]))
        self.owner[crop][spot.mask] = number

    def pixels(self, rng: np.random.Generator) -> np.ndarray:
        """The image as bytes, with noise."""
        image = self.image + rng.standard_normal(self.image.shape, np.float32) * np.float32(rng.uniform(0, 0.035))
        return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)

    def measured(self, objects: Sequence[SceneObject]) -> tuple[SceneObject, ...]:
        """The objects with the box, area and share of their visible part in the finished scene."""
        return tuple(_measure(each, k + 1, self.owner, self.areas[k]) for k, each in enumerate(objects))


@dataclass(frozen=True)
class Spot:
    """A place for an object: left and top pixel, the fine mask from there, and how much it hides of each object."""

    left: int
    top: int
    mask: np.ndarray
    hidden: np.ndarray


def _measure(whole: SceneObject, number: int, owner: np.ndarray, area: int) -> SceneObject:
    """The object with the box, area and share of its visible part in the finished scene."""
    low = np.maximum(np.floor(whole.outline.min(0) * FINE).astype(int) - 2, 0)
    high = np.ceil(whole.outline.max(0) * FINE).astype(int) + 3
    mask = owner[low[1] : high[1], low[0] : high[0]] == number
    x, y, w, h = tight(mask)
    box = (x + low[0] / FINE, y + low[1] / FINE, w, h)
    count = int(mask.sum())
    return SceneObject(
        whole.shape, whole.outline, whole.color, whole.size, whole.rotation, box, count / FINE**2, count / area
    )


def place(
    rng: np.random.Generator, shape: str, size: int, sizes: tuple[float, float] = SIZES
) -> tuple[np.ndarray, float]:
    """Outline of a rotated object somewhere inside the canvas, and its rotation in degrees.

    `sizes`: of its longest side, on a canvas of 128 pixels.
    """
    rotation = float(rng.uniform(0, 360))
    turn = math.radians(rotation)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    points = OUTLINES[shape] @ matrix.T
    low, extent = points.min(0), np.ptp(points, axis=0)
    # half a pixel of margin: drawing rounds to quarters of a pixel, and the measured size stays within them
    longest = rng.uniform(sizes[0] + 0.5, sizes[1] - 0.5) * size / 128
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


def tight(mask: np.ndarray) -> tuple[float, float, float, float]:
    """xywh box, in pixels, around the True points of a fine mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = columns[0], rows[0]
    return x / FINE, y / FINE, (columns[-1] + 1 - x) / FINE, (rows[-1] + 1 - y) / FINE


def clearest(image: np.ndarray, spot: Spot, colors: np.ndarray) -> int:
    """Which of n choices of k colours (k, n, 3), all of a choice's, stands out from the pixels around the spot's edge:
    the first by CONTRAST, else the one that does most."""
    cover, crop = _cover(image, spot)
    grown = np.pad(cover, 1)
    grown = np.maximum.reduce([grown[:-2, 1:-1], grown[2:, 1:-1], grown[1:-1, :-2], grown[1:-1, 2:]])
    around = crop[(grown > 0) & (cover < 1)]
    distance = np.sqrt(((colors[:, :, None] - around[None, None]) ** 2).sum(-1)).min(0)
    clear = np.partition(distance, len(around) // 20, axis=1)[:, len(around) // 20]
    passing = np.flatnonzero(clear >= CONTRAST)
    return int(passing[0]) if len(passing) else int(clear.argmax())


def fill(image: np.ndarray, spot: Spot, paint: np.ndarray) -> None:
    """Draw `paint` (height, width, 3) over the spot's object, in place."""
    cover, crop = _cover(image, spot)
    crop += cover[..., None] * (paint - crop)


def _cover(image: np.ndarray, spot: Spot) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel the object covers, and the image there."""
    height, width = spot.mask.shape[0] // FINE, spot.mask.shape[1] // FINE
    cover = spot.mask.reshape(height, FINE, width, FINE).mean((1, 3), dtype=np.float32)
    return cover, image[spot.top : spot.top + height, spot.left : spot.left + width]


def second_color(rng: np.random.Generator, color: np.ndarray, reach: float) -> np.ndarray:
    """A second colour for each (..., 3) colour: lighter or darker, and a little off in hue."""
    away = np.where(color.mean(-1, keepdims=True) > 0.5, -1.0, 1.0) * rng.uniform(0.4, 1, (*color.shape[:-1], 1))
    return (color + reach * (away + rng.uniform(-0.3, 0.3, color.shape))).clip(0, 1).astype(np.float32)


def grid(left: int, top: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: x (1, width) and y (height, 1)."""
    return (
        np.arange(left, left + width, dtype=np.float32)[None] + 0.5,
        np.arange(top, top + height, dtype=np.float32)[:, None] + 0.5,
    )


def texture(
    rng: np.random.Generator,
    cells: tuple[np.ndarray, np.ndarray],
    color: np.ndarray,
    second: np.ndarray | float,
    scale: float,
    kind: str | None = None,
    periods: tuple[float, float] = (5, 14),
) -> np.ndarray:
    """(height, width, 3) float32: `color` and `second` (a number: how far from the first) in a texture.

    `kind`: one of TEXTURES, any unless given; `periods`: of its pattern, in pixels at `scale` 1.
    """
    color = color.astype(np.float32)
    other = second_color(rng, color, second) if isinstance(second, float) else second
    kind = kind or TEXTURES[rng.integers(len(TEXTURES))]
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi, 2).astype(np.float32)
    period = np.float32(rng.uniform(*periods) * scale)
    x, y = cells
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
