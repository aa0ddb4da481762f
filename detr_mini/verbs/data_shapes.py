"""`detr-mini data shapes`: scenes of shapes, drawn as PNG files with COCO annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detr_mini.errors import ConfigError
from detr_mini.scenes.shapes import ensure_scenes

NUMBERS = ("train", "val", "test", "seed", "size", "processes")


def data_shapes(config: Mapping[str, Any]) -> None:
    """Draw the scenes into `config.root`, unless they are there already."""
    try:
        numbers = {name: int(config[name]) for name in NUMBERS if name in config}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{', '.join(NUMBERS)} must be whole numbers: {error}") from None
    print(ensure_scenes(config["root"], **numbers))
