"""The strips and tiles of a TIFF file, decoded one at a time, so that a large image is never in memory as a whole."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import TiffImagePlugin

from detr_mini.errors import DataError
from detr_mini.images.deep_colour import deep_values
from detr_mini.images.encoded import ImageFile, binary, for_pillow
from detr_mini.images.header import why_unreadable
from detr_mini.images.load import rgb_on_white

CACHE = 192 << 20
"""Bytes of decoded segments that are kept, so that a strip is not decoded again for each window that it crosses."""
LARGEST = 256 << 20
"""Bytes of one decoded segment. A file with larger ones cannot be read by windows."""
ROWS = 64
"""Rows of an uncompressed strip that are read at a time."""
WIDTH, HEIGHT, BITS, COMPRESSION, ORIENTATION, SAMPLES, PLANAR = 256, 257, 258, 259, 274, 277, 284
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_BYTES, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES = (
    273, 278, 279, 322, 323, 324, 325)  # fmt: skip
COPIED = (258, 259, 262, 266, 277, 284, 292, 293, 317, 320, 332, 338, 339, 347, 530, 532)
"""Tags that say how a segment is packed and what its values mean."""


@dataclass(frozen=True)
class Layout:
    """How the first image of a TIFF file is divided into segments (strips or tiles)."""

    size: tuple[int, int]
    """(height, width) as stored, not turned upright."""
    segment: tuple[int, int]
    """(height, width) of a segment; the last strip may have fewer rows."""
    padded: bool
    """Tiles are stored whole at the border, strips are cut."""
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    """Where each segment begins in the file, and its bytes, row by row."""

    @property
    def columns(self) -> int:
        """Segments beside each other."""
        return -(-self.size[1] // self.segment[1])

    def rows_of(self, row: int) -> int:
        """Rows of pixels in the segments of a row of segments, as stored."""
        return self.segment[0] if self.padded else min(self.segment[0], self.size[0] - row * self.segment[0])


class TiffSegments:
    """A TIFF file whose pixels are read by windows, in its own number of bits and as it is stored."""

    def __init__(self, path: ImageFile) -> None:
        """DataError where the file is no TIFF, or its segments cannot be read one at a time."""
        self.path = path
        try:
            # unlike Image.open, this refuses no size: nothing is allocated for it
            with TiffImagePlugin.TiffImageFile(for_pillow(path)) as image:
                self._tags: Any = image.tag_v2
            self.orientation = int(self._tags.get(ORIENTATION, 1))
            self.layout = self._layout()
        except DataError:
            raise
        except Exception as error:  # on broken headers, readers raise nearly any exception
            raise DataError(f"{path} is not a TIFF that can be read ({why_unreadable(error)}); replace it") from error
        self._file = binary(path)  # closed by `close`
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached = 0

    def close(self) -> None:
        """Close the file and forget what was decoded."""
        self._file.close()
        self._cache.clear()

    def read(
        self, top: int, left: int, height: int, width: int
    ) -> Iterator[tuple[int, int, Shaped[np.ndarray, "..."]]]:
        """The parts of a window, (row, column) in the window and their pixels (h, w) or (h, w, channels)."""
        rows, columns = self.layout.segment
        for i in range(top // rows, -(-(top + height) // rows)):
            for j in range(left // columns, -(-(left + width) // columns)):
                values = self._segment(i, j)
                y, x = max(top, i * rows), max(left, j * columns)
                bottom, right = min(top + height, (i + 1) * rows), min(left + width, (j + 1) * columns)
                part = values[y - i * rows : bottom - i * rows, x - j * columns : right - j * columns]
                yield y - top, x - left, part

    def _layout(self) -> Layout:
        tags = self._tags
        size = (int(tags[HEIGHT]), int(tags[WIDTH]))
        if int(tags.get(PLANAR, 1)) != 1 and int(tags.get(SAMPLES, 1)) > 1:
            raise DataError(f"{self.path} stores each colour by itself, which cannot be read by windows; save it with "
                            "its colours together (planar configuration 1)")  # fmt: skip
        if TILE_OFFSETS in tags:
            segment, padded = (int(tags[TILE_LENGTH]), int(tags[TILE_WIDTH])), True
            offsets, counts = _numbers(tags[TILE_OFFSETS]), _numbers(tags[TILE_BYTES])
        else:
            segment, padded = (min(int(tags.get(ROWS_PER_STRIP, size[0])), size[0]), size[1]), False
            offsets, counts = _numbers(tags[STRIP_OFFSETS]), _numbers(tags[STRIP_BYTES])
        if min(*size, *segment) < 1:
            raise DataError(f"{self.path} claims to be an image without pixels; replace it")
        layout = Layout(size, segment, padded, offsets, counts)
        wanted = layout.columns * -(-size[0] // segment[0])
        if len(offsets) < wanted or len(counts) < wanted:
            raise DataError(
                f"{self.path} names {len(offsets)} strips or tiles, and its size asks for {wanted}; replace it"
            )
        return self._checked(self._divided(layout))

    def _divided(self, layout: Layout) -> Layout:
        """Uncompressed strips as strips of fewer rows."""
        if int(self._tags.get(COMPRESSION, 1)) != 1 or layout.padded or layout.segment[0] <= ROWS:
            return layout
        row = -(-layout.size[1] * sum(_numbers(self._tags.get(BITS, 1), int(self._tags.get(SAMPLES, 1)))) // 8)
        height, (strip, _) = layout.size[0], layout.segment
        if strip % ROWS and strip < height:
            return layout
        tops = range(0, height, ROWS)
        offsets = tuple(layout.offsets[top // strip] + top % strip * row for top in tops)
        return Layout(layout.size, (ROWS, layout.size[1]), False, offsets,
                      tuple(min(ROWS, height - top) * row for top in tops))  # fmt: skip

    def _checked(self, layout: Layout) -> Layout:
        bits = _numbers(self._tags.get(BITS, 1), int(self._tags.get(SAMPLES, 1)))
        height, width = layout.segment
        decoded = height * width * max(1, sum(bits) // 8)
        if decoded > LARGEST:
            raise DataError(
                f"{self.path} stores {width} x {height} pixels in one piece, which takes {decoded / 1e9:.1f} GB to "
                "decode; save it in tiles (with libvips: vips tiffsave in.tif out.tif --tile --compression deflate)"
            )
        return layout

    def _segment(self, row: int, column: int) -> np.ndarray:
        number = row * self.layout.columns + column
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        try:
            values = self._decoded(number, self.layout.rows_of(row))
        except Exception as error:  # on broken files, decoders raise nearly any exception
            raise DataError(
                f"{self.path}: its strip or tile {number + 1} of {len(self.layout.offsets)} cannot be "
                f"decoded ({why_unreadable(error)}); the file may be cut off: replace it"
            ) from error
        self._cache[number] = values
        self._cached += values.nbytes
        while self._cached > CACHE and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return values

    def _decoded(self, number: int, height: int) -> np.ndarray:
        """One segment, decoded by Pillow as a TIFF file of its own."""
        self._file.seek(self.layout.offsets[number])
        data = self._file.read(self.layout.counts[number])
        if not data:
            raise DataError("it lies behind the end of the file")
        little = self._tags.prefix == b"II"
        head = (b"II*\0" if little else b"MM\0*") + (8).to_bytes(4, "little" if little else "big")
        ifd = TiffImagePlugin.ImageFileDirectory_v2(head)
        for tag in COPIED:
            if tag in self._tags:
                ifd.tagtype[tag] = self._tags.tagtype[tag]
                ifd[tag] = self._tags[tag]
        ifd[WIDTH], ifd[HEIGHT], ifd[ROWS_PER_STRIP] = self.layout.segment[1], height, height
        ifd[STRIP_OFFSETS], ifd[STRIP_BYTES] = (0,), (len(data),)  # `tobytes` adds its own length to the offset
        content = io.BytesIO(head + ifd.tobytes(8) + data)
        with TiffImagePlugin.TiffImageFile(content) as image:
            deep = deep_values(image)
            if deep is not None:
                return deep
            return np.asarray(image) if image.mode.startswith(("I", "F")) else rgb_on_white(image)


def _numbers(value: Any, times: int = 1) -> tuple[int, ...]:
    """A tag's numbers as a tuple; a single one `times` over."""
    return tuple(map(int, value)) if isinstance(value, tuple) else (int(value),) * times
