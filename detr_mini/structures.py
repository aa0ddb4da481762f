"""The few objects that flow: targets, batches, model outputs, detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from detr_mini.categories import Categories
from detr_mini.phrases import Caption


@dataclass(frozen=True)
class Target:
    """The truth of one image. Boxes are cxcywh in [0, 1] of the image without padding."""

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    image_id: int
    original_size: tuple[int, int]
    """(height, width) in pixels of the upright file; in training as augmentation has turned or cut the image."""
    is_crowd: Bool[Tensor, " n"]
    area: Float[Tensor, " n"]
    """In pixels of the original image, as the annotations have it."""
    attributes: Bool[Tensor, "n a"] | None = None
    """What else is true of each, where the data say it: red, small."""


TAGS = ("other", "begin", "inside", "anchor")
"""What a token is in its caption: of no phrase, the first or a later one of what is asked for, of an anchor."""


@dataclass(frozen=True)
class Captions:
    """C captions as tokens, and the image (row of the batch) each belongs to."""

    token_ids: Int[Tensor, "c t"]
    padding_mask: Bool[Tensor, "c t"]
    """True on padding."""
    caption_image: Int[Tensor, " c"]
    spans: tuple[tuple[tuple[int, int], ...], ...]
    """Of each caption's tokens: the [begin, end) characters that each stands for."""
    records: tuple[Caption, ...] = ()
    """What is true of each, where it is known."""
    token_map: Bool[Tensor, "c n t"] | None = None
    """In training: which tokens speak of which truth, in the order of the image's `PackedTargets`."""
    tags: Int[Tensor, "c t"] | None = None
    """In training: what each token is (`TAGS`); -1 on padding."""
    attributes: Bool[Tensor, "b n a"] | None = None
    """In training: what is true of each truth, in the order of `PackedTargets`, where the data say it."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Captions:
        """A copy whose tensors lie on `device`."""
        return _move(self, device, non_blocking)


@dataclass(frozen=True)
class PhraseFound:
    """A phrase as a model reads its caption, and how well each of its object queries fits."""

    spans: tuple[tuple[int, int], ...]
    """[begin, end) characters of the caption."""
    boxes: Float[Tensor, "q 4"]
    """xyxy in pixels of the original image."""
    scores: Float[Tensor, " q"]


@dataclass(frozen=True)
class PackedTargets:
    """The truths of a batch as one padded block, so that losses need no loop over images. Without crowd regions."""

    boxes: Float[Tensor, "b n 4"]
    labels: Int[Tensor, "b n"]
    valid: Bool[Tensor, "b n"]
    """True where there is a truth, False on padding."""
    counts: tuple[int, ...]
    """Truths of each image, known on the host: no transfer is needed to ask."""

    @property
    def total(self) -> int:
        """Truths in the batch."""
        return sum(self.counts)

    def of(self, row: int) -> tuple[Float[Tensor, "m 4"], Int[Tensor, " m"]]:
        """Boxes and labels of one image, without the padding."""
        return self.boxes[row, : self.counts[row]], self.labels[row, : self.counts[row]]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedTargets:
        """A copy whose tensors lie on `device`."""
        return _move(self, device, non_blocking)


def pack_targets(targets: Sequence[Target]) -> PackedTargets:
    """Pad the truths (without crowd regions) of a batch to the largest count, at least 1."""
    # A loop over the images of a batch, on the host, once a step: the targets are lists of unequal length.
    keep = [~t.is_crowd for t in targets]
    boxes = [t.boxes[k] for t, k in zip(targets, keep, strict=True)]
    labels = [t.labels[k] for t, k in zip(targets, keep, strict=True)]
    counts = tuple(len(b) for b in boxes)
    n = max((*counts, 1))
    device = targets[0].boxes.device
    packed_boxes = torch.zeros(len(targets), n, 4, device=device)
    packed_labels = torch.zeros(len(targets), n, dtype=torch.long, device=device)
    for row, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        packed_boxes[row, : len(box)] = box
        packed_labels[row, : len(label)] = label
    valid = torch.arange(n, device=device)[None] < torch.tensor(counts, device=device)[:, None]
    return PackedTargets(packed_boxes, packed_labels, valid, counts)


@dataclass(frozen=True)
class Batch:
    """Images padded right and below to one size, and what is known of them."""

    images: Float[Tensor, "b 3 h w"] | UInt8[Tensor, "b 3 h w"]
    """As the model takes them, or pixels on their way to the device, which `normalise` turns into that."""
    padding_mask: Bool[Tensor, "b h w"]
    """True on padding."""
    targets: tuple[Target, ...]
    packed: PackedTargets
    has_padding: bool
    """Whether any pixel of `padding_mask` is True; known on the host, so that no step has to ask the device."""
    captions: Captions | None = None
    normalise: Callable[[Tensor], Tensor] | None = None
    """Set while `images` are pixels."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The data's image ids, in the batch's order."""
        return tuple(t.image_id for t in self.targets)

    @property
    def with_captions(self) -> dict[str, Captions]:
        """The captions as a keyword, for models and criteria that take them; nothing where there are none."""
        return {} if self.captions is None else {"captions": self.captions}

    def mask(self) -> Bool[Tensor, "b h w"] | None:
        """The padding mask, or None where nothing is padded: models then skip all masking."""
        return self.padding_mask if self.has_padding else None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """A copy whose tensors lie on `device`. The targets stay: what a device needs of them is in `packed`.

        Pixels are normalised there; what travels is a quarter of the bytes.
        """
        moved: Batch = _move(self, device, non_blocking)
        if self.normalise is None:
            return moved
        images = self.normalise(moved.images)
        if self.has_padding:
            images = images.masked_fill_(moved.padding_mask[:, None], 0.0)
        return replace(moved, images=images, normalise=None)

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory (the data loader calls this for `pin_memory=True`), but for the targets."""
        return _each(self, Tensor.pin_memory)


@dataclass(frozen=True)
class Prediction:
    """One set of guesses: class logits and boxes (cxcywh in [0, 1] of the image without padding)."""

    logits: Float[Tensor, "b q k"]
    boxes: Float[Tensor, "b q 4"]
    visible: Bool[Tensor, "b q"] | None = None
    """False for guesses that stand for nothing (a memory token on padding); None: all count."""

    def split(self, queries: int) -> tuple[Prediction, Prediction]:
        """The first `queries` guesses, and the others."""
        widths = [queries, self.boxes.shape[1] - queries]
        visible = (None, None) if self.visible is None else self.visible.split(widths, 1)
        parts = zip(self.logits.split(widths, 1), self.boxes.split(widths, 1), visible, strict=True)
        first, others = (Prediction(*part) for part in parts)
        return first, others


@dataclass(frozen=True)
class DenoisingOutput:
    """What the decoder made of noised truths, layer by layer, and which truth each was made from."""

    layers: tuple[Prediction, ...]
    truth: Int[Tensor, "b d"]
    """Index into the packed targets."""
    positive: Bool[Tensor, "b d"]
    """True: must give its truth back. False: noised so far, or padding, that it must say "nothing"."""
    valid: Bool[Tensor, "b d"]
    """False on padding, which no loss counts."""


@dataclass(frozen=True)
class AttentionMaps:
    """Where each object query looked, a decoder layer: weights over the memory, mean over heads."""

    cross: tuple[Float[Tensor, "b q n"], ...]
    size: tuple[int, int]
    """(height, width) of the memory, n = height * width."""
    samples: tuple[Float[Tensor, "b q p 2"], ...] = ()
    """Where each query took samples inside its box, layer by layer: x, y in [0, 1] of the image without padding."""


@dataclass(frozen=True)
class GroundingOutput:
    """What captions speak of, layer by layer."""

    logits: tuple[Float[Tensor, "c q t"], ...]
    """Whether a word speaks of a query's thing."""
    tags: Float[Tensor, "c t k"]
    """Logits of what each word is in its caption."""
    attributes: Float[Tensor, "b q a"] | None = None
    """In training, where the data have attributes: their logits for each query."""


