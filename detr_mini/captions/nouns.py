"""Which nouns name which category: the table for COCO's 80 categories, and how a table is read.

A table gives each category its nouns in the singular. `child/children` gives an irregular plural, `sheep/sheep` an
identical one, `/people` a plural alone. Marks before a noun: `~` a kind of the category (not all persons are men), `?`
a word that may also be an adjective (an orange cat). The category "" holds nouns of no category.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detr_mini.captions.templates.lexicon import plural
from detr_mini.errors import ConfigError, nearest

COCO: dict[str, tuple[str, ...]] = {
    "person": (
        "person/people", "person/persons", "human", "~man/men", "~woman/women", "~boy", "~girl", "~guy", "~lady",
        "~gentleman/gentlemen", "~child/children", "~kid", "~toddler", "~infant", "?~baby", "?~adult", "?~male",
        "?~female", "~player", "~batter", "~catcher", "~umpire", "~skier", "~snowboarder", "~boarder", "~skateboarder",
        "~skater", "~surfer", "~rider", "~cyclist", "~biker", "~motorcyclist", "~driver", "~passenger", "~pedestrian",
        "~bride", "~groom", "~mother", "~father", "~mom", "~dad", "~son", "~daughter", "~chef", "~baker",
        "~policeman/policemen", "~fireman/firemen", "~worker", "~teenager", "~student", "~soldier", "~someone/-",
    ),
    "bicycle": ("bicycle", "bike"),
    "car": ("car", "automobile", "~sedan", "~taxi/taxis", "~minivan", "~suv", "vehicle"),
    "motorcycle": ("motorcycle", "motorbike", "motor bike", "motor cycle", "~moped", "bike", "vehicle"),
    "airplane": (
        "airplane", "aeroplane", "plane", "aircraft/aircraft", "~jet", "~jetliner", "~airliner", "~biplane",
        "~passenger jet", "~fighter jet",
    ),
    "bus": ("bus", "~double decker", "vehicle"),
    "train": ("train", "~locomotive", "~tram"),
    "truck": ("truck", "lorry", "~pickup", "~semi", "vehicle"),
    "boat": ("boat", "~sailboat", "~sail boat", "~canoe", "~kayak", "~yacht", "~rowboat", "~row boat", "~ship",
             "~ferry"),
    "traffic light": ("traffic light", "stop light", "stoplight", "traffic signal"),
    "fire hydrant": ("fire hydrant", "hydrant"),
    "stop sign": ("stop sign",),
    "parking meter": ("parking meter",),
    "bench": ("bench",),
    "bird": ("bird", "~seagull", "~pigeon", "~duck", "~parrot", "~owl", "~goose/geese", "~swan", "~egret", "~vulture",
             "~eagle", "~pelican", "~flamingo/flamingos"),
    "cat": ("cat", "~kitten", "~kitty", "feline"),
    "dog": ("dog", "~puppy", "canine", "~poodle", "~bulldog", "~retriever", "~dalmatian"),
    "horse": ("horse", "~pony", "~foal", "~stallion"),
    "sheep": ("sheep/sheep", "~lamb", "~ram"),
    "cow": ("cow", "/cattle", "~bull", "~ox/oxen", "~steer"),
    "elephant": ("elephant",),
    "bear": ("bear", "~polar bear", "~brown bear", "~grizzly bear", "~black bear"),
    "zebra": ("zebra",),
    "giraffe": ("giraffe",),
    "backpack": ("backpack", "back pack", "knapsack", "rucksack", "bag"),
    "umbrella": ("umbrella", "~parasol"),
    "handbag": ("handbag", "hand bag", "purse", "bag"),
    "tie": ("tie", "necktie", "neck tie", "~bow tie"),
    "suitcase": ("suitcase", "suit case", "/luggage", "bag"),
    "frisbee": ("frisbee",),
    "skis": ("skis/skis", "?ski/-"),
    "snowboard": ("snowboard", "snow board", "board"),
    "sports ball": ("ball", "~tennis ball", "~soccer ball", "~beach ball", "~bowling ball", "~volley ball"),
    "kite": ("kite",),
    "baseball bat": ("baseball bat", "bat"),
    "baseball glove": ("baseball glove", "baseball mitt", "catcher's mitt", "mitt"),
    "skateboard": ("skateboard", "skate board", "board"),
    "surfboard": ("surfboard", "surf board", "board"),
    "tennis racket": ("tennis racket", "tennis racquet", "racket", "racquet"),
    "bottle": ("bottle",),
    "wine glass": ("wine glass", "wineglass", "glass"),
    "cup": ("cup", "~mug", "~teacup", "glass"),
    "fork": ("fork",),
    "knife": ("knife/knives",),
    "spoon": ("spoon",),
    "bowl": ("bowl",),
    "banana": ("banana",),
    "apple": ("apple",),
    "sandwich": ("sandwich", "~hamburger", "~burger"),
    "orange": ("?orange",),
    "broccoli": ("broccoli/broccoli",),
    "carrot": ("carrot",),
    "hot dog": ("hot dog", "hotdog"),
    "pizza": ("pizza", "pizza pie"),
    "donut": ("donut", "doughnut"),
    "cake": ("cake", "~cupcake", "~birthday cake", "~wedding cake"),
    "chair": ("chair", "~armchair", "~arm chair", "~stool"),
    "couch": ("couch", "sofa", "~loveseat"),
    "potted plant": ("potted plant", "house plant", "houseplant"),
    "bed": ("bed",),
    "dining table": ("dining table", "dinner table", "kitchen table", "table"),
    "toilet": ("toilet",),
    "tv": ("tv", "television", "tv set", "television set", "monitor", "computer monitor", "flat screen"),
    "laptop": ("laptop", "laptop computer"),
    "mouse": ("mouse/mice", "computer mouse/computer mice"),
    "remote": ("remote", "remote control", "~wii remote", "~game controller"),
    "keyboard": ("keyboard", "computer keyboard"),
    "cell phone": ("cell phone", "cellphone", "mobile phone", "smartphone", "smart phone", "phone"),
    "microwave": ("microwave", "microwave oven"),
    "oven": ("oven", "stove", "~stove top oven"),
    "toaster": ("toaster",),
    "sink": ("sink",),
    "refrigerator": ("refrigerator", "fridge"),
    "book": ("book",),
    "clock": ("clock",),
    "vase": ("vase",),
    "scissors": ("scissors/scissors", "pair of scissors/-"),
    "teddy bear": ("teddy bear", "teddy", "stuffed bear", "stuffed teddy bear"),
    "hair drier": ("hair drier", "hair dryer", "hairdryer", "blow dryer", "blow drier"),
    "toothbrush": ("toothbrush", "tooth brush"),
    "": (
        "train station", "train track", "train ride", "train yard", "bus stop", "bus station", "bus terminal",
        "car park", "car trunk", "dog house", "dog park", "dog food", "cat food", "panda bear", "panda", "toy",
        "toilet paper", "toilet bowl", "toilet lid", "toilet seat", "coffee table", "pool table", "picnic table",
        "side table", "end table", "night table", "table top", "table cloth", "tablecloth", "book shelf", "book case",
        "bookcase", "clock tower", "boat harbor", "bed room", "bed spread", "orange juice", "apple juice", "apple pie",
        "carrot cake", "dvd player", "cd player", "record player", "music player", "pitcher of", "fork in the road",
        "remote area", "remote location", "phone booth", "pay phone", "ball park", "ball game", "ball field",
        "cutting board", "bulletin board", "chalk board", "white board", "sign board", "paddle board", "board game",
        "eye glass", "magnifying glass", "glass of", "stained glass", "tea bag", "paper bag", "plastic bag",
        "sleeping bag", "bean bag", "trash bag", "chair lift", "ski lift", "ski slope",
        "ski resort", "ski pole", "ski lodge", "ski jump", "cross country ski", "cat nap", "at bat",
    ),
}  # fmt: skip

HEADS = frozenset(
    (
        "station", "stop", "track", "tracks", "tower", "shop", "store", "house", "juice", "paper", "food", "shelf",
        "case", "holder", "rack", "court", "field", "game", "match", "door", "window", "screen", "desk", "stall",
        "booth", "handset", "handsets", "trunk", "lid", "seat", "comforter", "filling", "dinner", "harbor", "dock",
        "costume", "statue", "sign", "equipment", "pie", "pies", "tree", "shaped", "print",
    )
)  # fmt: skip
"""Before one of these, a singular noun only describes it: "bus station", "clock tower"."""
OPEN = frozenset(
    (
        "and", "or", "in", "on", "at", "by", "with", "of", "to", "from", "near", "next", "beside", "behind", "under",
        "over", "is", "are", "was", "has", "who", "that", "which", "while", "as", "for", "holding", "sitting",
        "standing", "walking", "riding", "wearing", "playing", "looking", "eating", "laying", "lying", "brushing",
        "smiling",
    )
)  # fmt: skip
"""Before one of these, a word that may be an adjective is a noun."""


@dataclass(frozen=True)
class Noun:
    """A word for one or more categories, in the singular, the plural or either."""

    categories: tuple[str, ...]
    one: bool
    """It may be singular."""
    many: bool
    """It may be plural."""
    kind: bool = False
    """It names a kind of the category, so its plural may mean fewer objects than are labelled."""
    describes: bool = False
    """It may be an adjective."""


class Nouns:
    """Finds the nouns of a dataset's `categories` as whole words, the longest first."""

    def __init__(self, table: Mapping[str, Any], categories: Sequence[str]) -> None:
        """`table`: see above. The name of a category is always one of its nouns.

        ConfigError for a table without any of the categories, and for entries that are not words.
        """
        if categories and not set(categories) & set(table):
            first = next(iter(table), "")
            raise ConfigError(f"nouns has none of the data's categories (they are {', '.join(categories[:8])}"
                              f"{', ...' if len(categories) > 8 else ''}; it has {first!r})")  # fmt: skip
        found: dict[str, list[Noun]] = {}
        for category in (*categories, ""):
            entries = table.get(category, ())
            if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
                raise ConfigError(f"nouns.{category} is {entries!r}; it must be a list of words, as in [dog, puppy]")
            own = [category] if category and "/" not in category and not _lists(entries, category) else []
            for entry in (*own, *entries):
                for text, noun in _wordings(category, entry):
                    found.setdefault(_folded(text), []).append(noun)
        self.nouns = {text: _merged(nouns) for text, nouns in found.items()}
        ordered = sorted(self.nouns, key=len, reverse=True)
        either = "|".join(r"[\s-]+".join(map(re.escape, text.split())) for text in ordered)
        self.pattern = re.compile(rf"(?<![\w-])(?:{either})(?![\w-])", re.IGNORECASE)

    def of(self, text: str) -> Noun:
        """The noun for words that `pattern` found."""
        return self.nouns[_folded(text)]


