"""The public face: a trained detector that takes any kind of image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

import detr_mini.cpu_runtime  # noqa: F401  (a forked child computes with one thread, and does not hang)
from detr_mini.data.collate import collate
from detr_mini.errors import CheckpointError, ConfigError, UserError
from detr_mini.images.model_input import IMAGE_KEYS, to_model_input
from detr_mini.images.tiling import BoxSizes
from detr_mini.inference.batches import detect_batches, evaluating
from detr_mini.inference.captions import answer, asked_categories, encoded, listed_names, warn_of_unknown
from detr_mini.inference.detect_tiles import detect_tiled
from detr_mini.inference.detections import Detections
from detr_mini.inference.pixels import ImageLike as ImageLike
from detr_mini.inference.pixels import as_tensor as as_tensor
from detr_mini.inference.requests import USUAL_LIMIT, checked_counts, checked_score, described, each_of, reported
from detr_mini.models.build import parameter_count, rebuild
from detr_mini.models.grounded import one_caption
from detr_mini.models.open_vocabulary import OpenVocabularyDetector
from detr_mini.models.protocol import DetectionModel
from detr_mini.pretrained.checkpoints import (
    averaged_weights,
    box_sizes,
    checkpoint_file,
    operating_point,
    read_checkpoint,
)
from detr_mini.shared_cores import share_cores
from detr_mini.structures import Batch, Categories, OperatingPoint, Target
from detr_mini.structures import Detections as PlainDetections
from detr_mini.text.tokenizers import AnyTokenizer, Encoding, tokenizer_of

NO_CAPTIONS = "this detector was trained without captions; leave the caption out"


def load(path: str | Path, device: str | torch.device = "cpu", modules: Sequence[str] = ()) -> Detector:
    """The detector in a checkpoint (best.ckpt, last.ckpt, or a run folder), with its averaged weights, on `device`.

    `modules`: your own, whose classes the checkpoint's config may name; no other class than ours is built.
    CheckpointError where it cannot be read or its weights do not fit its own config. Nothing is downloaded, but for a
    published detector of the hub, by its name.
    """
    return from_checkpoint(read_checkpoint(path), str(checkpoint_file(path)), device, modules)


def from_checkpoint(
    checkpoint: Mapping[str, Any], name: str, device: str | torch.device = "cpu", modules: Sequence[str] = ()
) -> Detector:
    """The detector in a checkpoint that was read; `name` stands in errors. See `load`."""
    categories = Categories.from_dict(checkpoint["categories"])
    config = checkpoint["config"]
    try:
        backbone = {**config["backbone"]}
        if "weights" in backbone:
            backbone["weights"] = "none"  # they are replaced in a moment, and nothing is downloaded
        model_config = {**config["model"]}
        if model_config.get("pretrained_text"):
            model_config["pretrained_text"] = {**model_config["pretrained_text"], "weights": "none"}
        for part in (backbone, model_config):
            if not re.fullmatch(r"[\w-]*", str(part.get("name") or "")):  # a folder, or the name of a download
                raise CheckpointError(f"{name} names '{part['name']}', which would have to be loaded from "
                                      "elsewhere. A training writes no such checkpoint; use another one")  # fmt: skip
        tokenizer = None
        if checkpoint.get("tokeniser"):
            tokenizer = tokenizer_of(checkpoint["tokeniser"], f"the tokeniser in {name}")
        words = {}
        if tokenizer is not None:
            words = {"vocabulary": len(tokenizer), "attributes": len(checkpoint.get("attributes") or ())}
        weights = averaged_weights(checkpoint)
        model = rebuild(model_config, backbone, len(categories), weights, modules=modules, **words)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the config in {name} has no part {error}; train anew with this version") from error
    except ConfigError as error:
        raise CheckpointError(f"{name} cannot be used: {error}") from error
    except RuntimeError as error:
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"the weights in {name} do not fit the model of its config ({reason[1 % len(reason)].strip()[:200]}); "
            "was it written by another version?"
        ) from error
    point = operating_point(checkpoint)
    share_cores()
    detector = Detector(model, categories, checkpoint["image"], device, tokenizer, checkpoint.get("threshold"), point)
    detector.box_sizes = box_sizes(checkpoint)
    return detector


class Detector:
    """A model with all that it needs to take images: categories, size, normalisation."""

    most: int | None = None
    """See `DetectorLike`."""

    def __init__(
        self,
        model: DetectionModel,
        categories: Categories,
        image: Mapping[str, Any],
        device: str | torch.device = "cpu",
        tokenizer: AnyTokenizer | None = None,
        threshold: float | None = None,
        operating_point: OperatingPoint | None = None,
    ) -> None:
        """`image`: size, shorter_side, mean and std, as in a checkpoint (`data.images.to_model_input`).

        `tokenizer`: of a model with captions; `threshold`: of its phrases' scores, the one that val found best.
        `operating_point`: which detections are reported; assign another one to change it.
        """
        self.device = usable_device(device)
        self.model = model.eval().to(self.device)
        self.categories = categories
        self.tokenizer, self.threshold = tokenizer, 0.5 if threshold is None else threshold
        self.operating_point = operating_point or OperatingPoint()
        self.box_sizes: BoxSizes | None = None  # None: not known
        self._by_names: OpenVocabularyDetector | None = None
        self.image = {key: image[key] for key in IMAGE_KEYS if key in image}

    def __repr__(self) -> str:
        size = f", {parameter_count(self.model) / 1e6:.2f} million parameters"
        return described(type(self.model).__name__, self.categories, self.image, self.operating_point, size)

    @overload
    def detect(
        self,
        images: ImageLike,
        caption: str | Sequence[str] | None = None,
        threshold: float | int | None = None,
        limit: int | None = None,
        batch_size: int = 8,
        channels: str = "rgb",
        tiles: int | str | None = None,
        overlap: float | int = 0.2,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        images: list[Any] | tuple[Any, ...],
        caption: str | Sequence[str] | None = None,
        threshold: float | int | None = None,
        limit: int | None = None,
        batch_size: int = 8,
        channels: str = "rgb",
        tiles: int | str | None = None,
        overlap: float | int = 0.2,
    ) -> list[Detections]: ...
    def detect(
        self,
        images: ImageLike | list[Any] | tuple[Any, ...],
        caption: str | Sequence[str] | None = None,
        threshold: float | int | None = None,
        limit: int | None = None,
        batch_size: int = 8,
        channels: str = "rgb",
        tiles: int | str | None = None,
        overlap: float | int = 0.2,
    ) -> Detections | list[Detections]:
        """What is in an image, or in each of a list: boxes in its own upright pixels, best first.

        An image is a path, a PIL image, an array or a tensor (`inference.pixels.as_tensor`). A folder, or a pattern
        with `*`, gives a list: its pictures in the order of their names, each result with its path as `source`.
        `channels`: "bgr" for arrays of OpenCV.

        `caption`: a sentence; then what it asks for, with the `phrases` as typed. Or names, any number of them, as a
        list or as "person. dog." (two at least); then `categories` and `phrases` are the names as typed.

        `threshold`: the least score; unless given the one that val found best, 0.5 where there was no val.
        `limit`: the most detections of an image; None: 100, and a warning where there may be more.
        `batch_size`: images that go through the model together; it changes no result.
        `tiles`: look at windows of this many pixels ("auto": see `BoxSizes.tile_side`) that share `overlap` of
        their side, for large images with small objects; `limit=None` is then no limit. A TIFF file is read by windows.
        In a forked process it computes with one thread; processes that are to have more are started by "spawn".
        Threads that share a detector call it one after another (a lock around `detect`): its backbone keeps the padding
        of the batch that it computes. Threads may share an exported file without a lock.
        Unknown words are a warning, with the word that may be meant.
        DataError where an image cannot be used; UserError for a caption that is empty or too long, or a detector that
        was trained without captions.
        """
        if caption is not None and self.tokenizer is None:
            raise UserError(NO_CAPTIONS)
        if tiles is not None:
            tiled: Detections | list[Detections] = detect_tiled(
                self, images, tiles, overlap, caption, threshold, limit, batch_size, channels
            )
            return tiled
        least = self.least_score(threshold, caption)
        most = USUAL_LIMIT if limit is None else limit
        checked_counts(most, batch_size)
        given, one = each_of(images)
        categories, names = self.categories_of(caption), listed_names(caption)
        warn_of_unknown(caption, self.tokenizer)
        if isinstance(caption, str) and names is None:
            asked = [d[:most] for d in self._asked(given, caption, least, batch_size, channels)]
            answers = [Detections.of(d, image, channels) for d, image in zip(asked, given, strict=True)]
            return answers[0] if one else answers
        model = self.model if names is None else self.by_names()
        batches = self.batches(given, batch_size, channels)
        iou = self.operating_point.suppress_iou
        found = detect_batches(model, batches, categories, self.device, most, progress=False, suppress_iou=iou)
        each = [found[i] for i in range(len(given))]
        kept = reported(each, given, channels, least, most, warn=limit is None)
        if names is not None:
            kept = [replace(detections, phrases=detections.names) for detections in kept]
        return kept[0] if one else kept

    def by_names(self) -> OpenVocabularyDetector:
        """The model, asked for categories by their names. UserError where it was trained without captions."""
        if self.tokenizer is None:
            raise UserError("this detector was trained without captions, so no names can be asked for")
        known = self._by_names
        if known is None or known.model is not self.model or known.tokenizer is not self.tokenizer:
            self._by_names = known = OpenVocabularyDetector(self.model, self.tokenizer)
        return known

    def categories_of(self, caption: str | Sequence[str] | None) -> Categories:
        """What the labels of detections mean: the detector's own categories, or the names that a caption lists."""
        return asked_categories(caption, self.categories)

    def least_score(self, threshold: float | int | None = None, caption: str | Sequence[str] | None = None) -> float:
        """`threshold`, or where it is None the one that `detect` uses. ConfigError where it is no score."""
        if threshold is not None:
            return checked_score(threshold)
        return self.operating_point.threshold if caption is None else self.threshold

    def encoded(self, caption: str) -> Encoding:
        """The tokens of a sentence. UserError for one that is empty or too long, or where captions are not taken."""
        if self.tokenizer is None:
            raise UserError(NO_CAPTIONS)
        return encoded(caption, self.tokenizer, self.model.max_tokens)

    def _asked(
        self, images: Sequence[ImageLike], caption: str, least: float, batch_size: int, channels: str
    ) -> list[PlainDetections]:
        """What the caption asks for in each image, best first."""
        encoding = self.encoded(caption)
        found: list[PlainDetections] = []
        for batch in self.batches(images, batch_size, channels):
            moved = batch.to(self.device)
            captions = one_caption(encoding, len(batch)).to(self.device)
            with evaluating(self.model):
                output = self.model(moved.images, moved.mask(), captions=captions)
                sizes = [target.original_size for target in batch.targets]
                read = self.model.read(output, captions, sizes)
            labels = output.logits.argmax(-1).cpu()
            own = self.categories
            found += [answer(*one, caption, least, own) for one in zip(read, labels, sizes, strict=True)]
        return found

    def batches(self, images: Sequence[ImageLike], batch_size: int, channels: str = "rgb") -> Iterator[Batch]:
        """`images` as the model takes them, `batch_size` at a time."""
        for start in range(0, len(images), max(1, batch_size)):
            pixels = [as_tensor(image, channels) for image in images[start : start + max(1, batch_size)]]
            inputs = [to_model_input(image, **self.image) for image in pixels]
            targets = [_no_truth(start + i, image.shape[1], image.shape[2]) for i, image in enumerate(pixels)]
            yield collate(inputs, targets, self.model.stride)


def usable_device(device: str | torch.device) -> torch.device:
    """`device` ("gpu" is "cuda"), or a UserError where this machine has no such device."""
    try:
        wanted = torch.device("cuda" if device == "gpu" else device)
        torch.empty(1, device=wanted)
    except Exception as error:  # torch raises RuntimeError, AssertionError, NotImplementedError
        raise UserError(f"the device '{device}' cannot be used on this machine; use cpu") from error
    return wanted


def _no_truth(image_id: int, height: int, width: int) -> Target:
    none: Float[Tensor, "0"] = torch.zeros(0)
    return Target(none.reshape(0, 4), none.long(), image_id, (height, width), none.bool(), none)
