"""Any kind of image that people have, as upright RGB: the one place that converts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from detr_mini.errors import ConfigError, DataError
from detr_mini.images.load import load_image, on_white, upright_rgb

ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a PIL image, an array (H, W, channels) or (H, W), or a tensor (channels, H, W): see `as_tensor`."""
ORDERS = ("rgb", "bgr")
COUNTS = (1, 3, 4)
"""Channels: grey, colour, colour with opacity."""


def as_tensor(image: ImageLike | None, channels: str = "rgb") -> UInt8[Tensor, "3 h w"]:
    """Any kind of image as upright RGB. DataError where it is none.

    Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), tensors (1 or 3 or 4, H, W) or (H, W); the other order of axes
    is recognised where only one is possible. Values are whole numbers from 0 to 255, floats from 0 to 1, or booleans.
    Those of uint16 are stretched as those of files with 16 bits are: the image's smallest becomes 0, its largest 255.
    The fourth channel is opacity, over white. `channels`: "bgr" for arrays and tensors of OpenCV; files and PIL images
    say themselves which channel is red.
    """
    if channels not in ORDERS:
        raise ConfigError(f"channels is {channels!r}; it must be 'rgb' or 'bgr' (OpenCV's order)")
    if isinstance(image, str | Path):
        return load_image(os.path.expanduser(image))
    if isinstance(image, Image.Image):
        try:
            return upright_rgb(image)
        except Exception as error:  # decoders of broken files raise nearly anything
            raise DataError(f"the image {getattr(image, 'filename', '')} cannot be decoded ({error})") from error
    if isinstance(image, np.ndarray):
        return _from_array(image, channels)
    if isinstance(image, Tensor):
        values = image.detach().cpu()
        values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
        return _from_array(values.numpy(), channels, tensor=True)
    if image is None:
        raise DataError("the image is None; cv2.imread gives that for a file it cannot read: give the path instead")
    raise DataError(f"an image is a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), not {type(image)}")


def _from_array(image: np.ndarray, channels: str, tensor: bool = False) -> UInt8[Tensor, "3 h w"]:
    values = _channels_last(image, tensor)
    if channels == "bgr" and values.shape[2] > 1:
        values = values[:, :, [2, 1, 0, *range(3, values.shape[2])]]
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return on_white(values.transpose(2, 0, 1))
    pixels = _to_bytes(values)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, 2)
    if pixels.shape[2] == 4:
        return upright_rgb(Image.fromarray(np.ascontiguousarray(pixels), "RGBA"))
    # a copy: the array may be read-only, a view with steps backwards, or changed later
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def _channels_last(image: np.ndarray, tensor: bool) -> np.ndarray:
    shape = image.shape
    if image.size == 0:
        raise DataError(f"an image of {shape} has no pixels")
    if image.ndim == 2:
        return image[:, :, None]
    first, last = (image.ndim == 3 and shape[axis] in COUNTS for axis in (0, -1))
    unclear = tensor and first and last and shape[0] == 4 and shape[2] == 3
    if first and not unclear and (tensor or (not last and shape[0] != 4)):
        return image.transpose(1, 2, 0)
    if last and not unclear:
        return image
    what, like = ("a tensor", "(3, H, W)") if tensor else ("an array", "(H, W, 3) or (H, W)")
    many = "; several images go in a list" if image.ndim == 4 else ""
    raise DataError(f"{what} of {shape} is no image; it must be {like}{many}")


def _to_bytes(image: np.ndarray) -> np.ndarray[Any, np.dtype[np.uint8]]:
    kind, dtype = image.dtype.kind, image.dtype
    if dtype == np.uint8:
        return image
    if kind == "b":
        return image.astype(np.uint8) * np.uint8(255)
    if kind not in "iuf":
        raise DataError(f"an image holds numbers, not {dtype}")
    low, high = float(image.min()), float(image.max())
    if kind == "f":
        if low >= 0 and high <= 1:
            return np.rint(image * 255).astype(np.uint8)
        hint = "divide it by 255" if low >= 0 and high <= 255 else "undo its normalisation"
        raise DataError(f"a float image has values from 0 to 1, this one from {low:g} to {high:g}; {hint}")
    if low < 0 or high > 255:
        raise DataError(f"an image of {dtype} must have values from 0 to 255, but this one has {low:g} to {high:g}")
    return image.astype(np.uint8)
