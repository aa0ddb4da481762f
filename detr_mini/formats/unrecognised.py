"""What to say of a folder in which no dataset is recognised: one sentence that leads to a command that works."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Sequence

from detr_mini.errors import some_of
from detr_mini.formats.listing import Listing, read_start

SIGNS = (
    (".json", (rb'"shapes"', rb'"imagePath"'), "labelme"),
    (".json", (rb'"coordinates"', rb'"label"'), "CreateML"),
    (".txt", (rb"(?m)^[A-Za-z_]+(?: -?\d+(?:\.\d+)?){14,15}\s*$",), "KITTI"),
    (".tfrecord", (), "TensorFlow records"),
    (".tfrecords", (), "TensorFlow records"),
    (".parquet", (), "Parquet"),
    (".mat", (), "MATLAB"),
)
"""Forms that are known and not read, by ending and regular expressions of what stands in the file."""


PEEKED = 10
"""Files of one ending that are opened, at least, where there are as many; evenly spread over the folders."""


def why_unknown(found: Listing, format: str | None, read: Sequence[str]) -> str:
    """Why nothing was recognised in a folder, and what to do. `read`: the titles of the formats that are read."""
    root = found.root
    if not found.files:
        return f"{root} looks like no dataset: it has no files; set data.root to the folder with images and annotations"
    wanted = f" in the form {format}" if format else ""
    for ending, words, name in SIGNS:
        files = found.ending(ending)
        for file in files[:: max(1, len(files) // PEEKED)]:
            start = read_start(root / file, 1 << 16) if words else b""
            if all(re.search(word, start) for word in words):
                return (
                    f"{root} looks like no dataset{wanted}: {file} has the format {name}, which is not "
                    "supported. Export it as COCO or Pascal VOC to a new folder and run 'detr-mini data check "
                    "data.root=NEW_FOLDER'"
                )
    if not found.images:
        return (
            f"{root} looks like no dataset{wanted}: it has no images (file endings: {_endings(found)}); put the images "
            "below it, or set data.root to the folder that has images and annotations"
        )
    hint = f"leave data.format={format} out, or " if format else ""
    return (
        f"{root} looks like no dataset{wanted}: {len(found.images):,} images and no annotations that are recognised "
        f"(file endings: {_endings(found)}; read are {', '.join(read)}); {hint}export the annotations as COCO or "
        f"Pascal VOC, put them below {root} and run 'detr-mini data check data.root={root}'"
    )


def _endings(found: Listing) -> str:
    counts = Counter(posixpath.splitext(file)[1].lower() or "none" for file in found.files)
    return some_of([f"{ending} {count:,}" for ending, count in counts.most_common()], 6)
