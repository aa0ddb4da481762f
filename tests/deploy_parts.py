"""What tests of exported files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxtyping import config

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
