"""A detector as an OpenVINO model: model.xml and model.bin in a folder, made from the ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from detr_mini.deploy.description import KEY, Description
from detr_mini.deploy.packages import package

MODEL = "model.xml"
_ENTRY = [KEY, "properties"]
"""Where the metadata stand in the model's runtime information."""


def openvino() -> Any:
    """The package. Its ONNX reader is used, not its converter: the converter reports its use over the network."""
    return package("openvino")


def core() -> Any:
    """OpenVINO's one `Core` of this process, which is never let go; a forked child has one of its own.

    Each Core gives the thread a stack for its signal handlers, and on its end puts back the one that it found. Of two
    that end in the order in which they began, the second puts back memory that is gone, and the next signal (a worker
    or a subprocess that ends) kills the process.
    """
    return _core_of(os.getpid())


@cache
def _core_of(process: int) -> Any:
    return openvino().Core()


def write_openvino(onnx_file: Path, description: Description, folder: Path) -> None:
    """Convert `onnx_file` into model.xml and model.bin in `folder`, which exists."""
    write_ir(onnx_file, description.properties(), folder / MODEL, description.precision)


def write_ir(onnx_file: Path, properties: Mapping[str, str], file: Path, precision: str) -> None:
    """Convert `onnx_file` into `file` (.xml) and the .bin beside it, with their metadata."""
    model = core().read_model(os.fspath(onnx_file))
    for key, value in properties.items():
        model.set_rt_info(value, [*_ENTRY, key])
    openvino().save_model(model, os.fspath(file), compress_to_fp16=precision == "fp16")


def properties(model: Any) -> dict[str, str]:
    """The metadata of a model that OpenVINO has read; empty where it is not ours."""
    if not model.has_rt_info(_ENTRY):
        return {}
    return {key: str(value.astype(str)) for key, value in model.get_rt_info(_ENTRY).astype(dict).items()}
