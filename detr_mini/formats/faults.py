"""A fault in a dataset: its kind, where it is, and what a fixed copy has instead."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from detr_mini.errors import printable


class Kind(Enum):
    """The kinds of faults, in the order of the table; the value is the kind's name in tables and reports."""

    advice: str
    """What to do, or to know, about it."""

    def __new__(cls, label: str, advice: str) -> Kind:
        """A member by its name in reports, with its advice beside it."""
        member = object.__new__(cls)
        member._value_, member.advice = label, advice
        return member

    def __str__(self) -> str:
        return str(self.value)

    # files
    BROKEN_FILE = "broken annotation file", "cannot be read, or is not whole: export it again"
    EMPTY_SPLIT = "empty split", "no image is listed: training cannot start, or nothing is measured"
    IMAGE_MISSING = "image file missing", "listed, but not there: add it, or take it off the list"
    UNREADABLE_IMAGE = "unreadable image", "not an image, or cut off: replace it"
    OTHER_SIZE = (
        "size differs from the record",
        "its boxes were drawn on other pixels: annotate this file, or find the right one",
    )
    SIZE_BEFORE_TURNING = "size before turning upright", "boxes were drawn on the photograph as stored, not as shown"
    ORIENTATION = (
        "orientation flag",
        "stored turned or mirrored; it is turned upright at load, here, but not by every tool",
    )
    UNLISTED_IMAGE = "image that no list names", "a file among the images that no split uses"
    LISTED_TWICE = "image listed twice", "two records of one file in a split"
    SAME_NAME = "same name in different folders", "tools that go by file name take one for the other"
    SAME_PICTURE = "same picture twice", "two files of a split show the same: it counts double"
    SHARED_PICTURE = "picture shared by two splits", "a score on it is worth nothing: take it out of one of the splits"
    LIKE_PICTURES = (
        "like pictures in two splits",
        "copies, crops, or frames of one scene raise the score: keep them in one split",
    )
    # records
    INCOMPLETE_IMAGE = "image record incomplete", "an image needs a whole number as id and a file_name"
    UNUSABLE_NAME = (
        "file name that cannot be used",
        "a file name is a path below the image folder, in text that disks can hold",
    )
    SPELLED_DIFFERENTLY = (
        "file name spelled differently",
        "the file on disk differs in capitals or in how accents are stored; it is used",
    )
    MOVED = (
        "image in another folder",
        "the list has the path of another place or machine; the one file below the folder that ends like it is used",
    )
    IMAGE_ID_TWICE = "image id twice", "boxes cannot be told apart: give each image its own id"
    INCOMPLETE_ANNOTATION = "annotation incomplete", "an annotation needs image_id, category_id and bbox"
    ANNOTATION_ID_TWICE = "annotation id twice", "tools that go by id lose one: give each annotation its own"
    UNKNOWN_IMAGE = "annotation of an unknown image", "its image_id is not among the images"
    UNKNOWN_CATEGORY = "unknown category", "its category_id is not among the categories"
    NUMBER_AS_TEXT = "number written as text", "it is read as the number; other tools may refuse it"
    MARKED_IGNORED = "marked as ignored", "its 'ignore' is 1: treated as a crowd region, neither trained on nor scored"
    BAD_CROWD_FLAG = "iscrowd is neither 0 nor 1", "crowd regions are not targets: write 0 or 1"
    BAD_AREA = "area that cannot be", "not a positive number, or larger than its box: sizes are scored by it"
    # boxes
    BOX_WITHOUT_NUMBERS = "box without numbers", "four finite numbers are needed"
    BOX_WITHOUT_SIZE = "box without size", "a click, or a slip of the hand: remove it"
    BOX_OUTSIDE = "box outside its image", "no part of it is in the picture"
    BOX_PAST_EDGE = "box past the edge", "it is cut at the edge"
    TINY_BOX = "box smaller than a pixel", "nothing can be seen in it"
    CORNERS = (
        "boxes that look like corners",
        "they fit as left, top, right, bottom: data.box_corners=true reads them so",
    )
    TURNED_BOX = "turned box", "the upright box around it is used, which is larger than the object"
    OUTLINE = "box given as an outline", "the upright box around it is used"
    KEYPOINTS = "keypoints beside the box", "only the box is used"
    UNMOVABLE_OUTLINE = (
        "outline that cannot be moved",
        "a mask in run lengths is not turned, scaled or cut with its box",
    )
    BOX_TWICE = "box twice", "the same object labelled twice in one image"
    BOX_OF_TWO_CATEGORIES = "box of two categories", "one box under two names"
    MEANINGLESS_BOXES = (
        "boxes that say nothing",
        "whole images, or one place in every image: are these labels of images, or placeholders?",
    )
    CORNER_AT_ZERO = "corner at 0", "this VOC file counts from 0; VOC counts pixels from 1 (data.first_pixel)"
    # rows and label files
    BAD_ROW = "row that is no box", "a box is a class and four numbers, or an outline: correct it, or remove it"
    VALUE_OUT_OF_RANGE = "value outside 0 to 1", "YOLO's numbers are shares of the image, not pixels"
    CLASS_OUT_OF_RANGE = "class index out of range", "the data file has no such name: correct the row, or add the name"
    NO_LABEL_FILE = "image without label file", "it counts as background; add an empty label file to confirm that"
    NO_IMAGE_FOR_LABELS = "label file without image", "no image has its name: it is not used"
    TWO_LABEL_FILES = (
        "two label files for one image",
        "one is used: that in the folder of labels before that beside the image, else the first by name",
    )
    OTHER_NAME_IN_XML = "file name in the XML differs", "the image of the XML's own name is used"
    # names
    INCOMPLETE_CATEGORY = "category incomplete", "a category needs a whole number as id and a name of text"
    CATEGORY_ID_TWICE = "category id twice", "boxes cannot be told apart: give each category its own id"
    CATEGORY_NAME_TWICE = "category name twice", "one class under two ids"
    DECOMPOSED_NAME = (
        "name in decomposed characters",
        "accents are stored apart from their letters; read as one character each",
    )
    SIMILAR_NAMES = (
        "names that differ in writing only",
        "capitals, blanks, hyphens or accents differ: is this one class? Rename it",
    )
    MISTYPED_CATEGORY = (
        "mistyped category",
        "a rare name, one slip away from another: rename it if it is one. Names are never merged",
    )
    UNTRAINED_NAME = "category unknown to training", "train lacks it: it can never be found"
    UNTRAINED_CATEGORY = "category that training never sees", "train has its name and no box of it"
    NO_BOXES = "category without boxes", "no box in any split (a group, perhaps)"
    CROWD_ONLY = "category with crowd only", "crowd regions are not targets: it is never learned"
    YAML_NAME = (
        "name that YAML takes for something else",
        "other tools read yes, on and 012 as true and numbers: quote it",
    )
    CLASS_COUNT = "number of classes differs", "nc is not the number of names"
    # the whole
    MANY_EMPTY_IMAGES = "many images without a box", "is an annotation file incomplete?"
    CAPTION = "caption", "correct the sentence or its spans"


