"""A detector as one program of `torch.export` (.pt2): pictures to detections, for torch without this package.

The target size is computed with tensors and then taken out of them, so that the program holds for pictures of any size
and the sizes of feature maps stay short formulas. Suppression is torchvision's, whose operators a reader has to import.
"""

from __future__ import annotations

import io
import json
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Float, Int, Real, UInt8
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from detr_mini.deploy.description import Description
from detr_mini.deploy.graphs import SUPPRESSED
from detr_mini.deploy.network import Network
from detr_mini.deploy.plain_program import PROPERTIES, read_properties
from detr_mini.deploy.quiet import quiet
from detr_mini.errors import UserError, first_line
from detr_mini.models.protocol import DetectionModel

TRACED = (3, 77, 102)
"""Number, height and width of the pictures that torch sees: unlike each other, so that none is taken for another."""
ANY = 2


class Program(nn.Module):
    """From `pixels`, pictures of one size as they are, to boxes in pixels, scores (best first) and labels."""

    shift: Tensor
    scale: Tensor

    def __init__(self, model: DetectionModel, description: Description) -> None:
        """UserError for a model that cannot be exported. `model` itself is not changed."""
        super().__init__()
        self.image = dict(description.image)
        self.network = Network(model, description.limit, self.image)
        self.suppress_iou, self.classes = description.point.suppress_iou, len(description.categories)
        self.register_buffer("shift", 255 * torch.tensor(self.image["mean"])[:, None, None], persistent=True)
        self.register_buffer("scale", 255 * torch.tensor(self.image["std"])[:, None, None], persistent=True)

    def forward(
        self, pixels: UInt8[Tensor, "b h w 3"]
    ) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n"], Int[Tensor, "b n"]]:
        """A score of -1 marks a row that stands for nothing."""
        size = torch.stack([torch.full((), side, dtype=torch.int64) for side in pixels.shape[1:3]])
        images = self.resized(pixels.permute(0, 3, 1, 2), size).contiguous().float()
        fractions, scores, labels = self.network((images - self.shift) / self.scale)
        boxes = fractions * size.flip(0).repeat(2).float()
        if self.suppress_iou is not None:
            scores = suppressed(boxes, scores, labels, self.classes, self.suppress_iou)
        return boxes, scores, labels

    def resized(self, pixels: UInt8[Tensor, "b 3 h w"], size: Int[Tensor, "2"]) -> Real[Tensor, "b 3 h2 w2"]:
        """`images.model_input.resized`; `size`: the (height, width) of `pixels` as a tensor."""
        if self.image.get("exact") is not None:
            height, width = self.image["exact"]
        else:
            target = target_size(size, self.image["size"], self.image["shorter_side"])
            multiple = self.image.get("multiple", 1)
            if multiple > 1:
                target = (target - target % multiple).clamp(min=multiple)
            height, width = (side.item() for side in target)
            for side in (height, width):
                torch._check(side >= 1)
        if not self.image.get("antialias", True):
            return functional.interpolate(pixels.float(), (height, width), mode="bilinear")
        return torch.ops.aten._upsample_bilinear2d_aa(pixels, [height, width], False)


def target_size(size: Int[Tensor, "2"], longest: int, shorter_side: int | None) -> Int[Tensor, "2"]:
    """`images.model_input.target_size` of a (height, width), in tensors."""
    long, short = size.max(), size.min()
    doubled = 2 * short * longest + long
    nearest = doubled // (2 * long)  # round(short * longest / long): halves go to the even number, as in Python
    down = (doubled % (2 * long) == 0) & (nearest % 2 == 1)
    rounded = (nearest - down.long()).clamp(min=1)
    if shorter_side is None:
        return torch.where(size == long, torch.full_like(size, longest), rounded)
    shorter = torch.where(long * shorter_side > short * longest, rounded, torch.full_like(rounded, shorter_side))
    turned = torch.where(size == short, shorter, shorter * long // short)
    return torch.where(short == shorter, size, turned)


def suppressed(
    boxes: Float[Tensor, "b n 4"], scores: Float[Tensor, "b n"], labels: Int[Tensor, "b n"], classes: int, iou: float
) -> Float[Tensor, "b n"]:
    """`scores`, SUPPRESSED where a better detection of the same image and label overlaps by more than `iou`.

    Each image and label has a place of its own in one plane. In float64, that place costs no precision.
    """
    group = torch.arange(boxes.shape[0])[:, None] * classes + labels
    apart = boxes.double() + (group * (boxes.double().max() + 1))[..., None]
    kept = torch.ops.torchvision.nms(apart.flatten(0, 1), scores.double().flatten(), iou)
    mark = torch.zeros_like(scores).flatten().index_fill(0, kept, 1.0).view_as(scores)
    return torch.where(mark > 0, scores, SUPPRESSED)


def _without_formulas(value: FakeTensor) -> Tensor:
    """What describes a value inside the program, with `ANY` for sides that depend on the pictures: nothing computes
    with them, and a reader takes half a minute to parse their formulas."""
    with value.fake_mode:
        return torch.empty([side if isinstance(side, int) else ANY for side in value.shape], dtype=value.dtype)


def write_torch(model: DetectionModel, description: Description, path: Path) -> None:
    """Write `model` to the file `path`, with its metadata. UserError where it cannot be exported."""
    program, dynamic = Program(model, description).eval(), torch.export.Dim.DYNAMIC
    count, height, width = TRACED
    pixels = (torch.arange(count * height * width * 3) % 251).to(torch.uint8).view(count, height, width, 3)
    try:
        with torch.no_grad(), quiet():
            shapes = ({0: dynamic, 1: dynamic, 2: dynamic},)
            traced = torch.export.export(program, (pixels,), dynamic_shapes=shapes, strict=False)
            traced.example_inputs = None
            graphs = [part.graph for part in traced.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
            for node in chain(*(graph.nodes for graph in graphs)):  # notes on the source code name this machine's paths
                for key in ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom"):
                    node.meta.pop(key, None)
                if node.op == "call_function":
                    node.meta["val"] = tree_map_only(FakeTensor, _without_formulas, node.meta["val"])
                if node.target is torch.ops.aten.empty.memory_format:  # readers run nothing that shows old memory
                    node.target = torch.ops.aten.zeros.default
                    node.kwargs = {key: value for key, value in node.kwargs.items() if key != "memory_format"}
            content = io.BytesIO()
            extra = {PROPERTIES: json.dumps(description.properties(), ensure_ascii=False)}
            torch.export.save(traced, content, extra_files=extra)
            read_properties(content.getvalue())  # a program that would not be read is not written
    except Exception as error:  # torch's exporter raises nearly anything
        raise UserError(
            f"torch cannot export this model ({first_line(error)[:200]}); use format=safetensors, which takes "
            "every model"
        ) from error
    path.write_bytes(content.getvalue())
