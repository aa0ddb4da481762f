"""What a detector returns: the plain structure, with what people do with it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detr_mini import structures
from detr_mini.boxes import xyxy_to_xywh
from detr_mini.drawing.boxes import draw_detections
from detr_mini.errors import UserError
from detr_mini.inference.pixels import ImageLike, as_tensor

SHOWN = 20
"""Rows of a table in a notebook."""
SIDE = 640
"""Pixels of the longer side of a picture in a notebook."""


def to_coco_records(detections: structures.Detections, image_id: int, decimals: int = 3) -> list[dict[str, Any]]:
    """COCO results records of one image, in the order of the detections.

    `bbox` is (left, top, width, height) in pixels, rounded to `decimals`; `category_id` is the dataset's own id;
    scores have six decimals.
    """
    boxes = torch.round(xyxy_to_xywh(detections.boxes.detach().cpu().double()), decimals=decimals).tolist()
    scores = torch.round(detections.scores.detach().cpu().double(), decimals=6).tolist()
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for category_id, box, score in zip(detections.category_ids, boxes, scores, strict=True)
    ]


@dataclass(frozen=True, repr=False)
class Detections(structures.Detections):
    """What was found in one image, with its `source`. Filters like an array: `detections[detections.scores > 0.5]`.

    In a notebook it shows itself as a picture and a table.
    """

    source: Any = field(default=None, compare=False)
    """The image as it was given: a path, a PIL image, an array or a tensor."""
    channels: str = field(default="rgb", compare=False)
    """The order of an array's channels."""

    @classmethod
    def of(cls, found: structures.Detections, source: Any = None, channels: str = "rgb") -> Detections:
        """`found` with the image that it was found in."""
        parts = (found.boxes, found.scores, found.labels, found.categories, found.phrases, found.image_size)
        return cls(*parts, found.queries, source, channels)

    def records(self) -> list[dict[str, Any]]:
        """A plain dict each, best first: name, score, category_id, bbox (x, y, width, height) and, if any, phrase."""
        return [
            {"name": name, "score": record["score"], "category_id": record["category_id"], "bbox": record["bbox"]}
            | ({} if self.phrases is None else {"phrase": self.phrases[row]})
            for row, (name, record) in enumerate(zip(self.names, to_coco_records(self, 0), strict=True))
        ]

    def draw(self, image: ImageLike | None = None, longest: int | None = None) -> Image.Image:
        """The picture with its boxes, names and scores. `image`: where it is not the one that was given to `detect`.

        `longest`: pixels of the longer side; None: as the image has. UserError where there is no image.
        """
        given = self.source if image is None else image
        if given is None:
            raise UserError("these detections do not know their image; give it: detections.draw(image)")
        pixels = as_tensor(given, self.channels)
        if tuple(pixels.shape[1:]) != tuple(self.image_size):
            height, width = self.image_size
            raise UserError(f"the image has {pixels.shape[2]} x {pixels.shape[1]} pixels, and the boxes are of one "
                            f"with {width} x {height}; give the image that they were found in")  # fmt: skip
        return draw_detections(pixels, self, longest)

    def to_supervision(self) -> Any:
        """`supervision.Detections` with the same boxes and scores; `class_id` is the label 0..K-1, names in its data.

        UserError if the package `supervision` is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise UserError(
                "to_supervision needs the package 'supervision', which is not installed; run 'pip install supervision'"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes.detach().cpu().float().numpy(),
            confidence=self.scores.detach().cpu().float().numpy(),
            class_id=self.labels.detach().cpu().numpy().astype(int),
            data={"class_name": np.array(self.names, dtype=object)},
        )

    def to_pandas(self) -> Any:
        """A DataFrame with name, score, x1, y1, x2, y2, category_id and, if any, phrase.

        UserError where pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped,unused-ignore]  # not a dependency
        except ImportError as error:
            raise UserError(
                "to_pandas needs the package 'pandas', which is not installed; run 'pip install pandas'"
            ) from error
        boxes = self.boxes.detach().cpu().tolist()
        columns = {"name": list(self.names), "score": self.scores.detach().cpu().tolist()}
        columns |= {key: [box[i] for box in boxes] for i, key in enumerate(("x1", "y1", "x2", "y2"))}
        columns["category_id"] = list(self.category_ids)
        if self.phrases is not None:
            columns["phrase"] = list(self.phrases)
        return pandas.DataFrame(columns)

    def _title(self) -> str:
        height, width = self.image_size
        where = f" in {self.source}" if isinstance(self.source, str | Path) else ""
        return f"{len(self)} detection{'' if len(self) == 1 else 's'}{where} ({width} x {height} pixels)"

    def _rows(self) -> list[tuple[str, ...]]:
        boxes = self.boxes.detach().cpu().round().int().tolist()
        named = self.phrases or self.names
        return [(n, f"{s:.2f}", *map(str, b)) for n, s, b in zip(named, self.scores.tolist(), boxes, strict=True)]

    def __repr__(self) -> str:
        lines = [f"  {name} {score} at ({', '.join(box)})" for name, score, *box in self._rows()[:SHOWN]]
        more = [f"  and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join([self._title(), *lines, *more])

    def _repr_html_(self) -> str:
        """The picture and a table, for a notebook."""
        heads = "".join(f"<th>{head}</th>" for head in ("", "score", "x1", "y1", "x2", "y2"))
        cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self._rows()[:SHOWN]]
        rows = "".join(f"<tr>{row}</tr>" for row in cells)
        more = f"<p>and {len(self) - SHOWN} more</p>" if len(self) > SHOWN else ""
        return f"{self._picture()}<p>{escape(self._title())}</p><table><tr>{heads}</tr>{rows}</table>{more}"

    def _picture(self) -> str:
        try:
            drawn = self.draw(longest=SIDE)
        except UserError:  # no image, or its file has gone
            return ""
        content = io.BytesIO()
        drawn.save(content, "JPEG", quality=88)
        return f'<img src="data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}">'
