"""Colour images of 16 bits per value. Pillow only keeps the upper 8 bits; decoding the file twice gives all 16."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16
from PIL import Image

_RAW = ("RGB;16", "RGBA;16", "LA;16", "RGBX;16")
_OTHER = {"B": "L", "L": "B", "N": "B"}
"""The byte order with which Pillow reads the lower byte instead of the upper one. N is the machine's own order."""


def deep_values(image: Image.Image) -> UInt16[np.ndarray, "h w c"] | None:
    """The values of a 16-bit colour image, not turned by EXIF; None if it has 8 bits, or its file no longer exists."""
    content = _content_of(image)
    if content is None:
        return None
    with Image.open(io.BytesIO(content)) as whole:
        whole.seek(image.tell() if hasattr(image, "tell") else 0)
        if whole.size != image.size or not is_deep(whole):
            return None
        tile = whole.tile[0]
        if tile.codec_name == "ppm":
            count = whole.size[0] * whole.size[1] * 3
            return np.frombuffer(content, ">u2", count, tile.offset).reshape(*whole.size[::-1], 3).astype(np.uint16)
        upper = np.asarray(whole).astype(np.uint16)
    with Image.open(io.BytesIO(content)) as again:
        again.seek(image.tell() if hasattr(image, "tell") else 0)
        again.tile = [_swapped(tile) for tile in again.tile]
        return upper * np.uint16(256) + np.asarray(again)


def _content_of(image: Image.Image) -> bytes | None:
    """The content of an image's file, if it may have 16 bits per value."""
    if image.mode not in ("RGB", "RGBA", "LA", "RGBX"):
        return None
    name, open_file = getattr(image, "filename", ""), getattr(image, "fp", None)
    if getattr(image, "tile", None):
        if not is_deep(image):
            return None
        if open_file is not None:
            place = open_file.tell()
            open_file.seek(0)
            content: bytes = open_file.read()
            open_file.seek(place)
            return content
    elif getattr(image, "format", None) not in ("PNG", "TIFF", "PPM"):
        return None
    return Path(name).read_bytes() if name and Path(name).is_file() else None


def is_deep(image: Any) -> bool:
    """Whether an image that is not loaded yet has 16 bits per colour in its file."""
    tiles = getattr(image, "tile", None)
    if tiles and tiles[0].codec_name == "ppm":
        return image.mode == "RGB" and isinstance(tiles[0].args, tuple) and tiles[0].args[-1] == 65535
    return (
        tiles is not None
        and len(tiles) > 0
        and all(_raw_mode(tile)[:-1] in _RAW and _raw_mode(tile)[-1] in _OTHER for tile in tiles)
    )


def _raw_mode(tile: Any) -> str:
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _swapped(tile: Any) -> Any:
    raw = _raw_mode(tile)
    other = raw[:-1] + _OTHER[raw[-1]]
    return tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
