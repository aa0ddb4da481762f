"""Pictures that 8-bit ranges are measured on: some of those that the detector has learned from."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from detr_mini.data.stored_settings import data_settings
from detr_mini.errors import ConfigError, UserError
from detr_mini.formats.discover import Source
from detr_mini.images.load import load_image
from detr_mini.inference.requests import ignored, readable
from detr_mini.seeding import drawing_order

COUNT = 100


def calibration_pictures(data: Mapping[str, Any] | None) -> list[Path]:
    """At most COUNT images of the training split that `data` (a checkpoint's data config) names, always the same.

    Images that cannot be read are left out, as training may have done. ConfigError where none is there any more.
    """
    if data is None:
        raise ConfigError("int8 is calibrated on pictures, and the checkpoint names no data; add pictures=FOLDER with "
                          f"some {COUNT} pictures like those that the detector is for")  # fmt: skip
    try:
        tree = Source.of(data_settings(None, data)).trees()["train"]
    except (UserError, KeyError) as error:
        raise ConfigError(f"int8 is calibrated on the training pictures, which are not at {data.get('root')} any more; "
                          f"add pictures=FOLDER with some {COUNT} pictures like them") from error  # fmt: skip
    names = sorted((image["file_name"] for image in tree.content["images"]), key=lambda n: drawing_order(0, n))
    found = [path for path, _ in islice(readable((tree.folder / n for n in names), load_image, ignored), COUNT)]
    if not found:
        raise ConfigError(f"int8 is calibrated on the training pictures, and none of the {len(names)} in {tree.folder} "
                          f"can be read; add pictures=FOLDER with some {COUNT} pictures like them")  # fmt: skip
    return found
