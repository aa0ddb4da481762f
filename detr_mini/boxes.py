"""Box formats and overlaps.

`xyxy` is (left, top, right, bottom), `cxcywh` is (centre x, centre y, width, height), `xywh` is COCO's
(left, top, width, height). A function's unit is that of its input: pixels or fractions of the image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """(cx, cy, w, h) to (x1, y1, x2, y2)."""
    centre, size = boxes_cxcywh.chunk(2, -1)
    half = size / 2
    return torch.cat([centre - half, centre + half], -1)


def xyxy_to_cxcywh(boxes_xyxy: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """(x1, y1, x2, y2) to (cx, cy, w, h)."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def xywh_to_xyxy(boxes_xywh: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """COCO's (x1, y1, w, h) to (x1, y1, x2, y2)."""
    return torch.cat([boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]], -1)


def xyxy_to_xywh(boxes_xyxy: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """(x1, y1, x2, y2) to COCO's (x1, y1, w, h)."""
    return torch.cat([boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]], -1)


def area(boxes_xyxy: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Width times height; a box turned inside out has area 0."""
    left, top, right, bottom = boxes_xyxy.unbind(-1)
    return _area(right - left, bottom - top)


def _area(width: Tensor, height: Tensor) -> Tensor:
    return width.relu() * height.relu()


def iou_and_giou(
    a_xyxy: Float[Tensor, "*#n 4"], b_xyxy: Float[Tensor, "*#n 4"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """IoU in [0, 1] and generalised IoU in [-1, 1] (Rezatofighi et al. 2019) of boxes paired by broadcasting.

    Two boxes without area have IoU 0. All pairs of two sets: `iou_and_giou(a[:, None], b[None])`.
    """
    intersection, union, (width, height) = _overlap(a_xyxy, b_xyxy)
    hull = _area(width, height)
    tiny = torch.finfo(union.dtype).tiny
    iou = intersection / union.clamp(min=tiny)
    return iou, iou - (hull - union) / hull.clamp(min=tiny)


def _overlap(
    a_xyxy: Float[Tensor, "*#n 4"], b_xyxy: Float[Tensor, "*#n 4"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"], tuple[Tensor, Tensor]]:
    """The areas of intersection and union, and the sides of the hull.

    A side of the hull is that of both boxes less what they share (below 0 if they do not meet). One coordinate at a
    time: torch and the runtimes of exported files are slow along an axis of two numbers.
    """
    (ax, ay, ax2, ay2), (bx, by, bx2, by2) = a_xyxy.unbind(-1), b_xyxy.unbind(-1)
    (aw, ah), (bw, bh) = (ax2 - ax, ay2 - ay), (bx2 - bx, by2 - by)
    w, h = torch.minimum(ax2, bx2) - torch.maximum(ax, bx), torch.minimum(ay2, by2) - torch.maximum(ay, by)
    intersection = _area(w, h)
    return intersection, _area(aw, ah) + _area(bw, bh) - intersection, (aw + bw - w, ah + bh - h)


def box_iou(a_xyxy: Float[Tensor, "*batch n 4"], b_xyxy: Float[Tensor, "*batch m 4"]) -> Float[Tensor, "*batch n m"]:
    """IoU of every box of `a` with every box of `b`."""
    intersection, union, _ = _overlap(a_xyxy[..., :, None, :], b_xyxy[..., None, :, :])
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def generalized_box_iou(
    a_xyxy: Float[Tensor, "*batch n 4"], b_xyxy: Float[Tensor, "*batch m 4"]
) -> Float[Tensor, "*batch n m"]:
    """GIoU of every box of `a` with every box of `b` (Rezatofighi et al. 2019)."""
    return iou_and_giou(a_xyxy[..., :, None, :], b_xyxy[..., None, :, :])[1]


def scale_boxes(
    boxes: Float[Tensor, "*n 4"], width: float | int | Tensor, height: float | int | Tensor
) -> Float[Tensor, "*n 4"]:
    """Multiply the x entries by `width` and the y entries by `height` (any of the formats above)."""
    return boxes * torch.stack(
        [torch.as_tensor(v, dtype=boxes.dtype, device=boxes.device) for v in (width, height, width, height)], -1
    )
