"""The assignment: least cost, whatever the order; never a cost that is no number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, generalized_box_iou
from detr_mini.losses import matcher
from detr_mini.losses.matcher import ClassCost, NonFiniteCostError, assign, focal_cost, matching_cost, softmax_cost
from detr_mini.structures import PackedTargets, Prediction, Target, pack_targets

WEIGHTS = {"weight_class": 2.0, "weight_l1": 5.0, "weight_giou": 2.0}


def truths(counts: list[int], classes: int = 4, seed: int = 0) -> PackedTargets:
    generator = torch.Generator().manual_seed(seed)
    return pack_targets(
        [
            Target(
                torch.rand(n, 4, generator=generator) * 0.3 + 0.2,
                torch.randint(0, classes, (n,), generator=generator),
                k,
                (64, 64),
                torch.zeros(n, dtype=torch.bool),
                torch.ones(n),
            )
            for k, n in enumerate(counts)
        ]
    )


def guesses(images: int, queries: int, classes: int = 4, seed: int = 1) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, queries, classes, generator=generator)
    return Prediction(logits, torch.rand(images, queries, 4, generator=generator) * 0.3 + 0.2)


def cost_of(prediction: Prediction, targets: PackedTargets) -> Tensor:
    return matching_cost(prediction, targets, focal_cost, **WEIGHTS)


counts_strategy = st.lists(st.integers(0, 6), min_size=1, max_size=4)


@settings(max_examples=30, deadline=None)
@given(counts_strategy, st.integers(1, 8), st.integers(0, 1000))
def test_each_image_gets_the_answer_of_the_solver_on_its_own_costs(counts: list[int], queries: int, seed: int) -> None:
    targets, prediction = truths(counts, seed=seed), guesses(len(counts), queries, seed=seed + 1)
    cost = cost_of(prediction, targets)
    match = assign(cost, targets.counts)
    for row, count in enumerate(counts):
        query, truth = linear_sum_assignment(cost[row, :, :count].numpy())
        answer = {int(t): int(q) for q, t in zip(query, truth, strict=True)}
        found = {t: int(match.query[row, t]) for t in range(match.query.shape[1]) if match.valid[row, t]}
        assert found == answer


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(7)), st.permutations(range(4)))
def test_the_order_of_queries_and_of_truths_means_nothing(queries: list[int], order: list[int]) -> None:
    targets, prediction = truths([4]), guesses(1, 7)
    cost = cost_of(prediction, targets)
    plain = assign(cost, (4,)).query[0]
    shuffled = assign(cost[:, queries][:, :, order], (4,)).query[0]
    assert [queries[int(q)] for q in shuffled] == [int(plain[t]) for t in order]


@settings(max_examples=20, deadline=None)
@given(counts_strategy, st.integers(2, 5))
def test_copies_give_each_truth_so_many_queries_none_of_them_twice(counts: list[int], copies: int) -> None:
    targets, prediction = truths(counts), guesses(len(counts), 40)
    match = assign(cost_of(prediction, targets), targets.counts, [(40, copies)])
    for row, count in enumerate(counts):
        chosen = match.query[row][match.valid[row]]
        assert len(chosen) == len(chosen.unique()) == copies * count
        served = match.truth[row][match.valid[row]].bincount(minlength=count)
        assert served.tolist() == [copies] * count


def test_more_truths_than_queries_leaves_some_truths_without_an_answer() -> None:
    match = assign(cost_of(guesses(1, 3), truths([5])), (5,))
    assert int(match.valid.sum()) == 3


def test_more_copies_than_queries_leave_no_query_idle_and_none_answers_twice() -> None:
    match = assign(cost_of(guesses(1, 7), truths([3])), (3,), [(7, 4)])
    assert sorted(match.query[0][match.valid[0]].tolist()) == list(range(7))


@pytest.mark.parametrize("copies", [1, 4])
def test_a_batch_without_any_box_matches_nothing(copies: int) -> None:
    targets = truths([0, 0])
    match = assign(cost_of(guesses(2, 5), targets), targets.counts, [(5, copies)])
    assert not match.valid.any()
    assert match.query.dtype == match.truth.dtype == torch.long


@pytest.mark.parametrize("size", [1.0, 1e3, 1e5, 1e7])
def test_each_truth_gets_an_answer_however_large_the_guessed_boxes(size: float) -> None:
    """A truth without an answer has no box loss: nothing would pull guesses back that have run away."""
    prediction = guesses(1, 6)
    match = assign(cost_of(Prediction(prediction.logits, prediction.boxes * size), truths([3])), (3,))
    assert match.valid.all()


def test_a_guess_on_padding_is_never_chosen_and_may_be_no_number() -> None:
    prediction = guesses(2, 6)
    visible = torch.ones(2, 6, dtype=torch.bool)
    visible[0, 2:] = False
    prediction.boxes[0, 3], prediction.logits[0, 4] = float("nan"), float("inf")
    targets = truths([4, 4])
    match = assign(cost_of(Prediction(prediction.logits, prediction.boxes, visible), targets), targets.counts)
    assert set(match.query[0][match.valid[0]].tolist()) == {0, 1}
    assert int(match.valid[1].sum()) == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_cost_that_is_no_number_is_named_and_never_reaches_the_solver(
    bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = truths([2, 1, 3])
    costs = [cost_of(guesses(3, 6, seed=s), targets) for s in (1, 2)]
    costs[1][2, 4, 0] = bad
    costs[0][1, 0, 2] = bad  # a padded truth of image 1: nobody asks
    monkeypatch.setattr(matcher, "linear_sum_assignment", lambda _: pytest.fail("the solver saw it"))
    with pytest.raises(NonFiniteCostError) as caught:
        assign(torch.cat(costs, 1), targets.counts, [(6, 1), (6, 1)])
    assert (caught.value.rows, caught.value.sets) == ((2,), (1,))


def test_one_transfer_brings_all_costs_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: (calls.append(1), original(self))[1])
    targets = truths([2, 1])
    assign(cost_of(guesses(2, 18), targets), targets.counts, [(5, 1), (6, 1), (7, 4)])
    assert len(calls) == 1


@pytest.mark.parametrize("worth", [0, 10**12])
def test_images_that_are_solved_side_by_side_get_the_same_answers(worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, sets = truths([3, 0, 9, 40]), [(60, 1), (140, 3)]
    cost = cost_of(guesses(4, 200), targets)
    monkeypatch.setattr(matcher, "WORTH_THREADS", worth)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    match = assign(cost, targets.counts, sets)
    for row, count in enumerate(targets.counts):
        query, truth = linear_sum_assignment(cost[row, :60, :count].numpy())
        assert match.query[row, truth].tolist() == query.tolist()
    assert [int(row.sum()) for row in match.valid] == [4 * count for count in (3, 0, 9)] + [40 + 120]


@settings(max_examples=20, deadline=None)
@given(counts_strategy, st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=4))
def test_sets_one_after_the_other_get_the_answers_that_each_gets_alone(
    counts: list[int], sets: list[tuple[int, int]]
) -> None:
    targets = truths(counts)
    cost = cost_of(guesses(len(counts), sum(queries for queries, _ in sets)), targets)
    whole, n, place, column = assign(cost, targets.counts, sets), cost.shape[2], 0, 0
    for queries, copies in sets:
        alone = assign(cost[:, place : place + queries], targets.counts, [(queries, copies)])
        own = slice(column, column + copies * n)
        assert torch.equal(whole.valid[:, own], alone.valid)
        assert torch.equal(whole.query[:, own][alone.valid], (alone.query + place)[alone.valid])
        assert torch.equal(whole.truth[:, own], alone.truth)
        assert (whole.copies[own] == copies).all()
        place, column = place + queries, column + copies * n
    assert column == whole.query.shape[1]
    if sets[0][1] == 1:
        assert torch.equal(whole.first(n).query, whole.query[:, :n])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([focal_cost, softmax_cost]), st.integers(1, 3))
def test_a_cost_is_the_weighted_sum_of_class_distance_and_overlap(
    seed: int, class_cost: ClassCost, weight: int
) -> None:
    targets, prediction = truths([3, 2], seed=seed), guesses(2, 5, seed=seed + 1)
    weights = {"weight_class": 1.0 * weight, "weight_l1": 2.0 + weight, "weight_giou": 0.5 * weight}
    cost = matching_cost(prediction, targets, class_cost, **weights)
    for row, query, column in ((0, 4, 2), (1, 0, 1), (1, 3, 0)):
        guess, truth = prediction.boxes[row, query], targets.boxes[row, column]
        overlap = generalized_box_iou(cxcywh_to_xyxy(guess)[None], cxcywh_to_xyxy(truth)[None])[0, 0]
        of_class = class_cost(prediction.logits[row : row + 1], targets.labels[row : row + 1])[0, query, column]
        expected = weight * of_class + (2 + weight) * (guess - truth).abs().sum() - 0.5 * weight * overlap
        torch.testing.assert_close(cost[row, query, column], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("class_cost", [focal_cost, softmax_cost])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_left_before_anything_is_computed(dtype: torch.dtype, class_cost: ClassCost) -> None:
    prediction = guesses(2, 5)
    half = Prediction(prediction.logits.to(dtype), prediction.boxes.to(dtype))
    full = Prediction(half.logits.float(), half.boxes.float())
    costs = [matching_cost(p, truths([3, 2]), class_cost, **WEIGHTS) for p in (half, full)]
    assert torch.equal(*costs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_costs_are_float32_and_finite_for_logits_of_any_size_in_half_precision(dtype: torch.dtype) -> None:
    prediction = guesses(1, 4)
    half = Prediction((prediction.logits * 1e4).to(dtype), prediction.boxes.to(dtype))
    for class_cost in (focal_cost, softmax_cost):
        cost = matching_cost(half, truths([3]), class_cost, **WEIGHTS)
        assert cost.dtype == torch.float32
        assert cost.isfinite().all()


def test_a_better_class_and_a_better_box_cost_less() -> None:
    targets = truths([1], classes=1)
    box = targets.boxes[0, 0]
    boxes = torch.stack([box, box + torch.tensor([0.1, 0.0, 0.0, 0.0])])[None]
    cost = cost_of(Prediction(torch.zeros(1, 2, 1), boxes), targets)[0, :, 0]
    assert cost[0] < cost[1]
    cost = cost_of(Prediction(torch.tensor([[[2.0], [-2.0]]]), box.expand(1, 2, 4)), targets)[0, :, 0]
    assert cost[0] < cost[1]


def test_softmax_cost_is_minus_the_probability_of_the_truths_class() -> None:
    logits, labels = torch.randn(1, 3, 4), torch.tensor([[1, 0]])
    torch.testing.assert_close(softmax_cost(logits, labels), -logits.softmax(-1)[..., [1, 0]])


def test_focal_cost_is_the_formula() -> None:
    logits, labels = torch.randn(1, 3, 2), torch.tensor([[1, 0]])
    p = np.asarray(logits.sigmoid(), np.float64)
    expected = 0.25 * (1 - p) ** 2 * -np.log(p) - 0.75 * p**2 * -np.log(1 - p)
    np.testing.assert_allclose(focal_cost(logits, labels)[0], expected[0][:, [1, 0]], rtol=1e-4, atol=1e-5)
