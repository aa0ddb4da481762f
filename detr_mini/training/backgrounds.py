"""Images without any object, from a folder of their own, in the training set: a detector learns what is background."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.data.protocol import Data
from detr_mini.errors import ConfigError
from detr_mini.formats.licences import sources_of
from detr_mini.images.header import image_size
from detr_mini.training.pseudo import new_pictures


def add_backgrounds(data: Data, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """With `backgrounds`, join the images of that folder to the training set of `data`; their sources (`sources_of`).

    Images that are in train, val or test already stay out. With `data.tiles` they are cut into windows, of which as
    many stay as train has windows with objects. DataError where none is left, and for a file that is no image.
    """
    if settings.get("backgrounds") is None:
        return []
    if data.tokenizer is not None:
        raise ConfigError("backgrounds=FOLDER works with boxes, not with captions; leave it out")
    folder = str(settings["backgrounds"])
    paths = new_pictures(data, folder, "backgrounds")
    full = int((data.train_set.objects > 0).sum())
    records = data.records_of(paths, [image_size(path)[0] for path in paths], most=None if data.tiles is None else full)
    data.sets["train"] = data.train_set.with_images(records)
    what = f"{len(records)} tiles of {len(paths)} images" if data.tiles is not None else f"{len(paths)} images"
    data.report.notices.append(f"backgrounds: {what} of {folder} are trained on, as images without objects")
    return sources_of(Path(folder).expanduser(), len(paths))
