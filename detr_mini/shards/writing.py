"""Writes shards in the layout of LitData's chunks, so that its `StreamingDataset` reads them, too.

A chunk is the number n of its items, n + 1 offsets (both little-endian uint32) and the items. An item has two parts,
the image file and a JSON text: two lengths (uint32), then the parts.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from detr_mini.shards.index import StoredFile, stored

MOST_BYTES = 2**32 - 1
"""Offsets have 32 bits."""
PARTS = ("image", "record")
_LENGTHS = struct.Struct("<II")


class ShardWriter:
    """Writes the items of a split into `folder / name`, a new file when the current one would exceed `most` bytes."""

    def __init__(self, folder: Path, name: str, most: int) -> None:
        self.folder, self.name, self.most = folder, name, most
        self.files: list[StoredFile] = []
        self.places: list[tuple[int, int]] = []
        """Of each item that is written: the number of its shard, and where its image begins in it."""
        self._items: list[bytes] = []
        self._counts: list[int] = []
        self._bytes = 0
        (folder / name).mkdir(parents=True)

    def add(self, image: bytes, record: bytes) -> None:
        """Write an item, as soon as a shard is full."""
        item = _LENGTHS.pack(len(image), len(record)) + image + record
        if self._items and 4 + 4 * (len(self._items) + 2) + self._bytes + len(item) > self.most:
            self._write()
        self._items.append(item)
        self._bytes += len(item)

    def close(self) -> None:
        """Write the last shard, and LitData's index."""
        if self._items:
            self._write()
        (self.folder / self.name / "index.json").write_text(json.dumps(self._litdata_index()), encoding="utf-8")

    def _write(self) -> None:
        header = 4 + 4 * (len(self._items) + 1)
        offsets = [header]
        for item in self._items:
            offsets.append(offsets[-1] + len(item))
        file = f"{self.name}/chunk-0-{len(self.files)}.bin"
        with (self.folder / file).open("wb") as out:
            out.write(struct.pack(f"<{len(offsets) + 1}I", len(self._items), *offsets))
            out.writelines(self._items)
        self.places += [(len(self.files), offset + _LENGTHS.size) for offset in offsets[:-1]]
        self.files.append(stored(self.folder, file))
        self._counts.append(len(self._items))
        self._items, self._bytes = [], 0

    def _litdata_index(self) -> dict[str, object]:
        leaf: dict[str, object] = {"type": None, "context": None, "children_spec": []}
        spec = [1, {"type": "builtins.dict", "context": json.dumps(PARTS), "children_spec": [leaf, leaf]}]
        chunks = [
            {"chunk_bytes": file.bytes, "chunk_size": count, "dim": None, "filename": file.name.rpartition("/")[2]}
            for file, count in zip(self.files, self._counts, strict=True)
        ]
        config = {
            "compression": None, "chunk_size": None, "chunk_bytes": self.most, "data_format": ["bytes", "str"],
            "data_spec": json.dumps(spec), "encryption": None, "item_loader": "PyTreeLoader",
        }  # fmt: skip
        return {"chunks": chunks, "config": config, "updated_at": "0"}
