"""The one place where an image file becomes a tensor, for training and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from PIL import Image
from torch import Tensor

from detr_mini.errors import DataError
from detr_mini.images.decoding import bytes_needed, room_for
from detr_mini.images.deep_colour import deep_values, is_deep
from detr_mini.images.encoded import ImageFile
from detr_mini.images.header import TURNED, exif_orientation, opened, refuse_huge, why_unreadable

_BAND = 1 << 20
"""The number of pixels that are converted at a time, so that a large image is never in memory twice."""
_FLIPPED = {2: (2,), 3: (1, 2), 4: (1,), 6: (1,), 7: (1, 2), 8: (2,)}
"""EXIF orientation -> axes of the stored image (c, h, w) that are flipped, before `TURNED` ones swap the last two."""


def load_image(path: ImageFile) -> UInt8[Tensor, "3 h w"]:
    """The image in `path` as 8-bit RGB, upright (EXIF orientation applied once).

    Grey, palette and CMYK images are converted to RGB, and transparent parts become white. Values of more than 8 bits
    are stretched linearly over all channels: the file's smallest becomes 0, its largest 255 (`stretch`). DataError with
    the file's name if it is missing, not an image, cut off, larger than MAX_PIXELS, or would need more than
    `decoding.BUDGET` bytes to decode.
    """
    return load_reduced(path, None)[0]


def load_reduced(path: ImageFile, most: int | None) -> tuple[UInt8[Tensor, "3 h w"], tuple[int, ...]]:
    """As `load_image`, and the file's (height, width), upright: a JPEG comes at 1/2, 1/4 or 1/8 of it where its longer
    side then still has `most` pixels. Decoding takes a fraction of the time, since no pixel of full size is computed.
    """
    with opened(path) as image:
        refuse_huge(path, image.size)
        decode_deep = _deep_decoder() if _is_deep_colour(image) else None
        try:
            other = decode_deep is None and is_deep(image)
            with room_for(bytes_needed(image, _deep_channels(image)), path):
                if decode_deep is not None:
                    values = decode_deep(path, image.size).numpy()
                    rgb = turned_upright(on_white(values), exif_orientation(image))
                    return rgb, rgb.shape[1:]
                if other:
                    rgb = upright_rgb(image)
                    return rgb, rgb.shape[1:]
                whole = _reduce(image, most)
                image.load()
                refuse_huge(path, image.size)  # a frame may be larger than the header states
                rgb = upright_rgb(image, close=True)
                return rgb, whole or rgb.shape[1:]
        except DataError:
            raise
        except Exception as error:  # on broken files, decoders raise nearly any exception
            raise DataError(f"{path} cannot be decoded ({why_unreadable(error)}); the file may be cut off: "
                            "replace it or remove it from the dataset") from error  # fmt: skip


def _reduce(image: Image.Image, most: int | None) -> tuple[int, int] | None:
    """Have a JPEG decoded as `load_reduced` says: its (height, width) before, upright. None for what stays whole."""
    (width, height), longer = image.size, max(image.size)
    if most is None or longer < 2 * most or image.format not in ("JPEG", "MPO"):
        return None
    image.draft(None, (max(1, width * most // longer), max(1, height * most // longer)))
    return (width, height) if exif_orientation(image) in TURNED else (height, width)


def upright_rgb(image: Image.Image, close: bool = False) -> UInt8[Tensor, "3 h w"]:
    """A PIL image in the form of `load_image`. `close`: free its memory as soon as possible.

    Colour images of 16 bits per value keep their full precision if the image's file still exists.
    """
    values = deep_values(image)
    if values is not None:
        orientation = 1 if image.format == "TIFF" else exif_orientation(image)  # Pillow has turned a TIFF
        return turned_upright(on_white(values.transpose(2, 0, 1)), orientation)
    rgb = _to_rgb_tensor(image)
    if close:
        image.close()
    return rgb


def needed_for(path: ImageFile) -> int:
    """The peak memory of `load_image`, in bytes. DataError if the file is not an image."""
    with opened(path) as image:
        refuse_huge(path, image.size)
        return bytes_needed(image, _deep_channels(image))


def _deep_channels(image: Image.Image) -> int:
    """The number of channels, if there are several of 16 bits; else 0."""
    return len(image.getbands()) if _is_deep_colour(image) or is_deep(image) else 0


def stretch(values: np.ndarray) -> np.ndarray:
    """Map values of more than 8 bits linearly to uint8: the smallest to 0, the largest to 255; equal values to 0.

    Cameras of 10, 12 or 14 bits store their values in 16 bits. Taking the upper 8 bits would leave them nearly uniform.
    """
    return stretched(values, *value_range([values]))


def value_range(parts: Iterable[np.ndarray]) -> tuple[float, float]:
    """The smallest and the largest value of an image that comes in parts, NaN left out; parts may hold nothing else."""
    ends = [(np.fmin.reduce(part, axis=None), np.fmax.reduce(part, axis=None)) for part in parts]
    return float(np.fmin.reduce([low for low, _ in ends])), float(np.fmax.reduce([high for _, high in ends]))


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`stretch`, with the smallest (`low`) and largest (`high`) value of the whole image."""
    scale = np.float32(255 / (high - low) if high > low else 0.0)
    return np.nan_to_num((values.astype(np.float32) - np.float32(low)) * scale + np.float32(0.5)).astype(np.uint8)


