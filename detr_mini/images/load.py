"""The one place where an image file becomes a tensor, for training and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detr_mini.errors import DataError
from detr_mini.images.decoding import bytes_needed, room_for
from detr_mini.images.deep_colour import deep_values, is_deep
from detr_mini.images.deep_png import decode_deep_png

MAX_PIXELS = 120_000_000
"""A file that claims more is refused before it is decoded, since a few bytes can claim gigabytes."""
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "JPEG2000", "AVIF", "PPM", "TGA", "ICO", "PCX",
           "SGI")  # fmt: skip
"""Pillow's readers that are used. Others start programs (EPS) or are hardly needed."""
_BAND = 1 << 20
"""The number of pixels that are converted at a time, so that a large image is never in memory twice."""
_TAIL = 4096
"""The number of bytes at the end of a file that are searched for its end marker."""
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def load_image(path: str | Path) -> UInt8[Tensor, "3 h w"]:
    """The image in `path` as 8-bit RGB, upright (EXIF orientation applied once).

    Grey, palette and CMYK images are converted to RGB, and transparent parts become white. Values of more than 8 bits
    are stretched linearly over all channels: the file's smallest becomes 0, its largest 255 (`stretch`). DataError with
    the file's name if it is missing, not an image, cut off, larger than MAX_PIXELS, or would need more than
    `decoding.BUDGET` bytes to decode.
    """
    with _opened(path) as image:
        _refuse_huge(path, image.size)
        try:
            deep = _is_deep_colour(image)
            other = not deep and is_deep(image)
            with room_for(bytes_needed(image, _deep_channels(image)), path):
                if deep:
                    return _load_deep_colour(path, image)
                if other:
                    return upright_rgb(image)
                image.load()
                _refuse_huge(path, image.size)  # a frame may be larger than the header states
                return upright_rgb(image, close=True)
        except DataError:
            raise
        except Exception as error:  # on broken files, decoders raise nearly any exception
            raise DataError(f"{path} cannot be decoded ({_reason(error)}); the file may be cut off: "
                            "replace it or remove it from the dataset") from error  # fmt: skip


def upright_rgb(image: Image.Image, close: bool = False) -> UInt8[Tensor, "3 h w"]:
    """A PIL image in the form of `load_image`. `close`: free its memory as soon as possible.

    Colour images of 16 bits per value keep their full precision if the image's file still exists.
    """
    values = deep_values(image)
    if values is not None:
        return _upright(_stretched_on_white(values.transpose(2, 0, 1)), _orientation(image)).contiguous()
    rgb, orientation = _to_rgb_tensor(image), _orientation(image)
    if close:
        image.close()
    return _upright(rgb, orientation).contiguous()


def image_size(path: str | Path) -> tuple[tuple[int, int], bool]:
    """((height, width) of the upright image, whether it is stored sideways), from the file's header alone."""
    with _opened(path) as image:
        _refuse_huge(path, image.size)
        width, height = image.size
        # PNG may store EXIF after the pixels; reading it there would decode the whole image
        known = image.format != "PNG" or "exif" in image.info
        turned = known and image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return ((width, height) if turned else (height, width)), turned


def orientation_of(path: str | Path) -> int:
    """The EXIF orientation of a file, 1 (upright) to 8. DataError if it is not an image."""
    with _opened(path) as image:
        return _orientation(image)


def needed_for(path: str | Path) -> int:
    """The peak memory of `load_image`, in bytes. DataError if the file is not an image."""
    with _opened(path) as image:
        _refuse_huge(path, image.size)
        return bytes_needed(image, _deep_channels(image))


def _deep_channels(image: Image.Image) -> int:
    """The number of channels, if there are several of 16 bits; else 0."""
    return len(image.getbands()) if _is_deep_colour(image) or is_deep(image) else 0


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF is ignored, as in `ImageOps.exif_transpose`
        return 1
    return orientation if orientation in range(1, 9) else 1


def is_whole_file(path: str | Path) -> bool:
    """Whether a JPEG or PNG file has its end marker; True for other formats. If False, it may be cut off."""
    with open(path, "rb") as file:
        head = file.read(8)
        mark = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}.get(head[:2])
        if mark is None:
            return True
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        return mark in file.read()


