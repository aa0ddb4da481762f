"""The part of an exported file that torch traces: from a prepared image to the best boxes, scores and labels.

All images of a call have one size, so nothing is padded: see `inference.unpadded`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from detr_mini.attention.core import attend
from detr_mini.attention.efficient import windowed_blocked
from detr_mini.attention.kinds import Windowed
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.deploy.peer_network import PeerNetwork, best_of_peer
from detr_mini.errors import UserError
from detr_mini.inference.unpadded import replace_parts, without_padding
from detr_mini.models.detr import DETR
from detr_mini.models.grounded import GroundedDETR
from detr_mini.models.heads import Best, best_classes, best_pairs
from detr_mini.models.mini import MiniDETR
from detr_mini.models.protocol import DetectionModel
from detr_mini.peers.detector import HFDetector
from detr_mini.structures import DetectorOutput

SELECTION: dict[type, Callable[[DetectorOutput, int], Best]] = {
    MiniDETR: best_pairs,
    GroundedDETR: best_pairs,
    DETR: best_classes,
}
"""How each of our models selects its best detections."""


class Network(nn.Module):
    """A detector without padding, with the selection of its `limit` best detections."""

    def __init__(self, model: DetectionModel, limit: int, image: Mapping[str, Any] | None = None) -> None:
        """`image`: how its images are prepared (`to_model_input`), which a detector of `transformers` needs.

        UserError for a model of another class, and where images have no shape that a file can have. `model` itself is
        not changed.
        """
        super().__init__()
        if type(model) not in (*SELECTION, HFDetector):
            raise UserError(
                f"a detector of {type(model).__name__} is not exported to ONNX, OpenVINO or torch, only those of this "
                "package are; format=safetensors writes it as a file that 'load' reads"
            )
        self.limit = limit
        bare = traceable(model)
        if isinstance(bare, HFDetector):
            self.select: Callable[[DetectorOutput, int], Best] = partial(best_of_peer, bare.num_classes)
            self.model: nn.Module = PeerNetwork(bare, image or {})
        else:
            self.select, self.model = SELECTION[type(bare)], bare

    def forward(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n"], Int[Tensor, "b n"]]:
        """Boxes (xyxy in [0, 1] of the image), scores (best first) and labels. `images` are resized and normalised."""
        return self.best(self.model(images))

    def best(self, output: DetectorOutput) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n"], Int[Tensor, "b n"]]:
        """The same of what the model has found."""
        scores, labels, query = self.select(output, self.limit)
        boxes = output.boxes.float().gather(1, query[..., None].expand(-1, -1, 4))
        return cxcywh_to_xyxy(boxes).clamp(0, 1), scores, labels


def traceable(model: DetectionModel) -> nn.Module:
    """`without_padding`, for a trace that holds for maps of any size."""
    bare = without_padding(model)
    replace_parts(bare, lambda part: isinstance(part, Windowed), MaskedWindows)
    return bare


class MaskedWindows(nn.Module):
    """`Windowed` as dense attention with a mask, which holds for maps of any size. Its cost is that of all pairs."""

    def __init__(self, kind: Windowed) -> None:
        super().__init__()
        self.similarity, self.window = kind.similarity, kind.window

    def forward(
        self,
        query: Float[Tensor, "b h n c"],
        key: Float[Tensor, "b h n c"],
        value: Float[Tensor, "b h n d"],
        blocked: Bool[Tensor, "#b 1 1 n"] | None = None,
        size: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "b h n d"]:
        """See `Windowed`; nothing is padded."""
        assert blocked is None
        outside = windowed_blocked(size or (query.shape[2],), self.window, device=query.device)
        return attend(query, key, value, outside, similarity=self.similarity)
