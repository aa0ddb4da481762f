"""The network of an ONNX file in 8 bits: ONNX Runtime's static quantisation, calibrated on pictures.

Weights get one scale for each channel, activations one for each tensor (symmetric, and asymmetric without a sign:
with a sign both runtimes take half as long again, and OpenVINO computes in float32). Only convolutions and products
with weights are quantised; resizing, selection and suppression stay as they are. OpenVINO reads the result as it reads
any other ONNX file, so both formats hold the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from detr_mini.deploy.packages import package

KINDS = ("Conv", "MatMul")
FLOAT_FIRST = (4, 10, 20)
"""The first convolutions that stay in floating point: as few as the comparison with the checkpoint allows.

They see the most pixels and have the fewest channels, whose values differ most: one scale does not fit them. On 307
photographs of 28 datasets (AP 0.276 in float32), quantising all of them gave AP 0.247, all but four 0.275, and all but
the depthwise ones 0.250.
"""


def quantise(source: Path, target: Path, inputs: Iterable[Mapping[str, np.ndarray]], float_first: int) -> None:
    """Write the ONNX file `source` to `target` with its network in 8 bits.

    `inputs`: of the file, one mapping for each picture; the ranges of activations are those that they cause.
    `float_first`: the number of convolutions that stay in floating point.
    """
    onnx, quantisation = package("onnx"), package("onnxruntime.quantization")
    model = onnx.load(str(source))
    named = target.with_name("named.onnx")
    chosen = _name_nodes(model, float_first)
    onnx.save(model, str(named))

    class Calibration(quantisation.CalibrationDataReader):  # type: ignore[name-defined]  # an optional package
        def __init__(self) -> None:
            self.left = iter(inputs)  # one at a time: a picture of twelve megapixels takes 36 MB

        def get_next(self) -> dict[str, np.ndarray] | None:
            given = next(self.left, None)
            return None if given is None else dict(given)

    try:
        with _quiet():
            quantisation.quantize_static(
                str(named), str(target), Calibration(), op_types_to_quantize=list(KINDS), nodes_to_quantize=chosen,
                per_channel=True, quant_format=quantisation.QuantFormat.QDQ,
                activation_type=quantisation.QuantType.QUInt8, weight_type=quantisation.QuantType.QInt8,
                calibrate_method=quantisation.CalibrationMethod.MinMax,
            )  # fmt: skip
    finally:
        named.unlink(missing_ok=True)


def _name_nodes(model: Any, float_first: int) -> list[str]:
    """Give every node a name; the names of those to quantise. The network's tensors bear its prefix."""
    chosen, convolutions = [], 0
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
        if node.op_type in KINDS and node.output[0].startswith("network/"):
            convolutions += node.op_type == "Conv"
            if node.op_type != "Conv" or convolutions > float_first:
                chosen.append(node.name)
    return chosen


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to prepare the file by other tools, which `onnx_file` has done already."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
