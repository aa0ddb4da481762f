"""Datasets as shards, and a web server that answers requests for ranges of bytes, with faults."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from data_parts import write_coco
from detr_mini.formats.discover import Source
from detr_mini.formats.sharding import Sharded, shard

AUTO = {"format": "auto", "train": "auto", "val": "auto", "test": "auto"}
BOXES = [
    {"image_id": 7, "bbox": [2, 3, 30, 20], "category_id": 3, "area": 500.5},
    {"image_id": 7, "bbox": [50, 30, 30, 20], "category_id": 1},
    {"image_id": 2, "bbox": [1.25, 1.5, 10, 10], "category_id": 1, "iscrowd": 1, "area": 100},
    {"image_id": 11, "bbox": [0, 0, 5, 5], "category_id": 2, "segmentation": [[0, 0, 5, 0, 5, 5]]},
    {"image_id": 13, "bbox": [3, 3, 5, 5], "category_id": 2},
]
KINDS = ("plain.png", "photo.jpg", "deep.png", "tiles.tif", "below/grey.png")
"""Image files of each kind of decoder: with ids 2, 7, 11, 13, 17."""


def write_kinds(root: Path, split: str = "train") -> Path:
    """A COCO set of five images, each of another kind; the JPEG is stored sideways."""
    folder, random = root / split, np.random.default_rng(len(split))
    (folder / "below").mkdir(parents=True)
    pixels = random.integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(folder / KINDS[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels.transpose(1, 0, 2).copy()).save(folder / KINDS[1], exif=exif)
    Image.fromarray(random.integers(0, 2**16, (40, 60), np.uint16)).save(folder / KINDS[2])
    tifffile.imwrite(folder / KINDS[3], pixels, photometric="rgb", tile=(16, 16), compression="zlib")
    Image.fromarray(pixels[..., 0]).save(folder / KINDS[4])
    images = [{"id": i, "file_name": name} for i, name in zip((2, 7, 11, 13, 17), KINDS, strict=True)]
    write_coco(root, split, images=images[::-1], annotations=BOXES, write=False)
    return root


def write_shards(root: Path, output: Path, **how: Any) -> Sharded:
    """`detr-mini data shard` of a folder."""
    return shard(Source.of({"root": root, **AUTO}), output, **how)


class _Ranges(SimpleHTTPRequestHandler):
    """Files with ranges. `faults`: for the end of a path how often, and what: a status, or "cut"."""

    def __init__(self, *parts: Any, faults: dict[str, list[Any]], asked: Counter[str], **more: Any) -> None:
        self.faults, self.asked = faults, asked
        super().__init__(*parts, **more)

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        queue = next((queue for end, queue in self.faults.items() if self.path.endswith(end)), [])
        fault = queue.pop(0) if queue else None
        path = Path(self.translate_path(self.path))
        if isinstance(fault, int) or not path.is_file():
            self.send_error(fault or 404)
            return
        content, status = path.read_bytes(), 200
        if asked := self.headers.get("Range"):
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            content, status = content[int(begin) : int(end) + 1 if end else None], 206
        if fault == "whole":
            content, status = path.read_bytes(), 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        self.close_connection = fault == "cut"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path, faults: dict[str, list[Any]] | None = None) -> Iterator[tuple[str, Counter[str]]]:
    """The address of a folder, and how often each path was asked for."""
    asked: Counter[str] = Counter()
    handler = partial(_Ranges, directory=str(folder), faults=faults if faults is not None else {}, asked=asked)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