def _to_rgb_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """The image, upright. It is turned while it is written, so that it is in memory once."""
    (width, height), orientation = image.size, exif_orientation(image)
    to_rgb: Callable[[Image.Image], np.ndarray] = rgb_on_white
    if image.mode.startswith(("I", "F")):
        low, high = value_range(np.asarray(image.crop(box)) for box in _bands(width, height))

        def to_rgb(band: Image.Image) -> np.ndarray:
            return stretched(np.asarray(band), low, high)[..., None]

    rgb = _empty_upright(height, width, orientation)
    for box in _bands(width, height):
        band = image if box == (0, 0, width, height) else image.crop(box)
        _write_rows(rgb, torch.from_numpy(to_rgb(band)).permute(2, 0, 1), box[1], orientation)
    return rgb


def _bands(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of whole rows that together cover the image."""
    rows = max(1, _BAND // width)
    return ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))


def rgb_on_white(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """An image of 8-bit values as RGB, transparent parts white."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether this is a 16-bit PNG of colour, or of grey with alpha. Pillow reads only the upper 8 bits of these."""
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return image.format == "PNG" and any("16" in raw for raw in raw_modes) and not image.mode.startswith("I")


def _deep_decoder() -> Callable[[ImageFile, tuple[int, int]], UInt16[Tensor, "c h w"]]:
    """`decode_deep_png`. Only these rare files need torchvision, which takes a second and 165 MB to import."""
    from detr_mini.images.deep_png import decode_deep_png

    return decode_deep_png


def on_white(values: np.ndarray, low: float | None = None, high: float | None = None) -> UInt8[Tensor, "3 h w"]:
    """16-bit values (c, h, w), stretched to 8-bit RGB on white. The last of 2 or 4 channels is opacity.

    `low`, `high`: the colours' smallest and largest value in the whole image, where `values` is a part of it.
    """
    colours = values[:-1] if values.shape[0] in (2, 4) else values
    low, high = float(colours.min()) if low is None else low, float(colours.max()) if high is None else high
    rgb = torch.empty(3, *values.shape[1:], dtype=torch.uint8)
    for _, top, _, bottom in _bands(values.shape[2], values.shape[1]):
        band = torch.from_numpy(stretched(colours[:, top:bottom], low, high))
        if len(colours) < len(values):
            opacity = torch.from_numpy(values[-1:, top:bottom].astype(np.float32) / 65535)
            band = (band * opacity + 255 * (1 - opacity)).round().to(torch.uint8)
        rgb[:, top:bottom] = band
    return rgb


def turned_upright(image: UInt8[Tensor, "3 h w"], orientation: int) -> UInt8[Tensor, "3 h2 w2"]:
    """`ImageOps.exif_transpose` for a tensor. Contiguous; the image itself where nothing is to be turned."""
    if orientation == 1:
        return image
    upright = _empty_upright(image.shape[1], image.shape[2], orientation)
    _write_rows(upright, image, 0, orientation)
    return upright


def _empty_upright(height: int, width: int, orientation: int) -> UInt8[Tensor, "3 _ _"]:
    """Memory for the upright form of an image that is stored with `height` rows."""
    return torch.empty(3, *((width, height) if orientation in TURNED else (height, width)), dtype=torch.uint8)


def _write_rows(upright: UInt8[Tensor, "3 _ _"], rows: UInt8[Tensor, "_ r w"], top: int, orientation: int) -> None:
    """Write rows of the stored image, the first of which is its row `top`, to their places in the upright one."""
    stored, flips = upright.transpose(1, 2) if orientation in TURNED else upright, _FLIPPED.get(orientation, ())
    if flips:
        rows = rows.flip(flips)
    if 1 in flips:
        top = stored.shape[1] - top - rows.shape[1]
    stored[:, top : top + rows.shape[1]] = rows
