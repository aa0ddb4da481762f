"""What an exported file says of itself: the metadata that travel with it, as text under names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from detr_mini.errors import CheckpointError, DataError
from detr_mini.images.tiling import BoxSizes, are_box_sizes
from detr_mini.structures import Categories, OperatingPoint

KEY = "detr_mini"
"""The property that marks a file as ours; its value is the version of the package that wrote it."""
BOX_SIZES, CAPTIONS = "box_sizes", "captions"
INPUTS = ("pixels", "tensor")
PRECISIONS = ("fp32", "fp16", "int8")
OLDEST = {"onnxruntime": "1.22", "openvino": "2025.2"}
"""The oldest versions of the runtimes that were tried; pyproject.toml asks for them."""


@dataclass(frozen=True)
class TakesCaptions:
    """What both files of a detector with captions say of how they belong together, and of captions."""

    max_tokens: int
    """Of a caption, [BEGIN] and [END] included."""
    threshold: float
    """The least score of an answer to a sentence that counts."""
    tokenizer: str
    """SHA-256 of tokenizer.json."""
    weights: str
    """SHA-256 of the checkpoint's weights."""

    def properties(self, version: str) -> dict[str, str]:
        """Of the second file, in the form of `Description.properties`."""
        return {KEY: version, CAPTIONS: json.dumps(asdict(self))}

    @classmethod
    def read(cls, text: str) -> TakesCaptions:
        """The inverse for one entry. ValueError or TypeError for anything else."""
        given = cls(**json.loads(text))
        sums = (given.tokenizer, given.weights)
        if not (_whole(given.max_tokens) and _share(given.threshold) and _list_of([*sums], str)):
            raise ValueError(CAPTIONS)
        return given


@dataclass(frozen=True)
class Description:
    """What somebody needs to use an exported file."""

    categories: Categories
    point: OperatingPoint
    """The least score to report, and the overlap above which the file itself suppresses."""
    image: Mapping[str, Any]
    """As in a checkpoint (`images.model_input.IMAGE_KEYS`)."""
    input: str
    """pixels: uint8 images as they are. tensor: images that `images.model_input.to_model_input` prepared."""
    precision: str
    """Of the weights in the file."""
    limit: int
    """Detections that the file gives of an image, at most."""
    opset: int
    """Of ONNX; an OpenVINO model is made from an ONNX file."""
    recipe: str | None
    parameters: int
    version: str
    """Of the package that wrote the file."""
    sources: Sequence[Mapping[str, Any]] = ()
    """The datasets that the weights have learned from, with their licences, as in a checkpoint."""
    box_sizes: BoxSizes | None = None
    """Of the training images, for tiles=auto; None: not known."""
    captions: TakesCaptions | None = None
    """Of a detector with captions, whose second file answers them."""
    runtimes: Mapping[str, str] = field(default_factory=lambda: dict(OLDEST))
    """The oldest version of each runtime that was tried with files like this one."""

    def properties(self) -> dict[str, str]:
        """Each entry as JSON, under the name that it has in the file."""
        values = {
            KEY: self.version,
            "names": list(self.categories.names),
            "category_ids": list(self.categories.ids),
            "threshold": self.point.threshold,
            "suppress_iou": self.point.suppress_iou,
            **{key: self.image[key] for key in ("size", "shorter_side")},
            **{key: [float(value) for value in self.image[key]] for key in ("mean", "std")},
            "input": self.input,
            "precision": self.precision,
            "limit": self.limit,
            "opset": self.opset,
            "recipe": self.recipe,
            "parameters": self.parameters,
            "sources": [dict(source) for source in self.sources],
            "runtimes": dict(self.runtimes),
            **({} if self.box_sizes is None else {BOX_SIZES: asdict(self.box_sizes)}),
            **{key: self.image[key] for key in PUBLISHED if key in self.image},
            **({} if self.captions is None else {CAPTIONS: asdict(self.captions)}),
        }
        return {key: value if key == KEY else json.dumps(value, ensure_ascii=False) for key, value in values.items()}

    @classmethod
    def read(cls, properties: Mapping[str, str], file: str) -> Description:
        """The inverse of `properties`. CheckpointError where `file` is no export of ours."""
        if KEY not in properties:
            raise CheckpointError(
                f"{file} is no file of 'detr-mini export': it does not say what its categories and its input are; "
                "export a checkpoint of detr-mini"
            )
        try:
            said = {key: json.loads(text) for key, text in properties.items() if key in _RIGHT}
            wrong = [key for key, right in _RIGHT.items() if not right(said[key])]
            sizes = json.loads(properties.get(BOX_SIZES, "null"))  # files of earlier versions have none
            wrong += [] if sizes is None or are_box_sizes(sizes) else [BOX_SIZES]
            published = {key: json.loads(properties[key]) for key in PUBLISHED if key in properties}
            wrong += [key for key, value in published.items() if not PUBLISHED[key](value)]
            if wrong:
                raise ValueError(wrong[0])
            return cls(
                Categories(tuple(said["category_ids"]), tuple(said["names"])),
                OperatingPoint(float(said["threshold"]), said["suppress_iou"]),
                {**{key: said[key] for key in ("size", "shorter_side", "mean", "std")}, **published},
                **{key: said[key] for key in ("input", "precision", "limit", "opset", "recipe", "parameters")},
                **{key: said[key] for key in ("sources", "runtimes")},
                version=properties[KEY],
                box_sizes=None if sizes is None else BoxSizes(**sizes),
                captions=TakesCaptions.read(properties[CAPTIONS]) if CAPTIONS in properties else None,
            )
        except (KeyError, ValueError, TypeError, RecursionError, DataError) as error:
            raise CheckpointError(
                f"{file} cannot be used: its metadata ({error}) are not what 'detr-mini export' writes; export it again"
            ) from error


def _whole(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value <= 1 << 40


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _list_of(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) and not isinstance(each, bool) for each in value)


def _three_numbers(value: Any) -> bool:
    return _list_of(value, (int, float)) and len(value) == 3 and all(isfinite(number) for number in value)


_RIGHT = {
    "names": lambda value: _list_of(value, str) and len(value) > 0,
    "category_ids": lambda value: _list_of(value, int),
    "threshold": _share,
    "suppress_iou": lambda value: value is None or _share(value),
    "size": _whole,
    "shorter_side": lambda value: value is None or _whole(value),
    "mean": _three_numbers,
    "std": lambda value: _three_numbers(value) and all(number > 0 for number in value),
    "input": lambda value: value in INPUTS,
    "precision": lambda value: value in PRECISIONS,
    "limit": _whole,
    "opset": _whole,
    "recipe": lambda value: value is None or isinstance(value, str),
    "parameters": lambda value: _whole(value, 0),
    "sources": lambda value: _list_of(value, dict),
    "runtimes": lambda value: isinstance(value, dict) and _list_of([*value.values()], str),
}
"""What each property must be."""
PUBLISHED = {
    "exact": lambda value: _list_of(value, int) and len(value) == 2 and all(map(_whole, value)),
    "multiple": _whole,
    "antialias": lambda value: isinstance(value, bool),
}
"""What images of published detectors have besides, where they do."""
