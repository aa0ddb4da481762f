"""16-bit colour PNG files, of which Pillow only reads the upper 8 bits.

torchvision's decoder reads all 16, but a damaged file can crash the process. So the file is parsed here and every byte
is checked. The decoder gets a new, plain file with the same values.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import UInt16
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from detr_mini.images.encoded import ImageFile, binary

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""The number of channels of each PNG colour type."""
LONGEST_SIDE = 1_000_000
"""The decoder's limit, in pixels."""
MOST_CHUNKS = 200_000
_PIECE = 1 << 20
FILTERS = 4
"""The highest filter type of a row."""
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The interlaced passes: first x and y, steps in x and y."""


def decode_deep_png(path: ImageFile, size: tuple[int, int]) -> UInt16[Tensor, "c h w"]:
    """The values of a 16-bit PNG of `size` (width, height). ValueError or zlib.error for a damaged file."""
    with binary(path) as file:
        if file.read(8) != SIGNATURE:
            raise ValueError("it is not a PNG file")
        chunks = _chunks(file)
        kind, header = next(chunks)
        if kind != b"IHDR" or len(header) != 13:
            raise ValueError("it has no header")
        width, height, depth, colour, packing, filtering, interlaced = struct.unpack(">IIBBBBB", header)
        if (width, height) != size or max(size) > LONGEST_SIDE or min(size) < 1:
            raise ValueError("its header gives a size other than the one expected")
        if depth != 16 or colour not in CHANNELS or packing or filtering or interlaced > 1:
            raise ValueError("its header is not that of a 16-bit image")
        raw = _checked_rows(chunks, _passes(width, height, 2 * CHANNELS[colour], interlaced))
    clean = bytearray(SIGNATURE)
    for kind, body in ((b"IHDR", header), (b"IDAT", raw), (b"IEND", b"")):
        _write_chunk(clean, kind, body)
    del raw, body
    values: Tensor = decode_image(torch.frombuffer(clean, dtype=torch.uint8), ImageReadMode.UNCHANGED)
    return values


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The header and data chunks. ValueError for a wrong checksum, and for a file without an end chunk."""
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("it ends too soon")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND":
            return
        if kind not in (b"IHDR", b"IDAT"):
            file.seek(length + 4, 1)
            continue
        body, checksum = file.read(length), file.read(4)
        if len(body) < length or zlib.crc32(kind + body).to_bytes(4, "big") != checksum:
            raise ValueError(f"the checksum of its chunk {kind.decode()} is wrong")
        yield kind, body
    raise ValueError("it has too many chunks")


def _passes(width: int, height: int, pixel: int, interlaced: int) -> list[tuple[int, int]]:
    """(rows, bytes per row) of each pass, including the filter byte of each row."""
    if not interlaced:
        return [(height, 1 + width * pixel)]
    sizes = [(-(-(height - y) // dy), -(-(width - x) // dx)) for x, y, dx, dy in ADAM7]
    return [(rows, 1 + columns * pixel) for rows, columns in sizes if rows > 0 and columns > 0]


def _checked_rows(chunks: Iterator[tuple[bytes, bytes]], passes: list[tuple[int, int]]) -> bytearray:
    """The unpacked rows. ValueError unless all are there with valid filters."""
    expected = sum(rows * row for rows, row in passes)
    unpack, raw = zlib.decompressobj(), bytearray()
    for kind, body in chunks:
        if kind == b"IDAT" and not unpack.eof:
            raw += unpack.decompress(body, expected + 1 - len(raw))
            if len(raw) > expected:
                raise ValueError("it holds more rows than its header says")
    if not unpack.eof or len(raw) < expected:
        raise ValueError("it holds fewer rows than its header says")
    start = 0
    for rows, row in passes:
        if np.frombuffer(raw, np.uint8, rows * row, start)[::row].max() > FILTERS:
            raise ValueError("a row has an unknown filter")
        start += rows * row
    return raw


def _write_chunk(file: bytearray, kind: bytes, body: bytes | bytearray) -> None:
    """Append a chunk to `file`. Rows are stored uncompressed, piece by piece, to hold them in memory at most twice."""
    begin = len(file)
    file += bytes(4) + kind
    if kind == b"IDAT":
        pack = zlib.compressobj(0)
        for place in range(0, len(body), _PIECE):
            file += pack.compress(body[place : place + _PIECE])
        file += pack.flush()
    else:
        file += body
    file[begin : begin + 4] = struct.pack(">I", len(file) - begin - 8)
    with memoryview(file) as view:
        checksum = zlib.crc32(view[begin + 4 :])
    file += struct.pack(">I", checksum)
