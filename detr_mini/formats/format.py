"""An annotation format: how it is recognised in a folder, read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detr_mini.formats.listing import Layout, Listing
from detr_mini.formats.tree import Tree

Writer = Callable[..., list[str]]
"""(folder, trees by split, images: "copy", "link" or "none"); returns what the form has no place for, in words."""


@dataclass(frozen=True)
class Format:
    """One format; `discover.FORMATS` lists them all."""

    name: str
    look: Callable[[Listing], Layout | None]
    """Where the splits lie in a folder of this format; None for another one."""
    keys: tuple[str, ...]
    """What a split may say."""
    needed: int
    """How many of `keys`, from the first, a split must say."""
    read: Callable[..., Tree]
    """From the root and what a split says."""
    options: tuple[str, ...] = ("categories",)
    """Options that `read` takes: "categories", "box_corners", "first_pixel", "difficult"."""
    write: Writer | None = None
    """None: a copy is written as COCO."""
