"""Box formats and overlaps, by their properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detr_mini import boxes

side = st.floats(0, 1000, width=32)


@st.composite
def xyxy(draw: st.DrawFn, least: int = 1) -> Tensor:
    """(n, 4) boxes whose right and bottom are not before their left and top."""
    rows = draw(st.lists(st.tuples(side, side, side, side), min_size=least, max_size=8))
    corners = torch.tensor(rows).reshape(-1, 2, 2)
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


@given(xyxy(least=0))
def test_formats_round_trip(start: Tensor) -> None:
    for there, back in (
        (boxes.xyxy_to_cxcywh, boxes.cxcywh_to_xyxy),
        (boxes.xyxy_to_xywh, boxes.xywh_to_xyxy),
    ):
        assert torch.allclose(back(there(start)), start, atol=1e-3)


def test_formats_mean_what_they_are_called() -> None:
    box = torch.tensor([10.0, 20.0, 30.0, 60.0])
    assert boxes.xyxy_to_cxcywh(box).tolist() == [20, 40, 20, 40]
    assert boxes.xyxy_to_xywh(box).tolist() == [10, 20, 20, 40]
    assert boxes.area(box).item() == 800


@given(xyxy(), xyxy())
def test_overlaps_lie_in_their_ranges(a: Tensor, b: Tensor) -> None:
    iou, giou = boxes.box_iou(a, b), boxes.generalized_box_iou(a, b)
    assert iou.shape == giou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1 + 1e-5)).all()
    assert ((giou >= -1 - 1e-5) & (giou <= iou + 1e-5)).all()


@given(xyxy(), xyxy())
def test_overlaps_are_symmetric(a: Tensor, b: Tensor) -> None:
    assert torch.allclose(boxes.box_iou(a, b), boxes.box_iou(b, a).T)
    assert torch.allclose(boxes.generalized_box_iou(a, b), boxes.generalized_box_iou(b, a).T, atol=1e-6)


@given(xyxy())
def test_a_box_overlaps_itself_wholly(a: Tensor) -> None:
    iou, giou = boxes.iou_and_giou(a, a)
    solid = boxes.area(a) > 1e-6
    assert torch.allclose(iou[solid], torch.ones(int(solid.sum())))
    assert torch.allclose(giou[solid], torch.ones(int(solid.sum())))
    assert (iou[boxes.area(a) == 0] == 0).all()


@given(xyxy(), st.floats(-100, 100, width=32), st.floats(0.5, 4, width=32))
def test_moving_and_scaling_both_boxes_changes_no_overlap(a: Tensor, shift: float, scale: float) -> None:
    a = a[((a[:, 2:] - a[:, :2]) > 1).all(1)]
    b = a.flip(0)
    before, after = boxes.iou_and_giou(a, b), boxes.iou_and_giou((a + shift) * scale, (b + shift) * scale)
    for old, new in zip(before, after, strict=True):
        assert torch.allclose(old, new, atol=2e-3)


@given(xyxy())
def test_pairs_and_tables_agree(a: Tensor) -> None:
    assert torch.equal(boxes.box_iou(a, a).diagonal(), boxes.iou_and_giou(a, a)[0])


def test_giou_of_far_boxes_nears_minus_one_and_of_half_covered_ones_is_known() -> None:
    unit = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    far = torch.tensor([[1000.0, 1000.0, 1001.0, 1001.0]])
    assert boxes.generalized_box_iou(unit, far).item() == pytest.approx(-1, abs=1e-4)
    # by hand: intersection 0.5, union 1.5, hull 1.5
    assert boxes.generalized_box_iou(unit, unit + torch.tensor([0.5, 0, 0.5, 0])).item() == pytest.approx(1 / 3)


def test_no_area_gives_no_nan_and_finite_gradients() -> None:
    flat = torch.tensor([[1.0, 1.0, 1.0, 5.0], [2.0, 2.0, 2.0, 2.0], [5.0, 5.0, 1.0, 1.0]], requires_grad=True)
    iou, giou = boxes.iou_and_giou(flat, flat.detach() + 1)
    assert torch.isfinite(iou).all()
    assert torch.isfinite(giou).all()
    giou.sum().backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


@given(xyxy(), st.floats(1, 2000, width=32), st.floats(1, 2000, width=32))
def test_scaling_boxes_goes_along_with_any_format(a: Tensor, width: float, height: float) -> None:
    scaled = boxes.scale_boxes(a, width, height)
    by_centre = boxes.cxcywh_to_xyxy(boxes.scale_boxes(boxes.xyxy_to_cxcywh(a), width, height))
    assert torch.allclose(scaled, by_centre, rtol=1e-4, atol=1)
