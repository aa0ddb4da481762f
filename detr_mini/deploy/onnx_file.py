"""A detector as one ONNX file: the network that torch traces, between the parts that `graphs` writes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detr_mini.deploy import graphs
from detr_mini.deploy.description import KEY, Description
from detr_mini.deploy.network import Network
from detr_mini.deploy.packages import package
from detr_mini.deploy.quiet import quiet
from detr_mini.errors import UserError, first_line
from detr_mini.models.protocol import DetectionModel

HALVED = 256
"""Numbers from which a tensor of weights is stored in half precision."""
TRACED = (2, 3, 77, 102)
"""The shape of the images that torch sees. Sides are unlike and odd, so that no two sizes are taken for one."""
_BEST = ("fractions", "best", "kinds")
"""What the network hands to `graphs.finish`."""


def write_onnx(model: DetectionModel, description: Description, path: Path, traced: Any = None) -> None:
    """Write `model` to the file `path`, with its metadata. UserError where it cannot be exported.

    `traced`: what `trace` gave for this model and limit, where several files are written.
    """
    onnx = package("onnx")
    whole = _joined(trace(model, description.limit) if traced is None else copy.deepcopy(traced), description)
    if description.precision == "fp16":
        _halve_weights(whole)
    whole.producer_name, whole.producer_version = KEY, description.version
    onnx.helper.set_model_props(whole, description.properties())
    onnx.checker.check_model(whole)
    path.write_bytes(whole.SerializeToString())


def trace(model: DetectionModel, limit: int) -> Any:
    """The network of `model` as an ONNX model, which takes most of an export's time. UserError where it cannot be."""
    return _traced(Network(model, limit))


def _traced(network: Network) -> Any:
    """The network as an ONNX model for any number and size of images."""
    package("onnxscript")  # torch's exporter needs it
    dynamic = torch.export.Dim.DYNAMIC
    try:
        with torch.no_grad(), quiet():
            shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
            program = torch.export.export(network, (torch.rand(TRACED),), dynamic_shapes=shapes, strict=False)
            settings: dict[str, Any] = {"opset_version": graphs.OPSET, "dynamo": True, "verbose": False}
            traced = torch.onnx.export(program, input_names=["images"], output_names=_BEST, **settings)
    except Exception as error:  # torch's exporter raises nearly anything
        raise UserError(
            f"torch cannot export this model to ONNX ({first_line(error)[:200]}); use format=safetensors, which takes "
            "every model"
        ) from error
    assert traced is not None
    return traced.model_proto


def _joined(network: Any, description: Description) -> Any:
    """One ONNX model from pictures (or prepared images) to detections."""
    onnx = package("onnx")

    def part(model: Any, prefix: str) -> Any:
        return onnx.compose.add_prefix(model, f"{prefix}/", rename_inputs=False, rename_outputs=False)

    _clean(network)
    network.ir_version = graphs.IR_VERSION
    whole, links = part(network, "network"), [(name, name) for name in _BEST]
    if description.input == "pixels":
        prepare = onnx.parser.parse_model(graphs.prepare(description.image))
        whole = onnx.compose.merge_models(part(prepare, "prepare"), whole, [("images", "images")])
        links.append(("sizes", "sizes"))
    else:
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            whole.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    finish = graphs.finish(len(description.categories), description.limit, description.point.suppress_iou)
    whole = onnx.compose.merge_models(whole, part(onnx.parser.parse_model(finish), "finish"), links)
    whole.graph.name = "detector"
    del whole.opset_import[1:]  # each part brought its own
    return whole


def _clean(model: Any) -> None:
    """Remove what torch notes about its source code, sizes in formulas, and weights that only training uses."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    for entries in (graph.value_info, graph.metadata_props, model.metadata_props, graph.initializer):
        del entries[:]
    graph.initializer.extend(kept)
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    graph.doc_string = model.doc_string = ""


def _halve_weights(model: Any) -> None:
    """Store large float32 weights as float16, each with a cast that a runtime computes once, when it loads the file.

    Values beyond float16's range become its largest. Computation stays in float32.
    """
    onnx = package("onnx")
    casts = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < HALVED:
            continue
        most = np.finfo(np.float16).max
        name, half = tensor.name, f"{tensor.name}/half"
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.clip(-most, most).astype(np.float16), half))
        casts.append(onnx.helper.make_node("Cast", [half], [name], f"{name}/cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
