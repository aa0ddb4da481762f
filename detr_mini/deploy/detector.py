"""An exported file behind the face of `Detector`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from detr_mini.deploy.caption_files import CaptionReader, is_caption_file, open_reader
from detr_mini.deploy.caption_network import OBJECTS
from detr_mini.deploy.description import Description
from detr_mini.deploy.openvino_folder import MODEL
from detr_mini.deploy.runtimes import DETECTIONS, OPENED, Runtime, open_openvino
from detr_mini.errors import CheckpointError, ConfigError, UserError, first_line
from detr_mini.images.model_input import to_model_input
from detr_mini.inference.captions import answer, asked_categories, encoded, listed_names, warn_of_unknown
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
from detr_mini.models.grounded import one_caption, read_phrases
from detr_mini.models.heads import suppress
from detr_mini.models.open_vocabulary import OpenVocabularyDetector
from detr_mini.structures import Captions, Categories, DetectorOutput, OperatingPoint, PhraseFound
from detr_mini.structures import Detections as PlainDetections
from detr_mini.text.tokenizers import AnyTokenizer

NO_CAPTIONS = "this file takes no captions; export a detector that was trained with captions (model=mini_grounded)"


def is_exported(path: str | Path) -> bool:
    """Whether `path` is a file or folder of `detr-mini export`, by its name: .onnx, .pt2, .xml, a folder with
    model.xml."""
    path = Path(path).expanduser()
    return (path.suffix in (".onnx", ".pt2", ".xml") and not path.is_dir()) or (path / MODEL).is_file()


def inputs_of(images: Sequence[UInt8[Tensor, "3 h w"]], description: Description) -> dict[str, np.ndarray]:
    """The arrays that a file of this description takes for pictures of one size."""
    if description.input == "pixels":
        return {"pixels": np.stack([image.permute(1, 2, 0).numpy() for image in images])}
    prepared = [to_model_input(image, **description.image).numpy() for image in images]
    return {"images": np.stack(prepared), "sizes": np.array([image.shape[1:] for image in images], np.int64)}


def open_exported(path: str | Path) -> ExportedDetector:
    """The detector in a file or folder of `detr-mini export`. CheckpointError where it is none."""
    path = Path(path).expanduser()
    file = path if path.suffix in (".onnx", ".pt2") or not path.is_dir() else path / MODEL
    opened: Callable[[Path], Runtime] = OPENED.get(file.suffix, open_openvino)
    if not file.is_file():
        raise CheckpointError(f"there is no exported file {file}; check the path")
    if is_caption_file(file):
        raise CheckpointError(f"{file} is the second file of an export, which answers captions; give the first one")
    runtime = opened(file)
    description = Description.read(runtime.properties, str(path))
    reader = None if description.captions is None else open_reader(file, description.captions, opened)
    return ExportedDetector(runtime, description, str(path), reader)


class ExportedDetector:
    """A file of `detr-mini export` and the runtime that computes it. `detect` is that of `Detector`."""

    def __init__(
        self, runtime: Runtime, description: Description, name: str, reader: CaptionReader | None = None
    ) -> None:
        """`name` stands in errors. `reader`: of a detector with captions, its second file."""
        self.runtime, self.description, self.name = runtime, description, name
        self.categories, self.image = description.categories, dict(description.image)
        self.box_sizes, self.most = description.box_sizes, description.limit
        self._point, self.reader = description.point, reader
        self._by_names = None if reader is None else OpenVocabularyDetector(reader, reader.tokenizer)

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

        Arguments and errors are those of `Detector.detect`. Without a caption, ConfigError for a `limit` above that of
        the file. In a forked process the file is read again, once; CheckpointError where it has gone or changed.
        """
        if caption is not None:
            self._checked_reader()
        if tiles is not None:
            most = self.description.limit
            return detect_tiled(
                self, images, tiles, overlap, caption, threshold, limit, batch_size, channels, in_window=most
            )
        least = self.least_score(threshold, caption)
        own = USUAL_LIMIT if caption is not None else self.description.limit
        most = min(USUAL_LIMIT, own) if limit is None else limit
        checked_counts(most, batch_size)
        if caption is None and most > own:
            raise ConfigError(
                f"limit is {most}, and {self.name} gives {self.description.limit} detections of an image at most; "
                f"export the checkpoint again with limit={most}"
            )
        given, one = each_of(images)
        names = listed_names(caption)
        warn_of_unknown(caption, self.tokenizer)
        found: list[PlainDetections] = []
        for start in range(0, len(given), batch_size):
            pixels = [as_tensor(image, channels) for image in given[start : start + batch_size]]
            if caption is None:
                found += self._found_in(pixels, most)
            elif names is not None:
                found += self._named_in(pixels, self.categories_of(caption), most)
            else:
                found += self._asked_in(pixels, str(caption), least, most)
        warn = limit is None and (caption is None or names is not None)
        kept: list[Detections] = reported(found, given, channels, least, most, warn)
        if names is not None:
            kept = [replace(detections, phrases=detections.names) for detections in kept]
        return kept[0] if one else kept

    @property
    def tokenizer(self) -> AnyTokenizer | None:
        """Of captions, where they are taken."""
        return None if self.reader is None else self.reader.tokenizer

    @property
    def threshold(self) -> float:
        """Of the answers to a sentence."""
        return 0.5 if self.description.captions is None else self.description.captions.threshold

    def by_names(self) -> OpenVocabularyDetector:
        """What scores categories by their names. UserError where captions are not taken."""
        if self._by_names is None:
            raise UserError(NO_CAPTIONS)
        return self._by_names

    def look(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> DetectorOutput:
        """The objects in pictures of one size, which captions are about. UserError where captions are not taken."""
        self._checked_reader()
        objects, boxes, logits = map(torch.from_numpy, self._run(images, OBJECTS))
        return DetectorOutput(logits=logits, boxes=boxes, queries=objects)

    def answers(
        self, output: DetectorOutput, captions: Captions, sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[PhraseFound, ...]]:
        """The phrases of `captions` with a score for every object of `look`. `sizes`: (height, width) of its images."""
        grounding = self._checked_reader().ground(output, captions)
        return read_phrases(replace(output, grounding=grounding), captions, sizes)

    def least_score(self, threshold: float | int | None = None, caption: str | Sequence[str] | None = None) -> float:
        """`threshold`, or where it is None the file's. ConfigError where it is no score, UserError for a caption
        where none is taken."""
        if caption is not None:
            self._checked_reader()
        if threshold is not None:
            return checked_score(threshold)
        return self._point.threshold if caption is None else self.threshold

    def categories_of(self, caption: str | Sequence[str] | None) -> Categories:
        """What the labels of detections mean. UserError for a caption where none is taken."""
        if caption is not None:
            self._checked_reader()
        return asked_categories(caption, self.categories)

    def _checked_reader(self) -> CaptionReader:
        if self.reader is None:
            raise UserError(NO_CAPTIONS)
        return self.reader

    def _asked_in(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]], caption: str, least: float, most: int
    ) -> Iterator[PlainDetections]:
        """What a sentence asks for in each image."""
        reader = self._checked_reader()
        encoding = encoded(caption, reader.tokenizer, reader.max_tokens)
        for alike, sizes in _by_size(images):
            output = self.look(alike)
            phrases = self.answers(output, one_caption(encoding, len(alike)), sizes)
            for one in zip(phrases, output.logits.argmax(-1), sizes, strict=True):
                yield answer(*one, caption, least, self.categories)[:most]

    def _named_in(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]], names: Categories, most: int
    ) -> Iterator[PlainDetections]:
        """The `most` best detections of the categories `names` in each image."""
        for alike, sizes in _by_size(images):
            for found in self.by_names().postprocess(self.look(alike), sizes, names, most):
                yield suppress(found, self._point.suppress_iou)

    def _found_in(self, images: Sequence[UInt8[Tensor, "3 _ _"]], most: int) -> Iterator[PlainDetections]:
        """The `most` best detections of each image, whatever their score."""
        for alike, sizes in _by_size(images):
            boxes, scores, labels = self._run(alike)
            for row, size in enumerate(sizes):
                whole = PlainDetections(
                    torch.from_numpy(boxes[row]).clamp(min=0),
                    torch.from_numpy(scores[row]),
                    torch.from_numpy(labels[row]).long(),
                    self.categories,
                    image_size=size,
                )[:most]
                real = whole[whole.scores >= 0]
                inside = self.description.point.suppress_iou
                yield real if inside is not None else suppress(real, self._point.suppress_iou)

    def _run(self, images: Sequence[UInt8[Tensor, "3 h w"]], outputs: Sequence[str] = DETECTIONS) -> list[np.ndarray]:
        try:
            found = self.runtime.run(inputs_of(images, self.description), outputs)
            return [np.array(values) for values in found]  # a runtime may use its own memory again
        except CheckpointError:  # in a forked child, which reads the file again
            raise
        except Exception as error:  # each runtime has errors of its own
            height, width = images[0].shape[1:]
            raise UserError(
                f"{self.runtime.name} cannot run {self.name} on an image of {width} x {height} pixels "
                f"({first_line(error)[:200]}); try a smaller image or batch_size=1"
            ) from error


def _by_size(
    images: Sequence[UInt8[Tensor, "3 _ _"]],
) -> Iterator[tuple[list[UInt8[Tensor, "3 h w"]], list[tuple[int, int]]]]:
    """Neighbours of one size, which go in one call, with the (height, width) of each."""
    for (_, height, width), group in groupby(images, lambda image: tuple(image.shape)):
        alike = list(group)
        yield alike, [(int(height), int(width))] * len(alike)
