"""Open-vocabulary detection: category names as captions instead of a class head. Any names, any number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detr_mini.models.heads import sigmoid_detections
from detr_mini.models.protocol import DetectionModel
from detr_mini.structures import Captions, Categories, Detections, DetectorOutput, GroundingOutput, PhraseFound
from detr_mini.text.names import listed, passes
from detr_mini.text.tokenizers import AnyTokenizer, Encoding, lowered, pad, tokens_of

AT_ONCE = 128
"""Captions in one pass over a batch. As many as a training batch has, so that memory stays small."""


@runtime_checkable
class AnswersCaptions(Protocol):
    """The part of `DetectionModel` that scores names."""

    @property
    def max_tokens(self) -> int: ...
    def ground(self, output: DetectorOutput, captions: Captions) -> GroundingOutput: ...


class OpenVocabularyDetector(nn.Module):
    """`model` with a `postprocess` that scores categories by their names, given to the model as captions.

    Names that do not fit into one caption take several passes over one encoding of the image. A name's score is the
    probability of the mean logit of its words, which is comparable between passes.
    """

    def __init__(self, model: DetectionModel | AnswersCaptions, tokenizer: AnyTokenizer) -> None:
        """`forward` and `read` are those of a whole model."""
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self._last: tuple[tuple[str, ...], list[tuple[Encoding, list[list[int]]]]] | None = None
        """The names that were asked for last, and their captions."""

    def forward(self, *images: Any, **more: Any) -> DetectorOutput:
        """See the model."""
        output: DetectorOutput = self.model(*images, **more)
        return output

    def read(
        self, output: DetectorOutput, captions: Captions, sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[PhraseFound, ...]]:
        """See the model."""
        found: list[tuple[PhraseFound, ...]] = self.model.read(output, captions, sizes)
        return found

    def postprocess(
        self, output: DetectorOutput, sizes: Sequence[tuple[int, int]], categories: Categories, limit: int = 100
    ) -> list[Detections]:
        """Detections of each image in pixels of its original `sizes` (height, width). A query may get several names.

        UserError for a name with more tokens than the model takes.
        """
        named = replace(output, logits=self.logits(output, categories.names))
        return sigmoid_detections(named, sizes, categories, limit)

    def logits(self, output: DetectorOutput, names: Sequence[str]) -> Float[Tensor, "b q k"]:
        """Logit of each name for each query."""
        asked, b = self._asked(tuple(names)), len(output.boxes)
        columns = list[Tensor]()
        each = max(1, AT_ONCE // b)
        for some in (asked[i : i + each] for i in range(0, len(asked), each)):
            ids, padding = pad([encoding for encoding, _ in some] * b)
            image = torch.arange(b).repeat_interleave(len(some))
            captions = Captions(ids, padding, image, tuple(encoding.spans for encoding, _ in some) * b)
            logits = self.model.ground(output, captions.to(output.boxes.device)).logits[-1].float()
            for (_, places), own in zip(some, logits.unflatten(0, (b, -1)).unbind(1), strict=True):
                columns += [own[..., tokens].mean(-1) for tokens in places]
        return torch.stack(columns, -1)

    def _asked(self, names: tuple[str, ...]) -> list[tuple[Encoding, list[list[int]]]]:
        """Captions that ask for all names in order, each with the tokens of its names. Those of the last names are
        kept, since a dataset or a video asks for the same ones again and again."""
        last = self._last
        if last is not None and last[0] == names:
            return last[1]
        asked = []
        for own in passes(names, self.tokenizer, self.model.max_tokens):
            text, spans = listed([lowered(names[index]) for index in own])
            encoding = self.tokenizer.encode(text).framed()
            asked.append((encoding, [tokens_of(encoding, [span]) for span in spans]))
        self._last = names, asked
        return asked
