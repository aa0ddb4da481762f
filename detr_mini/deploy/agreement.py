"""Whether an exported file finds what its model finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from detr_mini.errors import UserError
from detr_mini.inference.pixels import ImageLike
from detr_mini.inference.requests import DetectorLike
from detr_mini.scenes.shapes import draw_scene
from detr_mini.structures import Detections
from detr_mini.text.names import passes
from detr_mini.text.tokenizers import AnyTokenizer, WordTokenizer, lowered

LEAST_SCORE = 0.05
"""Detections above it are compared, and where there are fewer, the FEWEST best of the image."""
FEWEST = 5
MADE_SIZES = ((96, 128), (240, 320), (333, 250), (64, 300), (427, 640), (31, 17))
"""(height, width) of the made pictures."""


class Tolerance(NamedTuple):
    """How far two detections of one object may be apart."""

    pixels: float
    """Of each side of a box, or `share` of the image's longer side, whichever is more."""
    share: float
    score: float
    unpaired: float
    """The share of detections that may have no partner: where two scores are equal to the last digits, or an overlap is
    that of the suppression, rounding decides which detection remains."""


TOLERANCES = {"fp32": Tolerance(1.0, 0.005, 0.005, 0.02), "fp16": Tolerance(2.0, 0.02, 0.02, 0.05),
              "int8": Tolerance(4.0, 0.05, 0.1, 0.25)}  # fmt: skip
"""By the precision of the file. In int8, an AP lower by 0.001 came with 17 % of all detections above LEAST_SCORE beyond
the tolerance, one lower by 0.03 with 45 %."""


@dataclass(frozen=True)
class Agreement:
    """The detections of two detectors on the same pictures, side by side."""

    pictures: int
    detections: int
    """Of both, those that were compared."""
    unpaired: int
    """Those without a partner within the tolerance."""
    box_error: float
    """The largest distance of a side of a box between partners, in pixels."""
    score_error: float
    """The largest difference of scores between partners."""
    tolerance: Tolerance
    captions: int = 0
    """Asked about each picture; 0: none was, and the detections are those of the detector's own categories."""

    @property
    def holds(self) -> bool:
        """Whether all detections but for ties have a partner."""
        return self.unpaired <= self.tolerance.unpaired * self.detections

    def __str__(self) -> str:
        pixels, share, score, _ = self.tolerance
        asked = f" with {self.captions} captions each" if self.captions else ""
        return (
            f"{self.detections - self.unpaired} of {self.detections} detections on {self.pictures} pictures{asked} "
            f"have a partner: boxes differ by at most {self.box_error:.2f} pixels, scores by {self.score_error:.4f} "
            f"(tolerance: {pixels:g} pixels or {share:.1%} of the picture's side, score {score:g})"
        )


def compare(
    model: DetectorLike,
    exported: DetectorLike,
    pictures: Sequence[ImageLike],
    tolerance: Tolerance,
    limit: int,
    fewest: int = FEWEST,
    captions: Sequence[str | Sequence[str]] = (),
) -> Agreement:
    """The `limit` best detections of both in each of `pictures`, each with its partner of the same category.

    Of each picture, those above LEAST_SCORE are compared, and the `fewest` best at least. With `captions`, the answers
    to each of them are compared instead, each with its partner of the same phrase.
    """
    count = unpaired = 0
    box_error = score_error = 0.0
    for picture, caption in product(pictures, captions or (None,)):  # one at a time: the file is also used like this
        pair = [each.detect(picture, caption, threshold=0.0, limit=limit) for each in (model, exported)]
        for some, others in (pair, pair[::-1]):
            chosen = some[: max(int((some.scores >= LEAST_SCORE).sum()), fewest)]
            sides, scores, partners = _differences(chosen, others, tolerance)
            paired = partners.any(1)
            count, unpaired = count + len(chosen), unpaired + int((~paired).sum())
            if paired.any():
                nearest = torch.where(partners, sides, torch.inf).argmin(1)[paired, None]
                box_error = max(box_error, float(sides[paired].gather(1, nearest).max()))
                score_error = max(score_error, float(scores[paired].gather(1, nearest).max()))
    return Agreement(len(pictures), count, unpaired, box_error, score_error, tolerance, len(captions))


def _differences(
    some: Detections, others: Detections, tolerance: Tolerance
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"], Bool[Tensor, "n m"]]:
    """Of each of `some` to each of `others`: how far boxes and scores are apart, and whether they can be partners."""
    sides = (some.boxes[:, None] - others.boxes[None]).abs().amax(-1)
    scores = (some.scores[:, None] - others.scores[None]).abs()
    near = max(tolerance.pixels, tolerance.share * max(some.image_size))
    if some.phrases is None or others.phrases is None:
        same = some.labels[:, None] == others.labels[None]
    else:
        same = torch.tensor([[a == b for b in others.phrases] for a in some.phrases], dtype=torch.bool)
        same = same.view(sides.shape)
    return sides, scores, same & (sides <= near) & (scores <= tolerance.score)


def made_pictures() -> list[UInt8[np.ndarray, "h w 3"]]:
    """Coloured shapes on textured grounds, in sizes of every kind: wide, high, larger and smaller than the model's."""
    return [
        np.ascontiguousarray(draw_scene(0, "test", index, max(height, width, 64)).image[:height, :width])
        for index, (height, width) in enumerate(MADE_SIZES)
    ]


def made_captions(names: Sequence[str], tokenizer: AnyTokenizer, most: int) -> list[str | list[str]]:
    """Captions of at most `most` tokens: sentences about the categories `names`, sentences of words that the tokeniser
    knows in any order, and lists of names."""
    first, last = names[0], names[-1]
    sentences = [f"the {first}", f"every {last} to the left of the {first}", f"the {first}, and the {last} above it."]
    known = tokenizer.words if isinstance(tokenizer, WordTokenizer) else tuple(f"{' '.join(sentences)}".split())
    draw = np.random.default_rng(0)
    sentences += [" ".join(draw.choice(known, count)) for count in (1, 3, 6, 12, 24) if known]
    short = [text for text in sentences if len(tokenizer.encode(lowered(text)).framed().ids) <= most]
    listed = list({name.strip().lower(): name for name in names if _fits(name, tokenizer, most)}.values())
    return [*short, *filter(None, (listed[:2], listed[:20]))]


def _fits(name: str, tokenizer: AnyTokenizer, most: int) -> bool:
    try:
        return bool(name.strip()) and bool(passes([name], tokenizer, most))
    except UserError:
        return False
