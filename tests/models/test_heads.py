"""From logits to detections: the best pairs or the best classes, in pixels, in one transfer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.models.heads import sigmoid_detections, softmax_detections, suppress
from detr_mini.structures import Categories, Detections, DetectorOutput

CATEGORIES = Categories((2, 5, 11), ("a", "b", "c"))


def output(seed: int, batch: int = 2, queries: int = 7, classes: int = 3, hidden: bool = False) -> DetectorOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, queries, classes, generator=generator) * 3
    boxes = torch.rand(batch, queries, 4, generator=generator)
    visible = torch.rand(batch, queries, generator=generator) > 0.5 if hidden else None
    return DetectorOutput(logits, boxes, query_visible=visible)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.sampled_from([1, 5, 100]), st.booleans())
def test_sigmoid_takes_the_best_of_all_pairs(seed: int, limit: int, hidden: bool) -> None:
    out = output(seed, hidden=hidden)
    for row, found in enumerate(sigmoid_detections(out, [(50, 90), (31, 17)], CATEGORIES, limit)):
        keep = torch.ones(7, dtype=torch.bool) if out.query_visible is None else out.query_visible[row]
        pairs = [(out.logits[row, q, k].sigmoid().item(), k, q) for q in range(7) for k in range(3) if keep[q]]
        best = sorted(pairs, reverse=True)[:limit]
        assert found.scores.tolist() == pytest.approx([p[0] for p in best])
        assert found.labels.tolist() == [p[1] for p in best]
        height, width = found.image_size
        for box, (_, _, q) in zip(found.boxes, best, strict=True):
            plain = cxcywh_to_xyxy(out.boxes[row, q]) * torch.tensor([width, height, width, height])
            limits = torch.tensor([width, height, width, height])
            assert torch.allclose(box, torch.minimum(plain.clamp(min=0), limits), atol=1e-4)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.sampled_from([1, 5, 100]), st.booleans())
def test_softmax_takes_the_best_class_of_each_query_and_never_no_object(seed: int, limit: int, hidden: bool) -> None:
    out = output(seed, classes=4, hidden=hidden)
    for row, found in enumerate(softmax_detections(out, [(50, 90), (31, 17)], CATEGORIES, limit)):
        keep = torch.ones(7, dtype=torch.bool) if out.query_visible is None else out.query_visible[row]
        scores, labels = out.logits[row].softmax(-1)[:, :3].max(-1)
        best = sorted(((scores[q].item(), labels[q].item()) for q in range(7) if keep[q]), reverse=True)[:limit]
        assert found.scores.tolist() == pytest.approx([p[0] for p in best])
        assert found.labels.tolist() == [p[1] for p in best]


@pytest.mark.parametrize("detections", [sigmoid_detections, softmax_detections])
def test_low_precision_and_gradients_do_not_come_along(detections: object) -> None:
    out = output(0, classes=4)
    low = DetectorOutput(out.logits.bfloat16().requires_grad_(), out.boxes.bfloat16())
    four = Categories((1, 2, 3, 4), ("a", "b", "c", "d"))
    for found in detections(low, [(8, 8), (8, 8)], four):  # type: ignore[operator]
        assert found.scores.dtype == found.boxes.dtype == torch.float32
        assert found.labels.dtype == torch.long
        assert not found.scores.requires_grad


def test_an_image_whose_queries_all_stand_for_nothing_has_no_detections() -> None:
    out = output(0)
    hidden = DetectorOutput(out.logits, out.boxes, query_visible=torch.zeros(2, 7, dtype=torch.bool))
    assert [len(found) for found in sigmoid_detections(hidden, [(8, 8), (8, 8)], CATEGORIES)] == [0, 0]


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 79))
@example(0, 79)
def test_which_doubles_go_does_not_depend_on_the_number_of_their_category(seed: int, label: int) -> None:
    """Boxes of a few pixels in a corner of a picture of 40,000: there, a rounded pixel decides what overlaps."""
    generator = torch.Generator().manual_seed(seed)
    corner = 39_980 + 10 * torch.rand(30, 2, generator=generator)
    boxes = torch.cat([corner, corner + 1 + 3 * torch.rand(30, 2, generator=generator)], 1)
    many = Categories(tuple(range(80)), tuple(map(str, range(80))))

    def kept(number: int) -> list[float]:
        found = Detections(boxes, torch.linspace(0.9, 0.1, 30), torch.full((30,), number), many)
        return suppress(found, 0.5).scores.tolist()

    assert kept(label) == kept(0)


def test_two_boxes_of_nearly_one_place_are_doubles_in_the_last_category_of_a_large_picture() -> None:
    boxes = torch.tensor([[100.12, 100, 101.12, 101], [100.13, 100, 101.13, 101], [39_990, 39_990, 40_000, 40_000]])
    many = Categories(tuple(range(80)), tuple(map(str, range(80))))
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([79, 79, 0]), many)
    assert suppress(found, 0.7).labels.tolist() == [79, 0]