def check_categories(setting: str, named: Iterable[str], categories: Sequence[str]) -> None:
    """ConfigError for a category in `setting` that the data does not have."""
    for category in named:
        if category not in categories:
            known = nearest(str(category), categories) or f" (they are {', '.join(categories[:20])})"
            raise ConfigError(f"{setting} has '{category}', which is none of the data's categories{known}")


def _wordings(category: str, entry: str) -> list[tuple[str, Noun]]:
    marks = re.match(r"[~?]*", entry)
    assert marks is not None
    kind, describes = "~" in marks[0], "?" in marks[0]
    singular, slash, several = (part.strip() for part in entry[marks.end() :].partition("/"))
    if not slash:
        several = plural(singular) if singular else ""
    if not re.search(r"\w", singular + several):
        raise ConfigError(f"nouns.{category} holds {entry!r}, which is no word")
    names = (category,) if category else ()
    if singular == several:
        return [(singular, Noun(names, True, True, kind, describes))]
    made = [(singular, Noun(names, True, False, kind, describes))] if singular else []
    if several and several != "-":
        made.append((several, Noun(names, False, True, kind)))
    return made


def _lists(entries: Sequence[str], category: str) -> bool:
    return any(category in entry.lstrip("~?").split("/") for entry in entries)


def _folded(text: str) -> str:
    return " ".join(re.split(r"[\s-]+", text.lower().strip()))


def _merged(nouns: Sequence[Noun]) -> Noun:
    categories = tuple(dict.fromkeys(name for noun in nouns for name in noun.categories))
    one, many = any(noun.one for noun in nouns), any(noun.many for noun in nouns)
    return Noun(categories, one, many, any(noun.kind for noun in nouns), any(noun.describes for noun in nouns))
