"""An exported file behind the face of `Detector`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from detr_mini.deploy.description import Description
from detr_mini.deploy.openvino_folder import MODEL
from detr_mini.deploy.runtimes import Runtime, open_onnx, open_openvino, open_torch
from detr_mini.errors import CheckpointError, ConfigError, UserError, first_line
from detr_mini.images.model_input import to_model_input
from detr_mini.inference.detect_tiles import detect_tiled
from detr_mini.inference.detections import Detections
from detr_mini.inference.pixels import as_tensor
from detr_mini.inference.requests import (
    USUAL_LIMIT,
    checked_counts,
    checked_score,
    described,
    each_of,
    reported,
)
from detr_mini.models.heads import suppress
from detr_mini.structures import Categories, OperatingPoint
from detr_mini.structures import Detections as PlainDetections

NO_CAPTIONS = "an exported file takes no captions; use the checkpoint that it was exported from"


def is_exported(path: str | Path) -> bool:
    """Whether `path` is a file or folder of `detr-mini export`, by its name: .onnx, .pt2, .xml, a folder with
    model.xml."""
    path = Path(path).expanduser()
    return path.suffix in (".onnx", ".pt2", ".xml") or (path / MODEL).is_file()


def inputs_of(images: Sequence[UInt8[Tensor, "3 h w"]], description: Description) -> dict[str, np.ndarray]:
    """The arrays that a file of this description takes for pictures of one size."""
    if description.input == "pixels":
        return {"pixels": np.stack([image.permute(1, 2, 0).numpy() for image in images])}
    prepared = [to_model_input(image, **description.image).numpy() for image in images]
    return {"images": np.stack(prepared), "sizes": np.array([image.shape[1:] for image in images], np.int64)}


def open_exported(path: str | Path) -> ExportedDetector:
    """The detector in a file or folder of `detr-mini export`. CheckpointError where it is none."""
    path = Path(path).expanduser()
    if path.suffix in (".onnx", ".pt2"):
        file, opened = path, open_onnx if path.suffix == ".onnx" else open_torch
    else:
        file, opened = (path / MODEL if path.is_dir() else path), open_openvino
    if not file.is_file():
        raise CheckpointError(f"there is no exported file {file}; check the path")
    runtime = opened(file)
    return ExportedDetector(runtime, Description.read(runtime.properties, str(path)), str(path))


class ExportedDetector:
    """A file of `detr-mini export` and the runtime that computes it. `detect` is that of `Detector`."""

    def __init__(self, runtime: Runtime, description: Description, name: str) -> None:
        """`name` stands in errors."""
        self.runtime, self.description, self.name = runtime, description, name
        self.categories, self.image = description.categories, dict(description.image)
        self.box_sizes = description.box_sizes
        self._point = description.point

    def __repr__(self) -> str:
        more = f", {self.description.precision} in {self.runtime.name}"
        return described(type(self).__name__, self.categories, self.image, self._point, more)

    @property
    def operating_point(self) -> OperatingPoint:
        """Which detections are reported. A file with suppression inside keeps its overlap: UserError for another."""
        return self._point

    @operating_point.setter
    def operating_point(self, point: OperatingPoint) -> None:
        inside = self.description.point.suppress_iou
        if inside is not None and point.suppress_iou != inside:
            raise UserError(
                f"{self.name} itself suppresses overlaps above {inside:g}, so suppress_iou={point.suppress_iou} has no "
                "effect on it; export the checkpoint again with that suppress_iou, or leave the setting out"
            )
        self._point = point

    def detect(
        self,
        images: Any,
        caption: str | Sequence[str] | None = None,
        threshold: float | int | None = None,
        limit: int | None = None,
        batch_size: int = 8,
        channels: str = "rgb",
        tiles: int | str | None = None,
        overlap: float | int = 0.2,
    ) -> Any:
        """What is in an image, or in each of a list: `Detections`, or a list of them, as `Detector.detect` gives.

        Arguments and errors are those of `Detector.detect`. UserError for a caption; ConfigError for a `limit` above
        that of the file.
        """
        if tiles is not None:
            most = self.description.limit
            return detect_tiled(
                self, images, tiles, overlap, caption, threshold, limit, batch_size, channels, in_window=most
            )
        least = self.least_score(threshold, caption)
        most = min(USUAL_LIMIT, self.description.limit) if limit is None else limit
        checked_counts(most, batch_size)
        if most > self.description.limit:
            raise ConfigError(
                f"limit is {most}, and {self.name} gives {self.description.limit} detections of an image at most; "
                f"export the checkpoint again with limit={most}"
            )
        given, one = each_of(images)
        found: list[PlainDetections] = []
        for start in range(0, len(given), batch_size):
            pixels = [as_tensor(image, channels) for image in given[start : start + batch_size]]
            found += self._found_in(pixels, most)
        kept: list[Detections] = reported(found, given, channels, least, most, warn=limit is None)
        return kept[0] if one else kept

    def least_score(self, threshold: float | int | None = None, caption: str | Sequence[str] | None = None) -> float:
        """`threshold`, or where it is None the file's. ConfigError where it is no score, UserError for a caption."""
        if caption is not None:
            raise UserError(NO_CAPTIONS)
        return self._point.threshold if threshold is None else checked_score(threshold)

    def categories_of(self, caption: str | Sequence[str] | None) -> Categories:
        """What the labels of detections mean. UserError for a caption."""
        if caption is not None:
            raise UserError(NO_CAPTIONS)
        return self.categories

    def _found_in(self, images: Sequence[UInt8[Tensor, "3 _ _"]], most: int) -> Iterator[PlainDetections]:
        """The `most` best detections of each image, whatever their score. Neighbours of one size go in one call."""
        for _, group in groupby(images, lambda image: tuple(image.shape)):
            alike = list(group)
            boxes, scores, labels = self._run(alike)
            height, width = alike[0].shape[1:]
            for row in range(len(alike)):
                whole = PlainDetections(
                    torch.from_numpy(boxes[row]).clamp(min=0),
                    torch.from_numpy(scores[row]),
                    torch.from_numpy(labels[row]).long(),
                    self.categories,
                    image_size=(int(height), int(width)),
                )[:most]
                real = whole[whole.scores >= 0]
                inside = self.description.point.suppress_iou
                yield real if inside is not None else suppress(real, self._point.suppress_iou)

    def _run(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[np.ndarray]:
        try:
            found = self.runtime.run(inputs_of(images, self.description))
            return [np.array(values) for values in found]  # a runtime may use its own memory again
        except Exception as error:  # each runtime has errors of its own
            height, width = images[0].shape[1:]
            raise UserError(
                f"{self.runtime.name} cannot run {self.name} on an image of {width} x {height} pixels "
                f"({first_line(error)[:200]}); try a smaller image or batch_size=1"
            ) from error