class Fix(Enum):
    """What a fixed copy has instead; the value is how reports say it, before `Fault.detail`."""

    LEFT_OUT = "left out"
    BOTH_LEFT_OUT = "both left out"
    KEPT_ONCE = "there once"
    # files and records
    LISTED_ONCE = "listed once"
    BOXES_TO_FIRST = "boxes go to the first"
    BOXES_TURNED = "boxes turned with the picture"
    BOXES_SCALED = "boxes scaled"
    NAME_ON_DISK = "the name on disk"
    FIRST_FILE = "the first one counts"
    IMAGE_OF_XML_NAME = "the image of the XML's own name"
    NUMBER = "the number"
    CROWD = "iscrowd 1"
    NEW_IDS = "the later ones get free ids"
    # boxes
    UPRIGHT_BOX = "the upright box around it"
    CLIPPED = "cut at the edge"
    BOX_ALONE = "the box alone"
    BOX_AREA = "that of the box"
    COUNTS_FROM_ONE = "counts from 1"
    # categories
    COMPOSED_NAME = "composed characters"
    NEW_ID = "a free id"
    MERGED = "one category"
    QUOTED = "quoted"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Fault:
    """One fault, or something worth a look."""

    kind: Kind
    text: str
    """Names the place in its split (a file, a row, an annotation), and what is there."""
    image: str = ""
    """The image it concerns, as the annotations name it."""
    fix: Fix | None = None
    """None: a fixed copy has it, too."""
    detail: str = ""
    """More about this one fix: numbers, and what goes with it."""
    boxes: int = 0
    """How many boxes the fixed copy lacks because of it."""
    refused: bool = False
    """The intended meaning is unknown, and too much depends on it: no fixed copy is made while it is there."""
    split: str = ""
    """The split it is in; empty for a fault of several splits, or of all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text))
        object.__setattr__(self, "detail", printable(self.detail))

    @property
    def sentence(self) -> str:
        """The split and the text, for tables and reports."""
        return f"{self.split}: {self.text}" if self.split else self.text

    @property
    def now(self) -> str:
        """What the fixed copy has instead, in full."""
        lost = f"with {self.boxes} {'box' if self.boxes == 1 else 'boxes'}" if self.boxes and self.image else ""
        instead = " ".join(filter(None, (str(self.fix or ""), self.detail)))
        return ", ".join(filter(None, (instead, lost)))


FATAL = (Kind.BROKEN_FILE, Kind.CLASS_OUT_OF_RANGE, Kind.UNUSABLE_NAME, Kind.CORNERS)
"""Kinds that stop a training whatever the config says: the intended meaning cannot be guessed."""
NOTICES = (
    Kind.NO_LABEL_FILE, Kind.NO_IMAGE_FOR_LABELS, Kind.TWO_LABEL_FILES, Kind.OUTLINE, Kind.KEYPOINTS,
    Kind.NUMBER_AS_TEXT, Kind.MARKED_IGNORED, Kind.DECOMPOSED_NAME, Kind.SPELLED_DIFFERENTLY, Kind.MOVED,
)  # fmt: skip
"""Kinds that a training only mentions."""
LOSSLESS = (*NOTICES, Kind.CORNER_AT_ZERO, Kind.OTHER_NAME_IN_XML, Kind.LISTED_TWICE)
"""Kinds that lose nothing: readers go on as if they were not there."""
OF_IMAGES = (Kind.IMAGE_MISSING, Kind.UNREADABLE_IMAGE, Kind.OTHER_SIZE)
"""Kinds for which a reader leaves out an image; all others concern boxes."""