@dataclass(frozen=True)
class PeerLoss:
    """What another library's own loss is computed from, for images of a batch that went through its model together."""

    rows: tuple[int, ...]
    """Their places in the batch."""
    loss: Callable[..., Any]
    """Takes `inputs`, with the truths in the second place, and `named`; gives the loss and its parts."""
    inputs: tuple[Any, ...]
    named: Mapping[str, Any]


@dataclass(frozen=True)
class DetectorOutput:
    """What a detector says of a batch. All but `logits` and `boxes` is there for training, or on request."""

    logits: Float[Tensor, "b q k"]
    boxes: Float[Tensor, "b q 4"]
    auxiliary: tuple[Prediction, ...] = ()
    """The decoder's earlier layers, first to last but one."""
    proposals: Prediction | None = None
    """Every memory token's own guess (query selection)."""
    one_to_many: Prediction | None = None
    denoising: DenoisingOutput | None = None
    attention: AttentionMaps | None = None
    query_visible: Bool[Tensor, "b q"] | None = None
    """False for queries of an image too small to fill them all; None: all count."""
    queries: Float[Tensor, "b q c"] | None = None
    """The queries themselves after the last layer."""
    grounding: GroundingOutput | None = None
    peer: tuple[PeerLoss, ...] = ()
    """Of a detector of another library; then that library's loss is what trains it."""

    @property
    def final(self) -> Prediction:
        """The last layer as a `Prediction`."""
        return Prediction(self.logits, self.boxes, self.query_visible)


