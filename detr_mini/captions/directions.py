"""Whether a transform can make a caption false: if it moves points or changes colours, and the caption names them."""

from __future__ import annotations

import colorsys
import copy
import re
from collections.abc import Iterator
from typing import Any

import torch

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.data.augment import Augment
from detr_mini.structures import Target

SIDEWAYS = (
    r"left\w*|right\w*|(counter|anti)?-?clockwise|links|rechts|gauche|droite|izquierd\w+|derech\w+|sinistr\w+|"
    r"destr\w+|esquerd\w+|direit\w+"
)
UPRIGHT = (
    r"above|below|top\w*|bottom\w*|upper\w*|lower\w*|under\w*|over|beneath|high(er|est)|lowest|upside|"
    r"up|down|(up|down)ward\w*|(counter|anti)?-?clockwise|oben|unten|über|unter|haut|bas|dessus|dessous|arriba|abajo|encima|debajo"
)
COLOURS = (
    r"colou?r\w*|red(dish)?s?|orange|yellow(ish)?|green(ish)?|blu(e|ish)|cyan|turquoise|teal|navy|purpl(e|ish)|violet|"
    r"magenta|pink(ish)?|brown(ish)?|beige|tan|maroon|gold(en)?|silver|black|white|gr[ae]y(ish)?|dark(er|est)?|pale|"
    r"(rot|gelb|grün|blau|violett|braun|schwarz|wei(ß|ss)|grau|bunt|farbig|dunkl)(e[mnrs]?)?|dunkel|lila|rosa|türkis|"
    r"rouges?|jaunes?|verte?s?|bleue?s?|violett?e?s?|roses?|brune?s?|marron|noire?s?|blanc(he)?s?|grise?s?|couleurs?|"
    r"roj[oa]s?|amarill[oa]s?|verdes?|azul(es)?|naranja|morad[oa]s?|marr[oó]n(es)?|negr[oa]s?|blanc[oa]s?|gris(es)?|"
    r"ross[oaie]|giall[oaie]|verdi|blu|azzurr[oaie]|viola|arancio(ne|ni)?|marroni|ner[oaie]|bianc(o|a|hi|he)|grigi[oae]?|"
    r"vermelh[oa]s?|amarel[oa]s?|azuis|laranja|rox[oa]s?|marrom|pret[oa]s?|branc[oa]s?|cinz(a|ent[oa])s?"
)
WORDS = {
    "x": re.compile(rf"\b({SIDEWAYS})\b|[左右]", re.I),
    "y": re.compile(rf"\b({UPRIGHT})\b|[上下]", re.I),
    "colour": re.compile(rf"\b({COLOURS})\b|[红紅赤黄黃绿綠緑蓝藍青紫粉橙黑白灰色]", re.I),
}
"""Words that mirroring or a change of colours makes false, by axis."""
COLOUR = frozenset({"colour"})
HUES = (0, 60, 120, 180, 240, 300, None, None, None)
"""Degrees, in full colours, of the nine fields of the test image, row by row; None is white."""
TURN = 25
"""Degrees by which a hue may change and keep its name."""
SIDES = (256, 1024)
"""Sides of the test images in pixels. A transform that crops more than the first needs the second."""
MARK = 0.04
"""Side of a mark as a share of the image's."""
TRIES = 24


def axes_of(text: str) -> frozenset[str]:
    """The axes that a caption names: "x" for left and right, "y" for above and below, "colour" for red."""
    return frozenset(axis for axis, words in WORDS.items() if words.search(text))


def axes_moved(transform: Any) -> frozenset[str]:
    """The axes along which a transform may change the order of two points; "colour" if it may rename a colour."""
    moved = set()
    for picture, centres in _marks_after(transform):
        if any(_has_changed(picture, centre, HUES[label - 4]) for label, centre in centres.items() if label >= 4):
            moved.add("colour")
        corners = {label: centre for label, centre in centres.items() if label < 4}  # of the corners: 0 1 above 2 3
        for axis, pairs in (("x", ((0, 1), (2, 3))), ("y", ((0, 2), (1, 3)))):
            for first, second in pairs:
                if first in corners and second in corners:
                    step = corners[second] - corners[first]
                    along, across = (step[0], step[1]) if axis == "x" else (step[1], step[0])
                    if float(along) <= abs(float(across)):
                        moved.add(axis)
    return frozenset(moved)