def to_model_input(
    image: UInt8[Tensor, "3 h w"],
    size: int,
    shorter_side: int | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[Tensor, "3 h2 w2"]:
    """`image` resized by `target_size` (bilinear, antialiased), scaled to [0, 1] and normalised."""
    target = target_size((image.shape[1], image.shape[2]), size, shorter_side)
    if target != tuple(image.shape[1:]):
        image = F.resize(image, list(target), antialias=True)
    scale = 255 * torch.tensor(std, dtype=torch.float32)[:, None, None]
    shift = torch.tensor(mean, dtype=torch.float32)[:, None, None] * 255
    return (image.float() - shift) / scale


def target_size(image_size: tuple[int, int], size: int, shorter_side: int | None = None) -> tuple[int, int]:
    """The (height, width) to which an image of `image_size` (height, width) is resized for the model.

    Its longest side becomes `size`. With `shorter_side`, DETR's rule applies (Carion et al. 2020, appendix A.4): the
    shorter side becomes `shorter_side`, or less if the longest would exceed `size` (rounding aside).
    """
    height, width = image_size
    short, long = min(height, width), max(height, width)
    if shorter_side is None:
        other = max(1, round(short * size / long))
        return (size, other) if height >= width else (other, size)
    if long / short * shorter_side > size:
        shorter_side = max(1, round(size * short / long))
    if short == shorter_side:
        return height, width
    longer_side = int(shorter_side * long / short)
    return (longer_side, shorter_side) if height >= width else (shorter_side, longer_side)


def stretch(values: np.ndarray) -> np.ndarray:
    """Map values of more than 8 bits linearly to uint8: the smallest to 0, the largest to 255; equal values to 0.

    Cameras of 10, 12 or 14 bits store their values in 16 bits. Taking the upper 8 bits would leave them nearly uniform.
    """
    return _stretched(values, float(np.nanmin(values)), float(np.nanmax(values)))


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`stretch`, with the smallest (`low`) and largest (`high`) value of the whole image."""
    scale = np.float32(255 / (high - low) if high > low else 0.0)
    return np.nan_to_num((values.astype(np.float32) - np.float32(low)) * scale + np.float32(0.5)).astype(np.uint8)


def _opened(path: str | Path) -> Image.Image:
    if not Path(path).is_file():
        raise DataError(f"there is no image file {path}; check the path")
    try:
        return Image.open(path, formats=_formats())
    except Image.DecompressionBombError:
        raise DataError(_too_large(path, "")) from None
    except Exception as error:  # on broken headers, readers raise nearly any exception
        raise DataError(f"{path} is not an image that can be read ({_reason(error)}); "
                        "replace it or remove it from the dataset") from error  # fmt: skip


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # AVIF is not in every Pillow


def _refuse_huge(path: str | Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(_too_large(path, f" of {size[0]} x {size[1]} pixels"))


def _too_large(path: str | Path, claim: str) -> str:
    return f"{path} claims to be an image{claim}, over the limit of {MAX_PIXELS:,} pixels; resize it first"


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _to_rgb_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """The image as it is stored, not turned upright."""
    width, height = image.size
    to_rgb: Callable[[Image.Image], np.ndarray] = _band_to_rgb
    if image.mode.startswith(("I", "F")):
        ends = [(np.nanmin(v), np.nanmax(v)) for v in (np.asarray(image.crop(box)) for box in _bands(width, height))]
        low, high = float(np.nanmin([e[0] for e in ends])), float(np.nanmax([e[1] for e in ends]))

        def to_rgb(band: Image.Image) -> np.ndarray:
            return _stretched(np.asarray(band), low, high)[..., None]

    rgb = torch.empty(3, height, width, dtype=torch.uint8)
    for box in _bands(width, height):
        band = image if box == (0, 0, width, height) else image.crop(box)
        rgb[:, box[1] : box[3]] = torch.from_numpy(to_rgb(band)).permute(2, 0, 1)
    return rgb


def _bands(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of whole rows that together cover the image."""
    rows = max(1, _BAND // width)
    return ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))


def _band_to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether this is a 16-bit PNG of colour, or of grey with alpha. Pillow reads only the upper 8 bits of these."""
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return image.format == "PNG" and any("16" in raw for raw in raw_modes) and not image.mode.startswith("I")


def _load_deep_colour(path: str | Path, image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    values = decode_deep_png(path, image.size).numpy()
    return _upright(_stretched_on_white(values), _orientation(image)).contiguous()


def _stretched_on_white(values: np.ndarray) -> UInt8[Tensor, "3 h w"]:
    """16-bit values (c, h, w), stretched to 8-bit RGB on white. The last of 2 or 4 channels is opacity."""
    colours = values[:-1] if values.shape[0] in (2, 4) else values
    low, high = float(colours.min()), float(colours.max())
    rgb = torch.empty(3, *values.shape[1:], dtype=torch.uint8)
    for _, top, _, bottom in _bands(values.shape[2], values.shape[1]):
        band = torch.from_numpy(_stretched(colours[:, top:bottom], low, high))
        if len(colours) < len(values):
            opacity = torch.from_numpy(values[-1:, top:bottom].astype(np.float32) / 65535)
            band = (band * opacity + 255 * (1 - opacity)).round().to(torch.uint8)
        rgb[:, top:bottom] = band
    return rgb


def _upright(image: UInt8[Tensor, "c h w"], orientation: int) -> UInt8[Tensor, "c h2 w2"]:
    """`ImageOps.exif_transpose` for a tensor."""
    if orientation in _TURNED:  # 5 mirrors at the main diagonal; the others add flips
        image = image.transpose(1, 2)
    flips = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}
    return image.flip(flips[orientation]) if orientation in flips else image
