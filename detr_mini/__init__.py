"""detr_mini: a DETR-style object detector that learns in minutes, with attention you can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detr_mini.environment import drawable, patient_threads

drawable()
patient_threads()
__version__ = "0.1.0"

if TYPE_CHECKING:
    from detr_mini.calls import evaluate, export, train
    from detr_mini.categories import Categories
    from detr_mini.deploy.load import load
    from detr_mini.inference.detections import Detections
    from detr_mini.inference.detector import Detector

__all__ = ["Categories", "Detections", "Detector", "__version__", "evaluate", "export", "load", "train"]

_HOME = {
    "train": "detr_mini.calls",
    "evaluate": "detr_mini.calls",
    "export": "detr_mini.calls",
    "load": "detr_mini.deploy.load",
    "Detector": "detr_mini.inference.detector",
    "Detections": "detr_mini.inference.detections",
    "Categories": "detr_mini.categories",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that `detr-mini --help` does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'detr_mini' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
