"""Pictures of every kind, damaged in every way, read by a process of their own.

    PYTHONPATH=.:tests/faults python tests/faults/damaged_pictures.py FOLDER COUNT SEED

writes COUNT damaged pictures into FOLDER one by one, reads each, and prints one JSON line that says how it went. What
ends the process, or hangs it, is the file FOLDER/now.
"""

from __future__ import annotations

import io
import json
import random
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(values: np.ndarray, colour: int = 2, filters: int = 0) -> bytes:
    """A PNG of 16 bits from values (channels, height, width), which Pillow cannot write."""
    height, width = values.shape[1:]
    rows = values.transpose(1, 2, 0).astype(">u2").reshape(height, -1)
    raw = b"".join(bytes([filters]) + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def sound() -> dict[str, bytes]:
    """One picture of each kind, by a name that says which."""
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (40, 56, 3), np.uint8)
    noise[:20] = 90
    deep = draw.integers(0, 65536, (4, 24, 31)).astype(np.uint16)
    rgb, kinds = Image.fromarray(noise), dict[str, bytes]()

    def keep(name: str, image: Image.Image, kind: str, **how: Any) -> None:
        stream = io.BytesIO()
        try:
            image.save(stream, kind, **how)
        except (OSError, KeyError):  # an encoder that this Pillow lacks
            return
        kinds[name] = stream.getvalue()

    kinds |= {
        "deep.png": deep_png(deep[:3]),
        "deep_alpha.png": deep_png(deep, 6, 4),
        "deep_grey.png": deep_png(deep[:2], 4, 2),
    }
    exif = Image.Exif()
    exif[274] = 6
    keep("rgb.png", rgb, "PNG")
    keep("alpha.png", rgb.convert("RGBA"), "PNG")
    keep("palette.png", rgb.quantize(64), "PNG", transparency=3)
    keep("grey.png", rgb.convert("L"), "PNG")
    keep("grey16.png", Image.fromarray(deep[0]), "PNG")
    keep("bits.png", rgb.convert("1"), "PNG")
    keep("turned.jpg", rgb, "JPEG", exif=exif)
    keep("progressive.jpg", rgb, "JPEG", progressive=True)
    keep("grey.jpg", rgb.convert("L"), "JPEG")
    keep("cmyk.jpg", rgb.convert("CMYK"), "JPEG")
    keep("lossy.webp", rgb, "WEBP")
    keep("turned.webp", rgb, "WEBP", exif=exif)
    keep("turned.png", rgb, "PNG", exif=exif)
    keep("lossless.webp", rgb.convert("RGBA"), "WEBP", lossless=True)
    keep("moving.webp", rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)])
    keep("rgb.bmp", rgb, "BMP")
    keep("palette.bmp", rgb.quantize(16), "BMP")
    keep("rgb.tiff", rgb, "TIFF")
    for packing in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits", "group4"):
        keep(f"{packing}.tiff", rgb.convert("1") if packing == "group4" else rgb, "TIFF", compression=packing)
    keep("float.tiff", Image.fromarray(noise[..., 0].astype(np.float32)), "TIFF")
    keep("grey16.tiff", Image.fromarray(deep[0]), "TIFF")
    keep("palette.gif", rgb.quantize(64), "GIF")
    keep("moving.gif", rgb.quantize(16), "GIF", save_all=True, append_images=[rgb.rotate(90).quantize(16)])
    keep("rgb.jp2", rgb, "JPEG2000")
    keep("rgb.avif", rgb, "AVIF")
    keep("rgb.ppm", rgb, "PPM")
    keep("rgb.tga", rgb, "TGA")
    keep("rgb.ico", rgb, "ICO", sizes=[(32, 32)])
    keep("rgb.pcx", rgb, "PCX")
    keep("rgb.sgi", rgb, "SGI")
    return kinds


def flipped(data: bytearray, draw: random.Random) -> bytes:
    for _ in range(draw.choice((1, 3, 20))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def cut(data: bytearray, draw: random.Random) -> bytes:
    return bytes(data[: draw.randrange(len(data))])


def in_the_head(data: bytearray, draw: random.Random) -> bytes:
    """Bytes near the start, where sizes and tables are, become extreme."""
    for _ in range(draw.randrange(1, 6)):
        place = draw.randrange(min(len(data), 160))
        data[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(data)


def large_number(data: bytearray, draw: random.Random) -> bytes:
    place = draw.randrange(max(1, min(len(data), 400) - 4))
    data[place : place + 4] = draw.choice(
        (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\xff\xff", b"\xff\xff\x00\x00")
    )
    return bytes(data)


def patched(data: bytearray, draw: random.Random) -> bytes:
    begin = draw.randrange(len(data))
    piece = bytes(data[begin : begin + draw.randrange(1, 64)])
    place = draw.randrange(len(data))
    taken = draw.choice((0, len(piece)))
    return bytes(data[:place] + draw.choice((piece, bytes(len(piece)), b"")) + data[place + taken :])


def unpacked(body: bytearray) -> bytearray:
    try:
        return bytearray(zlib.decompress(bytes(body)))
    except zlib.error:  # damaged before
        return bytearray()


def with_right_checksums(data: bytearray, draw: random.Random) -> bytes:
    """A PNG whose chunks are damaged, reordered or lost, and whose checksums are right again."""
    if bytes(data[:8]) != SIGNATURE:
        return in_the_head(data, draw)
    chunks, at = list[tuple[bytes, bytearray]](), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((bytes(data[at + 4 : at + 8]), data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return flipped(data, draw)
    kind, body = chunks[draw.randrange(len(chunks))]
    rows = unpacked(body) if kind == b"IDAT" else bytearray()
    if rows and draw.random() < 0.5:  # the rows themselves
        body[:] = zlib.compress(draw.choice((flipped, cut, patched))(rows, draw))
    elif body:
        body[:] = draw.choice((flipped, cut, in_the_head, patched))(body, draw)
    if draw.random() < 0.2:
        draw.shuffle(chunks)
    if draw.random() < 0.2:
        chunks.pop(draw.randrange(len(chunks)))
    if draw.random() < 0.2:
        chunks.append(chunks[0])
    return SIGNATURE + b"".join(chunk(name, bytes(part)) for name, part in chunks)


WAYS: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    flipped, cut, in_the_head, large_number, patched, with_right_checksums, with_right_checksums,
)  # fmt: skip


def most_bytes() -> int:
    """The most memory that this process has held, without its parent's (which `ru_maxrss` begins with on Linux)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def main(folder: Path, count: int, seed: int) -> None:
    from detr_mini.errors import DataError
    from detr_mini.images.header import image_size
    from detr_mini.images.load import load_image

    draw, kinds = random.Random(seed), sound()
    names = sorted(kinds)
    for name in names:
        (folder / name).write_bytes(kinds[name])
        load_image(folder / name)  # sound ones are read; and what they need is imported
    memory = most_bytes()
    for number in range(count):
        name = names[number % len(names)]
        data = bytearray(kinds[name])
        for _ in range(draw.choice((1, 1, 2))):
            data = bytearray(draw.choice(WAYS)(data, draw) or b"x")
        path = folder / "now"
        path.write_bytes(data)
        began, said = time.process_time(), "read"
        for read in (image_size, load_image):
            try:
                read(path)
            except DataError as error:
                said = str(error)
            except BaseException as error:
                said = f"FAULT {type(error).__name__}: {error}"
                path.rename(folder / f"fault_{number}_{name}")
                break
        more = (most_bytes() - memory) / 1e6
        print(
            json.dumps({"name": name, "said": said, "seconds": time.process_time() - began, "megabytes": more}),
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
