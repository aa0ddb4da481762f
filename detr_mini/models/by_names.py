"""A detector that takes captions, asked for categories by their names: no class head, any names, any number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detr_mini.models.grounded import GroundedDETR, one_caption
from detr_mini.models.heads import sigmoid_detections
from detr_mini.structures import Captions, Categories, Detections, DetectorOutput, PhraseFound
from detr_mini.text.names import listed, passes
from detr_mini.text.tokenizers import AnyTokenizer, tokens_of


class ByNames(nn.Module):
    """`model`, but `postprocess` scores categories by what their names, as captions, say of each query.

    More names than fit into one caption are asked for in passes; the image is looked at once. A name's score is the
    mean logit of its words as a probability, whatever stands beside it, so that all passes compete.
    """

    def __init__(self, model: GroundedDETR, tokenizer: AnyTokenizer) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def forward(self, *images: Any, **more: Any) -> DetectorOutput:
        """As the model's."""
        output: DetectorOutput = self.model(*images, **more)
        return output

    def read(
        self, output: DetectorOutput, captions: Captions, sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[PhraseFound, ...]]:
        """As the model's."""
        return self.model.read(output, captions, sizes)

    def postprocess(
        self, output: DetectorOutput, sizes: Sequence[tuple[int, int]], categories: Categories, limit: int = 100
    ) -> list[Detections]:
        """Detections of each image in pixels of its original `sizes` (height, width); a query may have several names.

        UserError where a name alone has more tokens than the model takes.
        """
        named = replace(output, logits=self.logits(output, categories.names))
        return sigmoid_detections(named, sizes, categories, limit)

    def logits(self, output: DetectorOutput, names: Sequence[str]) -> Float[Tensor, "b q k"]:
        """Whether each query's thing is what each name says."""
        columns = list[Tensor]()
        for own in passes(names, self.tokenizer, self.model.text.max_tokens):
            text, spans = listed([names[index].lower() for index in own])
            encoding = self.tokenizer.encode(text).framed()
            captions = one_caption(encoding, len(output.boxes)).to(output.boxes.device)
            spoken = self.model.ground(output, captions).logits[-1].float()
            columns += [spoken[..., tokens_of(encoding, [span])].mean(-1) for span in spans]
        return torch.stack(columns, -1)
