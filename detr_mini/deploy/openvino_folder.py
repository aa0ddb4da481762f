"""A detector as an OpenVINO model: model.xml and model.bin in a folder, made from the ONNX file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detr_mini.deploy.description import KEY, Description
from detr_mini.deploy.graphs import RESIZE
from detr_mini.deploy.packages import package

MODEL = "model.xml"
_ENTRY = [KEY, "properties"]
"""Where the metadata stand in the model's runtime information."""


def openvino() -> Any:
    """The package. Its ONNX reader is used, not its converter: the converter reports its use over the network."""
    return package("openvino")


def write_openvino(onnx_file: Path, description: Description, folder: Path) -> None:
    """Convert `onnx_file` into model.xml and model.bin in `folder`, which exists."""
    ov = openvino()
    model = ov.Core().read_model(os.fspath(onnx_file))
    if description.input == "pixels":
        _filter_as_pillow(model)
    for key, value in description.properties().items():
        model.set_rt_info(value, [*_ENTRY, key])
    ov.save_model(model, os.fspath(folder / MODEL), compress_to_fp16=description.precision == "fp16")


def properties(model: Any) -> dict[str, str]:
    """The metadata of a model that OpenVINO has read; empty where it is not ours."""
    if not model.has_rt_info(_ENTRY):
        return {}
    return {key: str(value.astype(str)) for key, value in model.get_rt_info(_ENTRY).astype(dict).items()}


def _filter_as_pillow(model: Any) -> None:
    """Resize with Pillow's filter, as `predict` does. OpenVINO reads ONNX's Resize without its antialiasing filter."""
    from openvino import opset11

    (resize,) = (node for node in model.get_ordered_ops() if node.get_friendly_name().endswith(f"/{RESIZE}"))
    pixels, shape = (resize.input_value(index) for index in (0, 1))
    target = opset11.gather(shape, opset11.constant([1, 2]), opset11.constant(0))
    resized = opset11.interpolate(
        pixels, target, mode="bilinear_pillow", shape_calculation_mode="sizes", axes=opset11.constant([1, 2])
    )
    for reader in resize.output(0).get_target_inputs():
        reader.replace_source_output(resized.output(0))
