"""Uploads that the page must refuse: no pictures, broken pictures, bombs, other kinds of files."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from PIL import Image

REFUSED_KINDS = ("TIFF", "ICO", "PPM", "PCX", "TGA", "JPEG2000", "DDS", "SGI", "PDF")
"""Whole pictures of kinds that the page does not take."""
CUTS = (0.05, 0.2, 0.4, 0.6, 0.8)
"""The shares of a file that are left of it."""


def picture(width: int = 60, height: int = 40, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(content, kind)
    return content.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.png", bytes(1_000_000))
    return content.getvalue()


def _larger_jpeg(side: int) -> bytes:
    content = picture(kind="JPEG")
    place = content.index(b"\xff\xc0") + 5  # the frame's header: length, bits, height, width
    return content[:place] + struct.pack(">HH", side, side) + content[place + 4 :]


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HOSTILE = {
    "empty": b"", "text": b"hello", "svg with script": SVG, "html": b"<html><script>alert(1)</script>",
    "zip with a path": zipped(), "pdf": b"%PDF-1.7\n", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "bomb": png_claiming(60000, 60000), "large": png_claiming(8000, 8000), "nothing": png_claiming(0, 0),
    "cut off": picture(300, 300)[:400], "cut off jpeg": picture(300, 300, "JPEG")[:900],
    "noise": bytes(range(256)) * 99,
    "png head": b"\x89PNG\r\n\x1a\n", "gif head": b"GIF89a" + b"\xff" * 20, "tiff": b"II*\0" + b"\xff" * 64,
    "jpeg head": b"\xff\xd8\xff\xe0" + b"\0" * 40, "bmp": b"BM" + b"\xff" * 60, "webp": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    "elf": b"\x7fELF" + b"\0" * 99, "icns": b"icns" + b"\xff" * 50, "xbm": b"#define a_width 9\n#define a_height 9\n",
}  # fmt: skip
HOSTILE |= {f"whole {kind}": picture(kind=kind) for kind in REFUSED_KINDS}
HOSTILE |= {
    f"{kind} cut at {share}": picture(300, 300, kind)[: int(share * len(picture(300, 300, kind)))]
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF") for share in CUTS
}  # fmt: skip
HOSTILE |= {
    "gif bomb": b"GIF89a" + b"\xff\xff" * 2 + picture(kind="GIF")[10:],
    "bmp bomb": picture(kind="BMP")[:18] + struct.pack("<ii", 2**30, 2**30) + picture(kind="BMP")[26:],
    "jpeg bomb": _larger_jpeg(65_500),
    "picture and script": SVG + picture(),
}
