"""A fault in a data set: its kind, where it is, and what there is to say about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or that is worth a look."""

    kind: str
    """A key of `KINDS`."""
    text: str
    """Names the place and what is there."""
    image: str = ""
    """The image it concerns, as the annotations name it."""


KINDS: dict[str, str] = {
    # files of annotations
    "broken annotation file": "it cannot be read, or is not whole: export it again",
    "row that is no box": "a YOLO row is a class and four numbers (or a class and the corners of an outline)",
    "class index out of range": "the names file has no such class: mend the row, or add the name",
    "box without numbers": "four numbers are expected",
    "image without label file": "it counts as background; add an empty label file to say so",
    "label file without image": "no image has its name: it is not used",
    "box given as an outline": "the upright box around it is used",
}
"""Each kind of fault, and what to do or to know about it."""

FATAL = ("broken annotation file", "class index out of range")
"""Kinds that stop a training whatever the config says: what is meant cannot be guessed."""
NOTICES = ("image without label file", "label file without image", "box given as an outline")
"""Kinds that a training only mentions."""
