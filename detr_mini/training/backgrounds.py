"""Images without any object, from a folder of their own, in the training set: a detector learns what is background."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.data.protocol import Data
from detr_mini.errors import ConfigError
from detr_mini.formats.licences import sources_of
from detr_mini.images.header import image_size
from detr_mini.training.pseudo import new_pictures, refuse_larger_than_tiles


def add_backgrounds(data: Data, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """With `backgrounds`, join the images of that folder to the training set of `data`; their sources (`sources_of`).

    Images that are in train, val or test already stay out. DataError where none is left, and for a file that is no
    image; ConfigError for images larger than `data.tiles`.
    """
    if settings.get("backgrounds") is None:
        return []
    if data.tokenizer is not None:
        raise ConfigError("backgrounds=FOLDER works with boxes, not with captions; leave it out")
    folder = str(settings["backgrounds"])
    paths = new_pictures(data, folder, "backgrounds")
    refuse_larger_than_tiles(data, paths, folder, "backgrounds")
    sizes = [image_size(path)[0] for path in paths]
    data.sets["train"] = data.train_set.with_images([str(path.resolve()) for path in paths], sizes)
    data.report.notices.append(
        f"backgrounds: {len(paths)} images of {folder} are trained on, as images without objects"
    )
    return sources_of(Path(folder).expanduser(), len(paths))
