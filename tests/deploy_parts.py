"""What tests of exported files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxtyping import config

SOURCES = [{"name": "bolts", "images": 120, "licence": "CC BY 4.0"}]
"""What the checkpoint of these tests says of the data that it learned from."""
BOXES = {"image": 640.0, "small": 20.0, "large": 150.0}
"""How large its training images and their boxes were."""
Export = Callable[..., Path]
"""`export("a.onnx", "precision=fp16")`: what the command line wrote with these settings."""


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the checker of shapes: sizes are symbols while torch traces, and the checker asks for numbers."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
