"""An image file that is a part of a larger file. It stands wherever the path of an image file does."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Encoded:
    """The bytes of an image file, read when they are needed."""

    name: Callable[[], str]
    """What an error calls it."""
    read: Callable[[], bytes]
    """DataError where they cannot be read, or have changed."""

    def __str__(self) -> str:
        return self.name()


ImageFile = str | Path | Encoded


def binary(file: ImageFile) -> io.BytesIO | io.BufferedReader:
    """An image file, open for reading."""
    return io.BytesIO(file.read()) if isinstance(file, Encoded) else open(file, "rb")


def for_pillow(file: ImageFile) -> str | Path | io.BytesIO | io.BufferedReader:
    """What Pillow opens. It closes a file that it has opened by its path."""
    return binary(file) if isinstance(file, Encoded) else file
