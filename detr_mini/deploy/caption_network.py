"""The parts of a detector with captions that torch traces: from a picture to objects, and from those to answers."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detr_mini.deploy.network import Network
from detr_mini.models.grounded import GroundedDETR, phrase_numbers

OBJECTS = ("objects", "object_boxes", "object_logits")
"""What the first file gives for the second one."""
ASKED = ("objects", "object_boxes", "token_ids", "attention_mask", "pictures")
"""What the second file takes."""
ANSWERS = ("logits", "tags", "phrases")
"""What it gives."""


class ObjectNetwork(nn.Module):
    """`Network`, and the objects themselves: a vector, a box and the logits of the categories of each."""

    def __init__(self, model: GroundedDETR, limit: int) -> None:
        super().__init__()
        self.network = Network(model, limit)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """The outputs of `Network`, then OBJECTS; their boxes are cxcywh in [0, 1] of the image."""
        output = self.network.model(images)
        return *self.network.best(output), output.queries, output.boxes, output.logits


class CaptionNetwork(nn.Module):
    """From ASKED to ANSWERS: which words of some captions refer to which objects of some pictures."""

    def __init__(self, model: GroundedDETR) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def forward(
        self,
        objects: Float[Tensor, "b q d"],
        object_boxes: Float[Tensor, "b q 4"],
        token_ids: Int[Tensor, "c t"],
        attention_mask: Int[Tensor, "c t"],
        pictures: Int[Tensor, " c"],
    ) -> tuple[Float[Tensor, "c q t"], Float[Tensor, "c t g"], Int[Tensor, "c t"]]:
        """`attention_mask` is 0 on padding; `pictures`: which of the b pictures each caption is about."""
        queries, pairs = self.model.queries_and_pairs(objects, object_boxes)
        hidden = torch.zeros_like(objects[..., 0], dtype=torch.bool)
        padding = attention_mask == 0
        words, tags = self.model.words_and_tags(token_ids, padding)
        logits = self.model.pair_logits(queries[pictures], pairs[pictures], hidden[pictures], words, padding)
        return logits[-1], tags, phrase_numbers(tags.argmax(-1)).masked_fill(padding, -1)
