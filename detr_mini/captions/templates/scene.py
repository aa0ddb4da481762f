"""The objects of a scene as captions describe them, and when a relation between them is clear."""

from __future__ import annotations

from dataclasses import dataclass

from detr_mini.scenes.rendering import SHAPES

KINDS = (
    "list",
    "attribute",
    "count",
    "relation",
    "chain",
    "order",
    "ordinal",
    "compare",
    "same",
    "not",
    "absent",
)
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "large")
ATTRIBUTES = (*SHAPES, *COLORS, *SIZES, *TEXTURES)

CLEAR_OFFSET = 1 / 32
"""Share of the canvas' side. Centres closer in x (y) are neither left nor right of (above nor below) each other."""
CLEAR_RATIO = 1.15
"""Least ratio of the square roots of two boxes' areas for one to be larger."""
CLEAR_DISTANCE = 1.1
"""Least ratio of the second-smallest distance to the smallest. They also differ by CLEAR_OFFSET at least."""
BETWEEN_SHARE, BETWEEN_WIDTH, BESIDE_WIDTH = 0.1, 0.3, 0.45
"""In lengths of the line that joins two centres. An object between them is at least the first from both ends along the
line, and at most the second beside it. One beyond an end, or farther beside the line than the third, is not between."""


@dataclass(frozen=True)
class Item:
    """An object of a scene with the attributes that captions use."""

    shape: str
    color: str
    size: str
    texture: str
    box: tuple[float | int, float | int, float | int, float | int]
    """xywh in pixels, tight around the visible part."""