@dataclass(frozen=True)
class OperatingPoint:
    """What is reported of a detector's guesses; a checkpoint carries the one that did best on val."""

    threshold: float = 0.5
    """The least score."""
    suppress_iou: float | None = None
    """IoU above which the worse of two detections of one category goes (NMS); None: none goes."""


@dataclass(frozen=True)
class Detections:
    """What was found in one image. Filters like an array: `detections[detections.scores > 0.5]`."""

    boxes: Float[Tensor, "n 4"]
    """xyxy in pixels of the original, upright image."""
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    """0..K-1; `categories` maps them to the data's ids and names."""
    categories: Categories
    phrases: tuple[str, ...] | None = None
    image_size: tuple[int, int] = field(default=(0, 0))
    """(height, width) in pixels of the original, upright image."""
    queries: Int[Tensor, " n"] | None = None
    """Which of the model's object queries found each."""

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Detections:
        """Those that `index` (a mask, a slice, a number or a list) picks."""
        if isinstance(index, int):
            index = [index]
        picked = torch.arange(len(self), device=self.scores.device)[index]
        phrases = None if self.phrases is None else tuple(self.phrases[i] for i in picked.tolist())
        queries = None if self.queries is None else self.queries[picked]
        return replace(
            self,
            boxes=self.boxes[picked],
            scores=self.scores[picked],
            labels=self.labels[picked],
            phrases=phrases,
            queries=queries,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Each detection's category name."""
        return tuple(self.categories.names[label] for label in self.labels.tolist())

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Each detection's category id in the data."""
        return tuple(self.categories.ids[label] for label in self.labels.tolist())

    def above(self, threshold: float) -> Detections:
        """Those with a score of at least `threshold`."""
        return self[self.scores >= threshold]

    def resized(self, size: tuple[int, int]) -> Detections:
        """Those of the same image in another size (height, width)."""
        if tuple(size) == tuple(self.image_size):
            return self
        if not len(self):  # an image that nothing was looked for in has no size
            return replace(self, image_size=(int(size[0]), int(size[1])))
        factor = self.boxes.new_tensor([size[1] / self.image_size[1], size[0] / self.image_size[0]] * 2)
        return replace(self, boxes=self.boxes * factor, image_size=(int(size[0]), int(size[1])))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Detections:
        """A copy whose tensors lie on `device`."""
        return _move(self, device, non_blocking)


def _move(record: Any, device: torch.device | str, non_blocking: bool) -> Any:
    return _each(record, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def _each(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a frozen dataclass with every tensor, and those of every such dataclass in it, changed."""
    changed = {}
    for entry in fields(record):
        value = getattr(record, entry.name)
        if isinstance(value, Tensor):
            changed[entry.name] = change(value)
        elif isinstance(value, PackedTargets | Captions):
            changed[entry.name] = _each(value, change)
    return replace(record, **changed)
