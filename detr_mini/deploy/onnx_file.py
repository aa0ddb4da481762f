"""A detector as one ONNX file: the network that torch traces, between the parts that `graphs` writes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detr_mini.deploy import graphs
from detr_mini.deploy.caption_network import ANSWERS, ASKED, OBJECTS, CaptionNetwork, ObjectNetwork
from detr_mini.deploy.description import KEY, Description
from detr_mini.deploy.network import Network
from detr_mini.deploy.packages import package
from detr_mini.deploy.quiet import quiet
from detr_mini.errors import UserError, first_line
from detr_mini.models.grounded import GroundedDETR
from detr_mini.models.protocol import DetectionModel

HALVED = 256
"""Numbers from which a tensor of weights is stored in half precision."""
TRACED = (2, 3, 77, 102)
"""The shape of the images that torch sees. Sides are unlike and odd, so that no two sizes are taken for one."""
CAPTIONS_TRACED = (2, 7, 3, 11)
"""Pictures, objects, captions and tokens that torch sees."""
DYNAMIC = torch.export.Dim.DYNAMIC
_BEST = ("fractions", "best", "kinds")
"""What the network hands to `graphs.finish`."""


def write_onnx(model: DetectionModel, description: Description, path: Path, traced: Any = None) -> None:
    """Write `model` to the file `path`, with its metadata. UserError where it cannot be exported.

    `traced`: what `trace` gave for this model, limit and size of images, where several files are written.
    """
    network = trace(model, description) if traced is None else copy.deepcopy(traced)
    whole = _joined(network, description)
    _write(whole, description, description.properties(), path)


def write_caption_onnx(model: GroundedDETR, description: Description, path: Path) -> None:
    """Write the second file of a detector with captions. UserError where it cannot be exported."""
    assert description.captions is not None
    whole = trace_captions(model)
    _clean(whole)
    whole.ir_version, whole.graph.name = graphs.IR_VERSION, "captions"
    _write(whole, description, description.captions.properties(description.version), path)


def _write(whole: Any, description: Description, properties: Mapping[str, str], path: Path) -> None:
    onnx = package("onnx")
    if description.precision == "fp16":
        _halve_weights(whole)
    whole.producer_name, whole.producer_version = KEY, description.version
    onnx.helper.set_model_props(whole, properties)
    onnx.checker.check_model(whole)
    path.write_bytes(whole.SerializeToString())


def trace(model: DetectionModel, description: Description) -> Any:
    """The network of `model` as an ONNX model, which takes most of an export's time. UserError where it cannot be."""
    if isinstance(model, GroundedDETR):
        return _traced(ObjectNetwork(model, description.limit))
    exact = description.image.get("exact")
    return _traced(Network(model, description.limit, description.image), None if exact is None else tuple(exact))


def _traced(network: Network | ObjectNetwork, exact: tuple[int, ...] | None = None) -> Any:
    """The network as an ONNX model for any number of images, of any size or of the (height, width) `exact`."""
    shape, axes = (TRACED, (0, 2, 3)) if exact is None else ((*TRACED[:2], *exact), (0,))
    outputs = (*_BEST, *OBJECTS) if isinstance(network, ObjectNetwork) else _BEST
    return _as_onnx(network, (torch.rand(shape),), (dict.fromkeys(axes, DYNAMIC),), ("images",), outputs)


def trace_captions(model: GroundedDETR) -> Any:
    """The part of `model` that answers captions as an ONNX model. UserError where it cannot be."""
    pictures, objects, captions, tokens = CAPTIONS_TRACED
    ids, mask = torch.ones(captions, tokens, dtype=torch.long), torch.ones(captions, tokens, dtype=torch.long)
    of = torch.arange(captions) % pictures
    given = torch.rand(pictures, objects, model.dim), torch.rand(pictures, objects, 4) / 2, ids, mask, of
    both = {0: DYNAMIC, 1: DYNAMIC}
    return _as_onnx(CaptionNetwork(model), given, (both, both, both, both, {0: DYNAMIC}), ASKED, ANSWERS)


def _as_onnx(
    network: nn.Module, given: tuple[Tensor, ...], shapes: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """`network` as an ONNX model. `shapes`: the axes of its inputs that have any size."""
    package("onnxscript")  # torch's exporter needs it
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(network, given, dynamic_shapes=shapes, strict=False)
            settings: dict[str, Any] = {"opset_version": graphs.OPSET, "dynamo": True, "verbose": False}
            traced = torch.onnx.export(program, input_names=inputs, output_names=outputs, **settings)
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
        sides = whole.graph.input[0].type.tensor_type.shape.dim
        for dimension, name in zip(sides, ("batch", "channels", "height", "width"), strict=True):
            if dimension.dim_param:  # not where all images have one size
                dimension.dim_param = name
    finish = graphs.finish(len(description.categories), description.limit, description.point.suppress_iou)
    whole = onnx.compose.merge_models(whole, part(onnx.parser.parse_model(finish), "finish"), links)
    _keep_used(whole.graph)
    whole.graph.name = "detector"
    del whole.opset_import[1:]  # each part brought its own
    return whole


def _clean(model: Any) -> None:
    """Remove what torch notes about its source code, sizes in formulas, and weights that only training uses."""
    graph = model.graph
    _keep_used(graph)
    for entries in (graph.value_info, graph.metadata_props, model.metadata_props):
        del entries[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    graph.doc_string = model.doc_string = ""


def _keep_used(graph: Any) -> None:
    """Remove tensors that no node takes; ONNX Runtime warns of each."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


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