def cuts(transform: Any) -> bool:
    """Whether a transform may leave a marked point outside the image."""
    return any(sum(label < 4 for label in centres) < 4 for _, centres in _marks_after(transform))


def _has_changed(picture: torch.Tensor, centre: torch.Tensor, hue: int | None) -> bool:
    """Whether a field that had this hue (None: was white) has a colour of another name."""
    x, y = (min(int(place), side - 1) for place, side in zip(centre.tolist(), picture.shape[:0:-1], strict=True))
    now, saturation, value = colorsys.rgb_to_hsv(*(picture[:, y, x] / 255).expand(3).tolist())
    if hue is None:
        return saturation > 0.2 or value < 0.5
    return saturation < 0.2 or value < 0.25 or abs((360 * now - hue + 180) % 360 - 180) > TURN


class SteadyAugment:
    """An augmentation without the transforms that change the order of points along some axes, or colours."""

    def __init__(self, augment: Augment) -> None:
        self.augment = augment
        self._moved: list[list[frozenset[str]]] | None = None
        """The axes of each strong and of each other transform: tried once, since it takes many tries."""
        self._made: dict[frozenset[str], Augment] = {frozenset(): augment}

    def along(self, axes: frozenset[str]) -> Augment:
        """Without what moves points along one of `axes`, or changes colours if "colour" is among them."""
        if axes not in self._made:
            both = self.augment.strong, self.augment.transforms
            self._moved = self._moved or [[axes_moved(t) for t in own] for own in both]
            strong, plain = (
                [t for t, moved in zip(own, known, strict=True) if not axes & moved]
                for own, known in zip(both, self._moved, strict=True)
            )
            self._made[axes] = Augment(plain, self.augment.seed, strong)
        return self._made[axes]


def _marks_after(transform: Any) -> Iterator[tuple[torch.Tensor, dict[int, torch.Tensor]]]:
    """The test image after the transform and the centres of its marks in pixels, many times, without marks cut off.

    Marks 0 to 3 are in the corners, the others in the middle of each of the nine fields.
    """
    near, far, thirds = MARK / 2, 1 - MARK / 2, (1 / 6, 1 / 2, 5 / 6)
    centres = [(x, y) for side in ((near, far), thirds) for y in side for x in side]
    boxes = torch.tensor([[*centre, MARK, MARK] for centre in centres])
    colours = [(1.0, 1.0, 1.0) if hue is None else colorsys.hsv_to_rgb(hue / 360, 1, 1) for hue in HUES]
    fields = (255 * torch.tensor(colours)).to(torch.uint8).T.reshape(3, 3, 3)
    n = len(boxes)
    for tried in _certain(transform):
        for side in SIDES:
            places = torch.arange(side) * 3 // side
            image = fields[:, places][:, :, places]
            try:
                for seed in range(TRIES):
                    target = Target(boxes, torch.arange(n), seed, (side, side), torch.zeros(n).bool(), torch.ones(n))
                    picture, after, _ = Augment([tried], seed)(image, target, 0)
                    scale = torch.tensor([picture.shape[2], picture.shape[1]] * 2)
                    middles = (cxcywh_to_xyxy(after.boxes) * scale).unflatten(1, (2, 2)).mean(1)
                    yield picture, dict(zip(after.labels.tolist(), middles, strict=True))
                break
            except (ValueError, RuntimeError):  # needs a larger image; training reports other errors
                continue


def _certain(transform: Any) -> Iterator[Any]:
    """The transform, and each random part of it with probability 1."""
    yield transform
    if isinstance(getattr(transform, "p", None), int | float):
        certain = copy.copy(transform)
        certain.p = 1.0
        yield certain
    parts = getattr(transform, "transforms", ())
    for part in parts if isinstance(parts, list | tuple | torch.nn.ModuleList) else ():
        yield from _certain(part)
