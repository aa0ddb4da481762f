"""Pictures that a browser sends: checked by content, decoded in memory, never written to disk."""

from __future__ import annotations

import io
import warnings

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from detr_mini.errors import DataError
from detr_mini.images.decoding import bytes_needed, room_for
from detr_mini.images.header import why_unreadable
from detr_mini.images.load import upright_rgb

LARGEST_BYTES = 25_000_000
"""Bytes of a picture, at most."""
LARGEST_PIXELS = 24_000_000
"""Pixels of a picture, at most: what a large camera makes."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""What browsers show, too; recognised by content, whatever the name says."""


def decode(content: bytes) -> UInt8[Tensor, "3 h w"]:
    """A picture as upright RGB. DataError in one sentence where it is none, or is too large."""
    if len(content) > LARGEST_BYTES:
        raise DataError(too_many_bytes())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images, which are refused below
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DataError(_too_many_pixels("more")) from None
    except Exception as error:  # on broken headers, readers raise nearly any exception
        raise DataError(f"this is not a picture that can be read; send one of {', '.join(FORMATS)}") from error
    with image:
        _check_pixels(image)
        try:
            with room_for(bytes_needed(image), "the picture"):
                image.load()
                _check_pixels(image)  # a frame may be larger than the header states
                return upright_rgb(image)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"the picture cannot be decoded ({why_unreadable(error)}); it may be cut off") from error


def too_many_bytes() -> str:
    """The sentence for an upload that is too long."""
    return f"the picture has more than {LARGEST_BYTES // 1_000_000} MB; make it smaller"


def _check_pixels(image: Image.Image) -> None:
    width, height = image.size
    if width * height > LARGEST_PIXELS:
        raise DataError(_too_many_pixels(f"{width} x {height}"))


def _too_many_pixels(claim: str) -> str:
    return f"the picture claims {claim} pixels, and at most {LARGEST_PIXELS:,} are taken; make it smaller"
