"""What a made caption is: its words, and which of them name which things of its scene."""

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
"""Of the canvas' side: centres nearer than this in x (y) are neither left nor right (above nor below) of each other."""
CLEAR_RATIO = 1.15
"""Between the sides (square roots of the areas) of boxes of which one is larger."""
CLEAR_DISTANCE = 1.1
"""Between the distances of the second-nearest and the nearest; they differ by CLEAR_OFFSET, too."""
BETWEEN_SHARE, BETWEEN_WIDTH, BESIDE_WIDTH = 0.1, 0.3, 0.45
"""Between two things: this far from both ends of the line that joins their centres, and this near to it, in its
lengths; clearly not between: beyond its ends, or farther from it than the last."""


@dataclass(frozen=True)
class Item:
    """A thing of a scene as sentences speak of it."""

    shape: str
    color: str
    size: str
    texture: str
    box: tuple[float | int, float | int, float | int, float | int]
    """xywh in pixels, tight around what is visible."""
