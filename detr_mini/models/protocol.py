"""What the rest of the package may ask of a detection model, and the answers of a model that has nothing to add."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from detr_mini.errors import UserError
from detr_mini.structures import (
    Captions,
    Categories,
    Detections,
    DetectorOutput,
    GroundingOutput,
    PackedTargets,
    PhraseFound,
)
from detr_mini.vision.features import Features


@runtime_checkable
class Backbone(Protocol):
    """What a detection model asks of its backbone, which is also a `torch.nn.Module`."""

    mean: Sequence[float]
    std: Sequence[float]
    """Of the input, for the normalisation of images: red, green, blue in [0, 1]."""
    channels: Sequence[int]
    strides: Sequence[int]
    """Of the feature maps, fine to coarse."""

    @property
    def __call__(self) -> Callable[..., list[Features]]:
        """`backbone(images, padding_mask)`: the feature maps. The mask is None where no padding is to be hidden."""


@runtime_checkable
class EvaluatedModel(Protocol):
    """What evaluation and inference ask of a model, which is also a `torch.nn.Module`."""

    @property
    def __call__(self) -> Callable[..., DetectorOutput]:
        """`model(images, padding_mask, denoising=..., need_attention=..., captions=...)`.

        `images` are (b, 3, h, w), normalised; h and w are multiples of `stride`. `padding_mask` (b, h, w) is True on
        padding; None means that nothing is padded. `denoising`: what `noised_truths` returned for these images.
        `need_attention`: the output also says where the queries look. `captions` are only given to a model whose
        `max_tokens` is not 0. The last three go by keyword, and are left out where they are not used.
        """

    def postprocess(
        self, output: DetectorOutput, sizes: Sequence[tuple[int, int]], categories: Categories, limit: int = 100
    ) -> list[Detections]:
        """The `limit` best detections of each image, in pixels of its original `sizes` (height, width)."""

    def read(
        self, output: DetectorOutput, captions: Captions, sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[PhraseFound, ...]]:
        """The phrases that each caption asks for, with a score for every query of its image."""

    # Methods of torch.nn.Module
    def modules(self) -> Iterator[nn.Module]: ...
    def eval(self) -> Any: ...


@runtime_checkable
class DetectionModel(EvaluatedModel, Protocol):
    """What training, transfer of weights and `Detector` ask of a model as well."""

    @property
    def stride(self) -> int:
        """Height and width of the input are multiples of it, in pixels."""

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest caption that the model reads; 0 for a model without captions."""

    def noised_truths(self, targets: PackedTargets, image_ids: Sequence[int], *, seed: int, step: int) -> Any:
        """What the model's `denoising` argument takes in this training step; None for a model without denoising."""

    @property
    def category_rows(self) -> Sequence[str]:
        """Names of the parameters with a row for each category, in the order of labels."""

    @property
    def token_rows(self) -> Sequence[str]:
        """Names of the parameters with a row for each token of the tokeniser."""

    def left_out(self, captions: Captions | None) -> Sequence[nn.Parameter]:
        """The parameters that a training step with these captions does not use."""

    def ground(self, output: DetectorOutput, captions: Captions) -> GroundingOutput:
        """For each word of the captions and each query of their image: does the word describe the query's object?"""

    def start(self, names: Sequence[str]) -> list[str]:
        """Load published weights before a training on the categories `names`. Returns sentences for the report."""

    def settled(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The training's `config`, with every setting that is needed to build this model from a checkpoint alone."""

    # Methods of torch.nn.Module
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def buffers(self) -> Iterator[Tensor]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...
    def train(self) -> Any: ...
    def to(self, device: Any) -> Any: ...


class ModelDefaults:
    """The part of `DetectionModel` that a model may leave out: no denoising, no transfer of weights, no captions.

    `build_part` adds these defaults to a user's own model that does not inherit from this class.
    """

    @property
    def max_tokens(self) -> int:
        """0: no captions."""
        return 0

    @property
    def category_rows(self) -> Sequence[str]:
        """None: the model cannot start with the weights of another training."""
        return ()

    @property
    def token_rows(self) -> Sequence[str]:
        """None: no tokeniser."""
        return ()

    def left_out(self, captions: Captions | None) -> Sequence[nn.Parameter]:
        """None: every step uses all."""
        return ()

    def noised_truths(self, targets: PackedTargets, image_ids: Sequence[int], *, seed: int, step: int) -> Any:
        """None: no denoising."""
        return None

    def start(self, names: Sequence[str]) -> list[str]:
        """Nothing to load: the weights stay random."""
        return []

    def settled(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config as it is."""
        return dict(config)

    def read(
        self, output: DetectorOutput, captions: Captions, sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[PhraseFound, ...]]:
        """UserError: the model reads no captions."""
        raise UserError(NO_CAPTIONS)

    def ground(self, output: DetectorOutput, captions: Captions) -> GroundingOutput:
        """UserError: the model reads no captions."""
        raise UserError(NO_CAPTIONS)


NO_CAPTIONS = "this model does not read captions; train one with model=mini_grounded, or leave the captions out"
