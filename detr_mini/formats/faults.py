"""A fault in a data set: its kind, where it is, and what there is to say about it."""

from __future__ import annotations

from dataclasses import dataclass

from detr_mini.errors import printable


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or that is worth a look."""

    kind: str
    """A key of `KINDS`."""
    text: str
    """Names the place and what is there."""
    image: str = ""
    """The image it concerns, as the annotations name it."""
    mend: str = ""
    """What the fixed copy has instead, the same words for every fault that is fixed so; empty: left as it is."""
    detail: str = ""
    """More about this one fix: numbers, and what goes with it."""
    boxes: int = 0
    """How many boxes the fixed copy lacks because of it."""
    refused: bool = False
    """Nobody can know what is meant, and too much depends on it: no fixed copy is made while it is there."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text))
        object.__setattr__(self, "mend", printable(self.mend))

    @property
    def now(self) -> str:
        """What the fixed copy has instead, in full."""
        lost = f"with {self.boxes} {'box' if self.boxes == 1 else 'boxes'}" if self.boxes and self.image else ""
        return ", ".join(filter(None, (" ".join(filter(None, (self.mend, self.detail))), lost)))


KINDS: dict[str, str] = {
    # files
    "broken annotation file": "cannot be read, or is not whole: export it again",
    "empty split": "no image is listed: training cannot start, or nothing is measured",
    "image file missing": "listed, but not there: add it, or take it off the list",
    "unreadable image": "not an image, or cut off: replace it",
    "size differs from the record": "its boxes were drawn on other pixels: annotate this file, or find the right one",
    "size before turning upright": "boxes were drawn on the photograph as stored, not as shown",
    "orientation flag": "stored turned or mirrored; it is turned upright at load, here, but not by every tool",
    "image that no list names": "a file among the images that no split uses",
    "image listed twice": "two records of one file in a split",
    "same name in different folders": "tools that go by file name take one for the other",
    "same picture twice": "two files of a split show the same: it counts double",
    "picture shared by two splits": "a score on it is worth nothing: take it out of one of the splits",
    "like pictures in two splits": "copies, crops, or frames of one scene raise the score: keep them in one split",
    # records
    "image record incomplete": "an image needs a whole number as id and a file_name",
    "file name that cannot be used": "a file name is a path below the image folder, in text that disks can hold",
    "file name spelled differently": "the file on disk differs in capitals or in how accents are stored; it is used",
    "image id twice": "boxes cannot be told apart: give each image its own id",
    "annotation incomplete": "an annotation needs image_id, category_id and bbox",
    "annotation id twice": "tools that go by id lose one: give each annotation its own",
    "annotation of an unknown image": "its image_id is not among the images",
    "unknown category": "its category_id is not among the categories",
    "number written as text": "it is read as the number; other tools may refuse it",
    "marked as ignored": "its 'ignore' is 1: treated as a crowd region, neither trained on nor scored",
    "iscrowd is neither 0 nor 1": "crowd regions are not targets: write 0 or 1",
    "area that cannot be": "not a positive number, or larger than its box: sizes are scored by it",
    # boxes
    "box without numbers": "four finite numbers are needed",
    "box without size": "a click, or a slip of the hand: remove it",
    "box outside its image": "no part of it is in the picture",
    "box past the edge": "it is cut at the edge",
    "box smaller than a pixel": "nothing can be seen in it",
    "boxes that look like corners": "they fit as left, top, right, bottom: data.box_corners=true reads them so",
    "turned box": "the upright box around it is used, which is larger than the object",
    "box given as an outline": "the upright box around it is used",
    "outline that cannot be moved": "a mask in run lengths is not turned, scaled or cut with its box",
    "box twice": "the same object labelled twice in one image",
    "box of two categories": "one box under two names",
    "boxes that say nothing": "whole images, or one place in every image: are these labels of images, or placeholders?",
    "corner at 0": "this VOC file counts from 0; VOC counts pixels from 1 (data.first_pixel)",
    # rows and label files
    "row that is no box": "a YOLO row is a class and four numbers (or a class and the corners of an outline)",
    "value outside 0 to 1": "YOLO's numbers are shares of the image, not pixels",
    "class index out of range": "the data file has no such name: correct the row, or add the name",
    "image without label file": "it counts as background; add an empty label file to confirm that",
    "label file without image": "no image has its name: it is not used",
    "two label files for one image": "the one in the folder 'labels' is used, the one beside the image is not",
    "file name in the XML differs": "the image of the XML's own name is used",
    # names
    "category incomplete": "a category needs a whole number as id and a name of text",
    "category id twice": "boxes cannot be told apart: give each category its own id",
    "category name twice": "one class under two ids",
    "name in decomposed characters": "accents are stored apart from their letters; read as one character each",
    "names that differ in writing only": "capitals, blanks, hyphens or accents differ: is this one class? Rename it",
    "mistyped category": "a rare name, one slip away from another: rename it if it is one. Names are never merged",
    "category unknown to training": "train lacks it: it can never be found",
    "category that training never sees": "train has its name and no box of it",
    "category without boxes": "no box in any split (a group, perhaps)",
    "category with crowd only": "crowd regions are not targets: it is never learned",
    "name that YAML takes for something else": "other tools read yes, on and 012 as true and numbers: quote it",
    "number of classes differs": "nc is not the number of names",
    # the whole
    "many images without a box": "is an annotation file incomplete?",
    "caption": "correct the sentence or its spans",
}  # fmt: skip
"""Each kind of fault, and what to do or to know about it; in the order of the table."""

FATAL = (
    "broken annotation file", "class index out of range", "file name that cannot be used",
    "boxes that look like corners",
)  # fmt: skip
"""Kinds that stop a training whatever the config says: what is meant cannot be guessed."""
NOTICES = (
    "image without label file", "label file without image", "two label files for one image", "box given as an outline",
    "number written as text", "marked as ignored", "name in decomposed characters", "file name spelled differently",
)  # fmt: skip
"""Kinds that a training only mentions."""
ROWS = ("box without numbers", "row that is no box", "value outside 0 to 1", "class index out of range")
"""Kinds for which a reader of VOC or YOLO leaves out one box."""
LOOKS = (*NOTICES, "corner at 0", "file name in the XML differs", "image listed twice")
"""Kinds that lose nothing: readers go on as if they were not there."""
