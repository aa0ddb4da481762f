"""D-37: colour of 16 bits is stretched, whatever file it comes in and however it is handed over."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detr_mini.images.load import load_image, stretch
from detr_mini.inference.detector import as_tensor

VALUES = np.random.default_rng(0).integers(800, 4000, (20, 30, 3)).astype(np.uint16)  # 12 bits of a camera


def tiff(values: np.ndarray, *, deflated: bool = False, order: str = "<") -> bytes:
    """A TIFF file of one strip."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if deflated else data
    place = 8 + len(data)
    tags = [(256, 4, width), (257, 4, height), (258, 3, None), (259, 3, 8 if deflated else 1), (262, 3, 2), (273, 4, 8),
            (277, 3, channels), (278, 4, height), (279, 4, len(data)), (284, 3, 1)]  # fmt: skip
    tags += [(338, 3, 2)] if channels == 4 else []
    beyond = place + 2 + 12 * len(tags) + 4
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", place) + data
    out += struct.pack(f"{order}H", len(tags))
    for tag, kind, value in tags:
        if value is None:
            out += struct.pack(f"{order}HHII", tag, 3, channels, beyond)
        else:
            out += struct.pack(f"{order}HHI{'HH' if kind == 3 else 'I'}", tag, kind, 1, value, *([0] * (kind == 3)))
    return out + struct.pack(f"{order}I", 0) + struct.pack(f"{order}{channels}H", *[16] * channels)


def png(values: np.ndarray) -> bytes:
    """A PNG file of 16 bits a value."""
    height, width, channels = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), rows], 1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6, 2: 4}[channels], 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes()))
            + chunk(b"IEND", b""))  # fmt: skip


def ppm(values: np.ndarray) -> bytes:
    height, width, _ = values.shape
    return b"P6\n%d %d\n65535\n" % (width, height) + values.astype(">u2").tobytes()


FILES = {
    "tiff": tiff(VALUES),
    "big-endian tiff": tiff(VALUES, order=">"),
    "deflated tiff": tiff(VALUES, deflated=True),
    "big-endian deflated tiff": tiff(VALUES, deflated=True, order=">"),
    "png": png(VALUES),
    "ppm": ppm(VALUES),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_d37_a_file_of_16_bits_is_stretched_however_it_is_handed_over(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "deep"
    path.write_bytes(content)
    wanted = stretch(VALUES).transpose(2, 0, 1)
    assert np.array_equal(load_image(path).numpy(), wanted)
    with Image.open(path) as image:
        assert np.array_equal(as_tensor(image).numpy(), wanted)
        image.load()
        assert np.array_equal(as_tensor(image).numpy(), wanted)
    assert np.array_equal(as_tensor(Image.open(io.BytesIO(content))).numpy(), wanted)


@pytest.mark.parametrize("most", [65535, 3000, 200])
def test_d37_arrays_and_tensors_of_16_bits_are_what_their_file_is(tmp_path: Path, most: int) -> None:
    values = (VALUES.astype(np.int64) * most // 4000).astype(np.uint16)
    (tmp_path / "colour.png").write_bytes(png(values))
    wanted = load_image(tmp_path / "colour.png").numpy()
    for own in (values, values.transpose(2, 0, 1), values.astype(">u2"), torch.from_numpy(values)):
        assert np.array_equal(as_tensor(own).numpy(), wanted)
    assert np.array_equal(as_tensor(values[:, :, ::-1], "bgr").numpy(), wanted)
    Image.fromarray(grey := values[:, :, 0]).save(tmp_path / "grey.png")
    wanted = load_image(tmp_path / "grey.png").numpy()
    for of_grey in (grey, grey[:, :, None], torch.from_numpy(grey), Image.fromarray(grey)):
        assert np.array_equal(as_tensor(of_grey).numpy(), wanted)
    assert np.array_equal(as_tensor(grey[:, :, None], "bgr").numpy(), wanted)


@pytest.mark.parametrize("make", [tiff, png])
def test_d37_what_is_transparent_lies_on_white(tmp_path: Path, make: object) -> None:
    opacity = np.full((20, 30, 1), 65535, np.uint16)
    opacity[:10] = 0
    path = tmp_path / "deep"
    path.write_bytes(make(np.concatenate([VALUES, opacity], 2)))  # type: ignore[operator]
    found = load_image(path).numpy()
    given = np.concatenate([VALUES, opacity], 2)
    assert np.array_equal(as_tensor(given).numpy(), found)
    assert np.array_equal(as_tensor(given[:, :, [2, 1, 0, 3]], "bgr").numpy(), found)
    assert (found[:, :10] == 255).all()
    assert np.array_equal(found[:, 10:], stretch(VALUES).transpose(2, 0, 1)[:, 10:])


def test_d37_8_bits_stay_as_they_are(tmp_path: Path) -> None:
    pixels = (VALUES // 256).astype(np.uint8)
    for name in ("a.tif", "a.png", "a.ppm"):
        Image.fromarray(pixels).save(tmp_path / name)
        assert np.array_equal(load_image(tmp_path / name).numpy(), pixels.transpose(2, 0, 1))
        assert np.array_equal(as_tensor(Image.open(tmp_path / name)).numpy(), pixels.transpose(2, 0, 1))
