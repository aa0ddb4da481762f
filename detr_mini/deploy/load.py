"""A detector from whatever holds one: a checkpoint, or a file of `detr-mini export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from detr_mini.deploy.detector import ExportedDetector, is_exported, open_exported
from detr_mini.errors import UserError
from detr_mini.inference import detector
from detr_mini.inference.detector import Detector


def load(
    path: str | Path, device: str | torch.device = "cpu", modules: Sequence[str] = ()
) -> Detector | ExportedDetector:
    """The detector in a checkpoint or run folder, in a file of `detr-mini export`, or in an OpenVINO folder.

    `device`: of a checkpoint; exported files run on the CPU. `modules`: your own, whose classes a checkpoint's config
    may name. CheckpointError where it cannot be read; UserError where a package that reads it is missing. Nothing is
    downloaded, but for a published detector of the hub, by its name.
    """
    if not is_exported(path):
        return detector.load(path, device, modules)
    if str(device).partition(":")[0] != "cpu":
        raise UserError(f"{path} is an exported file, which runs on the CPU; leave out device={device}")
    return open_exported(path)
