"""`detr-mini data shard`: a dataset as a few large files, for training from shared disks and object stores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.data.choice import several
from detr_mini.formats.discover import Source
from detr_mini.formats.sharding import shard
from detr_mini.formats.writing import free_place


def data_shard(config: Mapping[str, Any]) -> Path:
    """Write `config.data` as shards into the new folder `config.output`; the folder."""
    output = free_place(config["output"])
    source = Source.of(config["data"])
    source.print_notes()
    done = shard(source, output, megabytes=config["shard_megabytes"], splits=several(config["split"]))
    for notice in done.notices:
        print(notice)
    for name, images in done.images.items():
        shards = f"{done.shards[name]:,} shard{'' if done.shards[name] == 1 else 's'}"
        print(f"{name}: {images:,} images in {shards}, {done.bytes[name] / 2**20:,.1f} MiB")
    print(f"{output} holds the shards of {source.root} ({source.format}); train from them with 'data=litdata "
          f"data.root={output}'")  # fmt: skip
    return output
