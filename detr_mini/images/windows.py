"""Images that are read by windows: a large one is never in memory as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detr_mini.errors import DataError
from detr_mini.images.encoded import Encoded, ImageFile
from detr_mini.images.header import TURNED, is_tiff, opened
from detr_mini.images.load import load_image, on_white, stretched, turned_upright, value_range
from detr_mini.images.tiff_segments import TiffSegments

BAND = 512
"""Rows that are read at a time where the whole image is wanted in a smaller size."""
RANGES = 4096
"""Files whose range of values is kept."""
_ranges: dict[tuple[str, int, int], tuple[float, float]] = {}
"""By path, time of the last change and number of bytes: training opens a file again for each of its windows."""


@runtime_checkable
class Windowed(Protocol):
    """An upright image of which any window can be read."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    def window(self, top: int, left: int, height: int, width: int) -> UInt8[Tensor, "3 _ _"]:
        """The pixels of a window that lies inside the image."""


class InMemory:
    """An image that was decoded as a whole."""

    def __init__(self, pixels: UInt8[Tensor, "3 h w"]) -> None:
        self.pixels = pixels
        self.size: tuple[int, int] = (int(pixels.shape[1]), int(pixels.shape[2]))

    def window(self, top: int, left: int, height: int, width: int) -> UInt8[Tensor, "3 _ _"]:
        """See `Windowed`."""
        return self.pixels[:, top : top + height, left : left + width]


class TiffWindows:
    """A TIFF file, turned upright; values of more than 8 bits are stretched as `load_image` does."""

    def __init__(self, segments: TiffSegments) -> None:
        self._segments = segments
        self._orientation = segments.orientation
        height, width = segments.layout.size
        self.size = (width, height) if self._orientation in TURNED else (height, width)
        self._ends: tuple[float, float] | None = None

    def window(self, top: int, left: int, height: int, width: int) -> UInt8[Tensor, "3 _ _"]:
        """See `Windowed`."""
        y, x, h, w = _stored(self.size, (top, left, height, width), self._orientation)
        pixels = torch.empty(3, h, w, dtype=torch.uint8)
        for row, column, values in self._segments.read(y, x, h, w):
            rgb = torch.from_numpy(self._to_rgb(values)).permute(2, 0, 1)
            pixels[:, row : row + rgb.shape[1], column : column + rgb.shape[2]] = rgb
        return turned_upright(pixels, self._orientation)

    def _to_rgb(self, values: np.ndarray) -> np.ndarray:
        if values.dtype == np.uint8 and values.ndim == 3:
            return np.array(values)
        if self._ends is None:
            self._ends = _range_of(self._segments)
        if values.ndim == 2:
            return np.repeat(stretched(values, *self._ends)[..., None], 3, 2)
        return on_white(values.transpose(2, 0, 1), *self._ends).permute(1, 2, 0).numpy()


def _range_of(segments: TiffSegments) -> tuple[float, float]:
    """The smallest and the largest value of the colours in a file, which is read as a whole for them, but only once."""
    key = None
    if not isinstance(segments.path, Encoded):
        state = os.stat(segments.path)
        key = (str(segments.path), state.st_mtime_ns, state.st_size)
        if (known := _ranges.get(key)) is not None:
            return known
    height, width = segments.layout.size
    found = value_range(
        values[..., :-1] if values.ndim == 3 and values.shape[2] in (2, 4) else values
        for top in range(0, height, BAND)
        for _, _, values in segments.read(top, 0, min(BAND, height - top), width)
    )
    if key is not None:
        if len(_ranges) >= RANGES:
            _ranges.clear()
        _ranges[key] = found
    return found


@contextmanager
def open_windows(path: ImageFile) -> Iterator[Windowed]:
    """The image in `path`, to be read by windows: a TIFF of any size strip by strip, any other file decoded as a whole.

    DataError where it cannot be read, or is larger than MAX_PIXELS and no TIFF.
    """
    if not _is_tiff(path):
        try:
            pixels = load_image(path)
        except DataError as error:
            if "over the limit" not in str(error):
                raise
            raise DataError(
                f"{path} is too large to be decoded at once, and only a TIFF is read by windows; save it as a TIFF in "
                "tiles (vips tiffsave in.jpg out.tif --tile --compression deflate)"
            ) from error
        yield InMemory(pixels)
        return
    segments = TiffSegments(path)
    try:
        yield TiffWindows(segments)
    finally:
        segments.close()


def reduced(image: Windowed, longest: int) -> UInt8[Tensor, "3 _ _"]:
    """The whole image with a longer side of about `longest` pixels (at most twice that), by averages of squares.

    It is read in bands, so the memory that it takes does not grow with the image's height.
    """
    height, width = image.size
    factor = max(1, max(height, width) // longest)
    rows = max(1, BAND // factor) * factor
    bands = []
    for top in range(0, height, rows):
        band = image.window(top, 0, min(rows, height - top), width)
        small = (max(1, band.shape[1] // factor), max(1, width // factor))
        bands.append(band if factor == 1 else F.resize(band, list(small), antialias=True))
    return torch.cat(bands, 1)


def _is_tiff(path: ImageFile) -> bool:
    try:
        return is_tiff(path)
    except OSError:
        opened(path)  # raises the sentence for what is no file
        raise


def _stored(size: tuple[int, int], window: tuple[int, int, int, int], orientation: int) -> tuple[int, int, int, int]:
    """A window of the upright image as it lies in the file: (top, left, height, width)."""
    top, left, height, width = window
    if orientation in (2, 3, 6, 7):  # what `turned_upright` flips is flipped back, then the axes are swapped
        left = size[1] - left - width
    if orientation in (3, 4, 7, 8):
        top = size[0] - top - height
    return (left, top, width, height) if orientation in TURNED else (top, left, height, width)
