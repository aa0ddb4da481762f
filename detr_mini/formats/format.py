"""An annotation format: how it is recognised in a folder, read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from detr_mini.formats.layout import Layout
from detr_mini.formats.listing import Listing
from detr_mini.formats.tree import Tree

Writer = Callable[[Path, Mapping[str, Tree], str], list[str]]
"""(folder, trees by split, images: "copy", "link" or "none"); returns what the format cannot hold, a sentence each.

`writing` has what all writers share; `write_voc` and `write_label_studio` are examples.
"""


@dataclass(frozen=True)
class Format:
    """One format; `discover.FORMATS` lists them all."""

    name: str
    look: Callable[[Listing], Layout | None]
    """Where the splits lie in a folder of this format; None for a folder of another format. It reads the start of
    files only, and never fails at a file of another format (`listing.read_start`, `listing.layout_of_files`)."""
    keys: tuple[str, ...]
    """The settings of a split, `data.train.images` and so on; `look` gives them, `read` takes them by name."""
    needed: int
    """How many of `keys`, from the first, must be set."""
    read: Callable[..., Tree]
    """(root, the settings of a split, the options below) to the split. DataError for a file that cannot be read; a box
    that cannot be read is a fault of the tree (`BoxList.no_box`)."""
    options: tuple[str, ...] = ("categories",)
    """Options that `read` takes: "categories", "box_corners", "first_pixel", "difficult"."""
    write: Writer | None = None
    """None: `data convert` cannot write it, and a fixed copy of such a dataset is written as COCO."""
    title: str = ""
    """What an error calls it, with the kind of its files: "Pascal VOC (XML)"."""
