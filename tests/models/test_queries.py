"""Queries from the image: places that padding does not move, boxes that are refined, the best tokens."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from detr_mini.models.queries import PredictionHead, cell_centres, refine, select, suppressed, visible_size
from detr_mini.structures import Prediction

CELLS = st.integers(1, 6)


@given(CELLS, CELLS, st.integers(0, 2), st.integers(0, 2))
def test_cells_are_counted_from_the_image_without_its_padding(h: int, w: int, more_h: int, more_w: int) -> None:
    alone = cell_centres((h, w), 8, torch.tensor([[w * 8.0, h * 8.0]])).view(1, h, w, 2)
    padded = cell_centres((h + more_h, w + more_w), 8, torch.tensor([[w * 8.0, h * 8.0]]))
    padded = padded.view(1, h + more_h, w + more_w, 2)
    torch.testing.assert_close(padded[:, :h, :w], alone)
    assert padded.min() > 0
    assert padded.max() <= 1


def test_cells_run_row_by_row_and_centres_are_x_then_y() -> None:
    centres = cell_centres((1, 2), 8, torch.tensor([[16.0, 8.0], [32.0, 16.0]]))
    assert centres.tolist() == [[[0.25, 0.5], [0.75, 0.5]], [[0.125, 0.25], [0.375, 0.25]]]


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=3))
def test_the_visible_size_is_that_of_each_image_without_its_padding(sizes: list[tuple[int, int]]) -> None:
    mask = torch.ones(len(sizes), 12, 12, dtype=torch.bool)
    for row, (h, w) in enumerate(sizes):
        mask[row, :h, :w] = False
    images = torch.zeros(len(sizes), 3, 12, 12)
    assert visible_size(images, mask).tolist() == [[w, h] for h, w in sizes]
    assert visible_size(images[..., :7], None).tolist() == [[7, 12]] * len(sizes)


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_refining_by_nothing_keeps_the_box_and_its_inverse_undoes_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(4, 4, generator=generator) + 0.1
    assert torch.equal(refine(boxes, torch.zeros(4, 4)), boxes)
    delta = torch.randn(4, 4, generator=generator) * 0.3
    there = refine(boxes, delta)
    back = torch.cat([-delta[:, :2] / delta[:, 2:].exp(), -delta[:, 2:]], -1)
    torch.testing.assert_close(refine(there, back), boxes, rtol=1e-4, atol=1e-5)


def test_a_refined_box_moves_by_its_own_size_and_keeps_a_size_above_zero() -> None:
    box = torch.tensor([0.5, 0.4, 0.2, 0.1])
    torch.testing.assert_close(refine(box, torch.tensor([1.0, -0.5, 0.0, 0.0])), torch.tensor([0.7, 0.35, 0.2, 0.1]))
    wild = refine(box, torch.tensor([0.0, 0.0, -1e4, 1e4]))
    assert wild.isfinite().all()
    assert wild[2] > 0


def test_a_new_head_keeps_the_boxes_and_says_no_whatever_the_precision() -> None:
    torch.manual_seed(0)
    head = PredictionHead(16, 3)
    boxes = torch.rand(2, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        guess = head(torch.randn(2, 5, 16), boxes)
    assert guess.logits.dtype == guess.boxes.dtype == torch.float32
    assert torch.equal(guess.boxes, boxes)
    assert guess.logits.sigmoid().max() < 0.05


def proposals(logits: list[float], visible: list[bool] | None) -> tuple[Prediction, torch.Tensor]:
    n = len(logits)
    boxes = torch.arange(4.0 * n).view(1, n, 4).requires_grad_()
    scores = torch.tensor(logits).view(1, n, 1).requires_grad_()
    seen = None if visible is None else torch.tensor([visible])
    return Prediction(scores, boxes, seen), torch.arange(float(n)).view(1, n, 1)


def test_selection_takes_the_best_visible_tokens_each_with_its_own_box() -> None:
    guess, features = proposals([0.0, 5.0, 9.0, 3.0], [True, True, False, True])
    chosen, boxes, seen = select(guess, features, 2)
    assert chosen.flatten().tolist() == [1.0, 3.0]
    assert torch.equal(boxes, guess.boxes[:, [1, 3]])
    assert not boxes.requires_grad
    assert seen is not None
    assert seen.all()


def test_an_image_with_fewer_visible_tokens_than_queries_gives_those_first_and_marks_the_rest() -> None:
    guess, features = proposals([0.0, 5.0, 9.0, 3.0], [True, False, False, True])
    chosen, _, seen = select(guess, features, 3)
    assert chosen.flatten().tolist()[:2] == [3.0, 0.0]
    assert seen is not None
    assert seen.tolist() == [[True, True, False]]


def test_an_image_with_fewer_tokens_than_queries_gives_all() -> None:
    guess, features = proposals([1.0, 2.0], None)
    chosen, _, seen = select(guess, features, 16)
    assert chosen.flatten().tolist() == [1.0, 0.0]
    assert seen is None


def test_a_token_is_as_good_as_its_chance_of_any_class() -> None:
    logits = torch.tensor([[[-1.0, -1.0], [-9.0, 0.0], [-2.0, -2.0]]])  # doubtful, but something; half of one class
    chosen, _, _ = select(Prediction(logits, torch.zeros(1, 3, 4)), torch.arange(3.0).view(1, 3, 1), 2)
    assert chosen.flatten().tolist() == [0.0, 1.0]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 3), st.sampled_from([0.3, 0.5, 0.7]), st.integers(0, 2**31))
def test_what_is_suppressed_is_what_greedy_suppression_drops(n: int, b: int, iou: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(b, n, 2, generator=generator) * 0.4
    boxes = torch.cat([low, low + 0.2 + 0.4 * torch.rand(b, n, 2, generator=generator)], -1)
    dropped = suppressed(boxes, iou)
    scores = torch.arange(n, 0, -1).float()
    for row in range(b):
        kept = torch.ones(n, dtype=torch.bool).index_fill(0, nms(boxes[row], scores, iou), False)
        assert dropped[row].tolist() == kept.tolist()


def guesses(boxes: list[list[float]], scores: list[float]) -> Prediction:
    return Prediction(torch.tensor(scores).logit()[None, :, None], torch.tensor([boxes]))


LARGE, NEARLY, SMALL = [0.5, 0.5, 0.6, 0.6], [0.51, 0.5, 0.6, 0.6], [0.1, 0.1, 0.1, 0.1]


def test_second_guesses_at_a_large_object_do_not_take_the_queries_of_a_small_one() -> None:
    found = guesses([LARGE, NEARLY, NEARLY, SMALL], [0.9, 0.8, 0.7, 0.2])
    features = torch.arange(4.0)[None, :, None]
    assert select(found, features, 2)[0].flatten().tolist() == [0, 1]
    assert select(found, features, 2, distinct_iou=0.7)[0].flatten().tolist() == [0, 3]


def test_doubles_fill_the_queries_that_no_distinct_proposal_wants() -> None:
    found = guesses([LARGE, NEARLY, SMALL, NEARLY], [0.9, 0.8, 0.7, 0.2])
    features = torch.arange(4.0)[None, :, None]
    assert select(found, features, 4, distinct_iou=0.7)[0].flatten().tolist() == [0, 2, 1, 3]


def test_padding_is_never_distinct_enough_to_become_a_query_before_the_image() -> None:
    found = guesses([LARGE, NEARLY, SMALL], [0.9, 0.8, 0.99])
    found = Prediction(found.logits, found.boxes, torch.tensor([[True, True, False]]))
    features = torch.arange(3.0)[None, :, None]
    content, _, visible = select(found, features, 2, distinct_iou=0.7)
    assert visible is not None
    assert content.flatten().tolist() == [0, 1], "as without the padding"
    assert visible.all()
