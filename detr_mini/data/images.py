"""The one place where an image file becomes a tensor, for training, prediction and page alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from detr_mini.errors import DataError

MAX_PIXELS = 120_000_000
"""A file that claims more is refused before it is decoded: a few bytes can claim gigabytes."""
_TAIL = 4096
"""Bytes at the end of a file in which its end mark is looked for."""
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def load_image(path: str | Path) -> UInt8[Tensor, "3 h w"]:
    """The image in `path`: upright (EXIF orientation applied once), RGB, 8 bits.

    Grey and palette images become RGB, CMYK is converted, transparent parts are laid on white. More than 8 bits a
    value: the file's smallest value becomes 0 and its largest 255, linearly, over all channels (`stretch`).
    DataError, naming the file, where it is missing, not an image, cut off, or larger than MAX_PIXELS.
    """
    with _opened(path) as image:
        _refuse_huge(path, image.size)
        try:
            if _is_deep_colour(image):
                return _load_deep_colour(path, image)
            image.load()
            return _to_rgb_tensor(ImageOps.exif_transpose(image))
        except DataError:
            raise
        except Exception as error:  # decoders of broken files raise nearly anything
            raise DataError(f"{path} cannot be decoded ({_reason(error)}); the file may be cut off: "
                            "replace it or take it out of the set") from error  # fmt: skip


def image_size(path: str | Path) -> tuple[tuple[int, int], bool]:
    """((height, width) of the upright image, whether its file is stored sideways), from the file's header alone."""
    with _opened(path) as image:
        _refuse_huge(path, image.size)
        width, height = image.size
        # PNG keeps EXIF in a chunk that may stand behind the pixels; asking for it would decode the whole image
        known = image.format != "PNG" or "exif" in image.info
        turned = known and image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return ((width, height) if turned else (height, width)), turned


def orientation_of(path: str | Path) -> int:
    """The EXIF orientation of a file, 1 (upright) to 8. DataError where it is no image."""
    with _opened(path) as image:
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # broken EXIF counts for nothing, as in `ImageOps.exif_transpose`
            return 1
    return orientation if orientation in range(1, 9) else 1


def is_whole_file(path: str | Path) -> bool:
    """Whether a JPEG or PNG file has its end mark, or is of another kind; False: it may be cut off, or end in more."""
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
    """(height, width) that an image of `image_size` (height, width) has in the model.

    Its longest side becomes `size`. With `shorter_side`, DETR's rule (Carion et al. 2020, appendix A.4): the shorter
    side becomes `shorter_side`, or less where the longest would pass `size` (by more than the rounding of the shorter).
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
    """Values of more than 8 bits to uint8: smallest to 0, largest to 255, linearly; all equal gives 0.

    Cameras of 10, 12 or 14 bits store their values in 16: cutting to the upper 8 bits leaves them nearly flat.
    """
    values = values.astype(np.float32)
    low, high = np.nanmin(values), np.nanmax(values)
    return np.nan_to_num((values - low) * (255 / (high - low) if high > low else 0.0) + 0.5).astype(np.uint8)


def _opened(path: str | Path) -> Image.Image:
    if not Path(path).is_file():
        raise DataError(f"there is no image file {path}; check the path")
    try:
        return Image.open(path)
    except Image.DecompressionBombError:
        raise DataError(_too_large(path, "")) from None
    except Exception as error:  # readers of broken headers raise nearly anything
        raise DataError(f"{path} is not an image that can be read ({_reason(error)}); "
                        "replace it or take it out of the set") from error  # fmt: skip


def _refuse_huge(path: str | Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(_too_large(path, f" of {size[0]} x {size[1]} pixels"))


def _too_large(path: str | Path, claim: str) -> str:
    return f"{path} claims to be an image{claim}, over the limit of {MAX_PIXELS:,} pixels; make it smaller first"


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _to_rgb_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    if image.mode.startswith(("I", "F")):
        grey = torch.from_numpy(stretch(np.asarray(image)))
        return grey[None].repeat(3, 1, 1)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether this is a colour (or grey with alpha) PNG of 16 bits, of which Pillow reads the upper 8 only."""
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return image.format == "PNG" and any("16" in raw for raw in raw_modes) and not image.mode.startswith("I")


def _load_deep_colour(path: str | Path, image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    raw = torch.from_numpy(np.fromfile(path, np.uint8))
    values = decode_image(raw, ImageReadMode.UNCHANGED).numpy().astype(np.float32)
    if values.shape[0] in (2, 4):
        opacity = torch.from_numpy(values[-1:] / 65535)
        on_white = torch.from_numpy(stretch(values[:-1])) * opacity + 255 * (1 - opacity)
        deep = on_white.round().to(torch.uint8)
    else:
        deep = torch.from_numpy(stretch(values))
    return _upright(deep, image.getexif().get(ExifTags.Base.Orientation, 1)).expand(3, -1, -1).contiguous()


def _upright(image: UInt8[Tensor, "c h w"], orientation: int) -> UInt8[Tensor, "c h2 w2"]:
    """What `ImageOps.exif_transpose` does, for a tensor."""
    if orientation in _TURNED:  # 5: across the main diagonal; the others follow from it
        image = image.transpose(1, 2)
    flips = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}
    return image.flip(flips[orientation]) if orientation in flips else image
