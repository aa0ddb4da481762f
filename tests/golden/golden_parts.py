"""What the golden checkpoints and their test share: values by rule, the fixed input, and the raw output of a model.

Nothing here draws random numbers: a generator's stream may change with a version of torch or numpy, and arithmetic does
not.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detr_mini.inference.detector import Detector
from detr_mini.structures import Captions

FOLDER = Path(__file__).parent
CAPTION = "the small red circle left of a square"
OUTSIDE = ("backbone.", "text.pretrained.")
"""Where the parameters of published networks stand in a model, which are too large for the repository."""
SIZE = 64
"""Side of the two images of the fixed input; the second one's right quarter is padding."""


def pattern(key: str, shape: tuple[int, ...]) -> Tensor:
    """float32 values in [-1, 1) that depend on `key` and the position alone (Knuth's multiplicative hash, twice)."""
    index = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint64) + np.uint64(zlib.crc32(key.encode()))
    mixed = (index * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    mixed ^= mixed >> np.uint64(15)
    mixed = (mixed * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    return torch.from_numpy((mixed / 2**31 - 1).astype(np.float32)).reshape(shape)


def by_rule(name: str, like: Tensor) -> Tensor:
    """The value of a published network's parameter `name`: well scaled, so that its features vary with the image."""
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    values = pattern(name, tuple(like.shape))
    if like.ndim > 1:  # variance 2 / fan-in (He et al. 2015)
        return values * (6 / max(1, like[0].numel())) ** 0.5
    if name.endswith(("weight", "running_var")):
        return 1 + 0.2 * values
    return 0.1 * values


def is_outside(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of a golden file is left out: its shape is there, its values are one number."""
    return name.removeprefix("model.").startswith(OUTSIDE) and tensor.numel() > 1 and not any(tensor.stride())


def filled(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A golden file's content with the parameters of published networks put in by rule, as plain tensors."""
    content = dict(checkpoint)
    content["state_dict"] = _filled(checkpoint["state_dict"])
    if checkpoint.get("averaged"):
        content["averaged"] = {**checkpoint["averaged"], "weights": _filled(checkpoint["averaged"]["weights"])}
    return content


def _filled(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: by_rule(n.removeprefix("model."), t) if is_outside(n, t) else t for n, t in weights.items()}


def raw_output(detector: Detector) -> dict[str, Tensor]:
    """Logits and boxes of the model for the fixed input, in float32; with captions, those of the words, too."""
    images = pattern("images", (2, 3, SIZE, SIZE)) * 2
    images += pattern("waves", (2, 3, 1, 1)) * torch.linspace(-2, 2, SIZE)[:, None] * torch.linspace(-2, 2, SIZE)
    padding_mask = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    padding_mask[1, :, -SIZE // 4 :] = True
    images = images.masked_fill(padding_mask[:, None], 0.0)
    with torch.no_grad():
        if detector.tokenizer is None:
            output = detector.model(images, padding_mask)
            return {"logits": output.logits, "boxes": output.boxes}
        encoding = detector.tokenizer.encode(CAPTION).framed()
        length = len(encoding.ids)
        captions = Captions(
            torch.tensor([encoding.ids] * 2), torch.zeros(2, length, dtype=torch.bool), torch.arange(2),
            (encoding.spans,) * 2,
        )  # fmt: skip
        output = detector.model(images, padding_mask, captions=captions)
    words = {"words": output.grounding.logits[-1], "tags": output.grounding.tags}
    return {"logits": output.logits, "boxes": output.boxes, **words}
