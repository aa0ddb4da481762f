"""What tests of exported files share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from detr_mini.data.collate import collate
from detr_mini.deploy import onnx_file
from detr_mini.deploy.network import Network
from detr_mini.inference.detector import _no_truth

SOURCES = [{"name": "bolts", "images": 120, "licence": "CC BY 4.0"}]
"""What the checkpoint of these tests says of the data that it learned from."""
BOXES = {"image": 640.0, "small": 20.0, "large": 150.0}
"""How large its training images and their boxes were."""
Export = Callable[..., Path]
"""`export("a.onnx", "precision=fp16")`: what the command line wrote with these settings."""


@contextmanager
def traced_once() -> Iterator[None]:
    """Inside, torch traces one detector's network once for each size of images; further files take a copy."""
    real, made = onnx_file._traced, dict[Any, Any]()

    def traced(network: Any, exact: tuple[int, ...] | None = None) -> Any:
        if exact not in made:
            made[exact] = real(network, exact)
        return copy.deepcopy(made[exact])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "_traced", traced)
        yield


def assert_needs_no_padding(model: Any, network: Network, sizes: Sequence[tuple[int, int]]) -> None:
    """The network finds in images of these sizes (height, width) what the model finds in padded batches of one."""
    for height, width in sizes:
        image = torch.randn(3, height, width)
        batch = collate([image], [_no_truth(0, height, width)], model.stride)
        with torch.no_grad():
            scores, labels, _ = network.select(model(batch.images, batch.mask()), 5)
            boxes, without, same = network(image[None])
        torch.testing.assert_close(without, scores, atol=1e-5, rtol=0)
        assert torch.equal(same, labels)
        assert boxes.min() >= 0
        assert boxes.max() <= 1
