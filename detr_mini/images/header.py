"""What the header and the end of an image file say, without decoding its pixels, and so without torch."""

from __future__ import annotations

import os
from functools import cache

from PIL import ExifTags, Image, TiffImagePlugin

from detr_mini.errors import DataError
from detr_mini.images.encoded import Encoded, ImageFile, binary, for_pillow

MAX_PIXELS = 120_000_000
"""A file that claims more is refused before it is decoded, since a few bytes can claim gigabytes."""
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "JPEG2000", "AVIF", "PPM", "TGA", "ICO", "PCX",
           "SGI")  # fmt: skip
"""Pillow's readers that are used. Others start programs (EPS) or are hardly needed."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_TAIL = 4096
"""The number of bytes at the end of a file that are searched for its end marker."""


def image_size(path: ImageFile) -> tuple[tuple[int, int], bool]:
    """((height, width) of the upright image, whether it is stored sideways), from the file's header alone.

    DataError where it has more than MAX_PIXELS, unless it is a TIFF.
    """
    with opened(path, any_tiff=True) as image:
        if image.format != "TIFF":  # a TIFF is read by windows
            refuse_huge(path, image.size)
        width, height = image.size
        # PNG may store EXIF after the pixels; reading it there would decode the whole image
        known = image.format != "PNG" or "exif" in image.info
        turned = known and exif_orientation(image) in TURNED
        swapped = turned and image.format != "TIFF"  # Pillow gives a TIFF's sides upright
        return ((width, height) if swapped else (height, width)), turned


def orientation_of(path: ImageFile) -> int:
    """The EXIF orientation of a file, 1 (upright) to 8. DataError if it is not an image."""
    with opened(path, any_tiff=True) as image:
        return exif_orientation(image)


def is_whole_file(path: ImageFile) -> bool:
    """Whether a JPEG or PNG file has its end marker; True for other formats. If False, it may be cut off."""
    with binary(path) as file:
        head = file.read(8)
        mark = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}.get(head[:2])
        if mark is None:
            return True
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        return mark in file.read()


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 (upright) to 8."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF is ignored, as in `ImageOps.exif_transpose`
        return 1
    return orientation if orientation in range(1, 9) else 1


def opened(path: ImageFile, any_tiff: bool = False) -> Image.Image:
    """The image in `path`, not decoded yet. DataError if there is none, or its header cannot be read.

    `any_tiff`: a TIFF may claim any size.
    """
    if not isinstance(path, Encoded) and not os.path.isfile(path):
        raise DataError(f"there is no image file {path}; check the path")
    try:
        if any_tiff and is_tiff(path):
            return TiffImagePlugin.TiffImageFile(for_pillow(path))
        return Image.open(for_pillow(path), formats=_formats())
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(_too_large(path, "")) from None
    except Exception as error:  # on broken headers, readers raise nearly any exception
        raise DataError(f"{path} is not an image that can be read ({why_unreadable(error)}); "
                        "replace it or remove it from the dataset") from error  # fmt: skip


def is_tiff(path: ImageFile) -> bool:
    """Whether a file begins as a TIFF does."""
    with binary(path) as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # AVIF is not in every Pillow


def is_huge(size: tuple[int, int]) -> bool:
    """Whether it is more than MAX_PIXELS."""
    return size[0] * size[1] > MAX_PIXELS


def refuse_huge(path: ImageFile, size: tuple[int, int]) -> None:
    """DataError for an image of more than MAX_PIXELS."""
    if is_huge(size):
        raise DataError(_too_large(path, f" of {size[0]} x {size[1]} pixels"))


def _too_large(path: ImageFile, claim: str) -> str:
    return f"{path} claims to be an image{claim}, over the limit of {MAX_PIXELS:,} pixels; resize it first"


def why_unreadable(error: Exception) -> str:
    """A decoder's error in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
