"""The losses: sums that padding and company do not change, finite where there is nothing to find."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from detr_mini.benchmarks.operations import OperationCounter
from detr_mini.losses.criterion import DetectionCriterion, matchability_loss, no_object_cross_entropy
from detr_mini.losses.matcher import NonFiniteCostError, focal_cost, softmax_cost
from detr_mini.models.denoising import make_denoising
from detr_mini.structures import DenoisingOutput, DetectorOutput, PackedTargets, Prediction, Target, pack_targets

CLASSES = 3


def criterion(**settings: float) -> DetectionCriterion:
    usual = {"cost_class": 2.0, "weight_giou": 2.0, "weight_relative_l1": 0.1, "final_box_weight": 1.5}
    return DetectionCriterion(class_cost=focal_cost, class_loss=matchability_loss, **{**usual, **settings})


def target(n: int, image_id: int, crowd: int = 0) -> Target:
    generator = torch.Generator().manual_seed(image_id)
    is_crowd = torch.arange(n) >= n - crowd
    boxes = torch.rand(n, 4, generator=generator) * 0.3 + 0.2
    return Target(
        boxes, torch.randint(0, CLASSES, (n,), generator=generator), image_id, (64, 64), is_crowd, torch.ones(n)
    )


def guess(image_id: int, queries: int, salt: int) -> Prediction:
    generator = torch.Generator().manual_seed(1000 * salt + image_id)
    logits = torch.randn(1, queries, CLASSES, generator=generator)
    return Prediction(logits, torch.rand(1, queries, 4, generator=generator) * 0.3 + 0.2)


def join(predictions: list[Prediction]) -> Prediction:
    return Prediction(torch.cat([p.logits for p in predictions]), torch.cat([p.boxes for p in predictions]))


def output(ids: list[int], packed: PackedTargets) -> DetectorOutput:
    """Something for every loss to count; an image's guesses depend on its id alone."""
    noised = make_denoising(packed, ids, num_classes=CLASSES, seed=0, step=0)
    n = packed.boxes.shape[1]

    def denoised(salt: int) -> Prediction:  # truth j's queries are at j and n + j, whatever n is
        rows = [guess(i, 40, salt) for i in ids]
        pick = torch.cat([torch.arange(n), torch.arange(n) + 20])
        return Prediction(join(rows).logits[:, pick], join(rows).boxes[:, pick])

    final = join([guess(i, 10, 0) for i in ids])
    return DetectorOutput(
        final.logits, final.boxes, auxiliary=(join([guess(i, 10, 1) for i in ids]),),
        proposals=join([guess(i, 30, 2) for i in ids]), one_to_many=join([guess(i, 30, 3) for i in ids]),
        denoising=DenoisingOutput((denoised(4), denoised(5)), noised.truth, noised.positive, noised.valid),
    )  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=4), st.floats(0, 1))
def test_a_batch_costs_the_sum_of_its_images(counts: list[int], progress: float) -> None:
    targets = [target(n, i) for i, n in enumerate(counts)]
    packed = pack_targets(targets)
    whole = criterion()(output(list(range(len(counts))), packed), packed, progress)
    parts = []
    for i, t in enumerate(targets):
        one = pack_targets([t])
        parts.append(criterion()(output([i], one), one, progress))
    torch.testing.assert_close(whole.total, torch.stack([p.total for p in parts]).sum(), rtol=1e-4, atol=1e-4)
    assert whole.boxes == sum(p.boxes for p in parts) == sum(counts)
    for name in ("class", "l1", "giou"):
        torch.testing.assert_close(whole.terms[name], torch.stack([p.terms[name] for p in parts]).sum())


def test_crowd_regions_are_no_targets() -> None:
    whole = target(5, 0)
    without = replace(whole, **{name: getattr(whole, name)[:3] for name in ("boxes", "labels", "is_crowd", "area")})
    with_crowd = pack_targets([target(5, 0, crowd=2)])
    losses = criterion()(output([0], with_crowd), with_crowd)
    assert losses.boxes == 3
    packed = pack_targets([without])
    assert torch.equal(losses.total, criterion()(output([0], packed), packed).total)


def test_the_sum_is_not_divided_by_anything() -> None:
    """That is the caller's: a batch of the same image three times costs three times as much."""
    once, thrice = pack_targets([target(4, 7)]), pack_targets([target(4, 7)] * 3)
    one, three = criterion()(output([7], once), once), criterion()(output([7, 7, 7], thrice), thrice)
    torch.testing.assert_close(three.total, 3 * one.total)
    assert three.boxes == 3 * one.boxes == 12


def test_every_part_of_an_output_counts_once_and_copies_of_truths_are_averaged() -> None:
    packed = pack_targets([target(3, 0), target(5, 1)])
    whole = output([0, 1], packed)
    final = DetectorOutput(whole.logits, whole.boxes)

    def total(given: DetectorOutput, **settings: float) -> torch.Tensor:
        return criterion(**settings)(given, packed).total

    def alone(part: Prediction, **settings: float) -> torch.Tensor:
        return total(DetectorOutput(part.logits, part.boxes), **settings)

    assert whole.proposals is not None
    assert whole.one_to_many is not None
    assert whole.denoising is not None
    denoised = total(replace(final, denoising=whole.denoising)) - total(final)
    parts = [alone(whole.final), alone(whole.auxiliary[0]), alone(whole.proposals), denoised]
    once = total(replace(whole, one_to_many=None))
    torch.testing.assert_close(once, torch.stack(parts).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total(whole, copies=1) - once, alone(whole.one_to_many), rtol=1e-4, atol=1e-3)
    # four queries that say the truth, four copies of it: a quarter each
    easy = Prediction(*(x.repeat_interleave(4, 1) for x in (whole.logits, whole.boxes)))
    copied = total(replace(final, one_to_many=easy), copies=4) - total(final)
    torch.testing.assert_close(copied, total(final), rtol=1e-4, atol=1e-3)


def test_guesses_on_padding_cost_nothing_and_get_no_gradient() -> None:
    packed = pack_targets([target(3, 0), target(0, 1)])
    given = output([0, 1], packed)
    assert given.proposals is not None
    extra = join([guess(i, 6, 9) for i in (0, 1)])
    logits = torch.cat([given.proposals.logits, extra.logits], 1).requires_grad_()
    boxes = torch.cat([given.proposals.boxes, extra.boxes], 1).requires_grad_()
    visible = torch.arange(36).expand(2, -1) < 30
    padded = Prediction(logits, boxes, visible)
    total = criterion()(replace(given, proposals=padded), packed).total
    torch.testing.assert_close(total, criterion()(given, packed).total, rtol=1e-5, atol=1e-5)
    total.backward()
    assert logits.grad is not None
    assert boxes.grad is not None
    assert logits.grad[:, 30:].abs().max() == boxes.grad[:, 30:].abs().max() == 0
    assert logits.grad[:, :30].abs().min() > 0


def test_more_layers_take_no_more_operations() -> None:
    packed = pack_targets([target(3, 0), target(5, 1)])
    given = output([0, 1], packed)
    counts = []
    for layers in (1, 5):
        several = replace(given, auxiliary=given.auxiliary * layers)
        criterion()(several, packed)  # what is made once
        with OperationCounter() as operations:
            criterion()(several, packed)
        counts.append(operations.total)
    assert counts[0] == counts[1]


def test_denoising_is_for_boxes_from_positives_and_for_no_from_negatives() -> None:
    packed = pack_targets([target(2, 0), target(1, 1)])
    given = output([0, 1], packed)
    assert given.denoising is not None
    boxes = given.denoising.layers[0].boxes.clone().requires_grad_()
    logits = given.denoising.layers[0].logits.clone().requires_grad_()
    layers = (Prediction(logits, boxes), *given.denoising.layers[1:])
    criterion()(replace(given, denoising=replace(given.denoising, layers=layers)), packed).total.backward()
    assert boxes.grad is not None
    assert logits.grad is not None
    # rows: two truths, one truth and one of padding; columns: positives, then negatives
    assert (boxes.grad.abs().sum(-1) > 0).tolist() == [[True, True, False, False], [True, False, False, False]]
    assert (logits.grad.abs().sum(-1) > 0).tolist() == [[True] * 4, [True, False, True, False]]
    assert (logits.grad[0, 2:] > 0).all(), "every negative's logits must fall"


def test_T_05_background_images_alone_give_a_finite_loss_from_the_class_only() -> None:
    packed = pack_targets([target(0, 0), target(0, 1)])
    assert packed.labels.dtype == torch.long
    given = output([0, 1], packed)
    logits, boxes = given.logits.requires_grad_(), given.boxes.requires_grad_()
    losses = criterion()(given, packed)
    losses.total.backward()
    assert losses.total.isfinite()
    assert losses.total > 0
    assert losses.terms["l1"] == losses.terms["giou"] == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert boxes.grad is None or boxes.grad.abs().sum() == 0


def test_the_truth_itself_costs_less_than_a_shifted_box_or_a_wrong_class() -> None:
    packed = pack_targets([target(4, 3)])
    right = functional.one_hot(packed.labels, CLASSES).float() * 12 - 6
    wrong = functional.one_hot((packed.labels + 1) % CLASSES, CLASSES).float() * 12 - 6

    def total(logits: torch.Tensor, boxes: torch.Tensor) -> float:
        return float(criterion()(DetectorOutput(logits, boxes), packed).total)

    best = total(right, packed.boxes)
    assert best < 0.1
    assert total(right, packed.boxes + 0.02) > best + 0.1
    assert total(wrong, packed.boxes) > best + 1


def test_box_losses_grow_over_the_second_half_only() -> None:
    packed = pack_targets([target(4, 3)])
    given = DetectorOutput(*(lambda p: (p.logits, p.boxes))(guess(0, 8, 0)))

    def total(progress: float) -> float:
        return float(criterion()(given, packed, progress).total)

    assert total(0.0) == total(0.3) == total(0.5) < total(0.75) < total(1.0)
    boxes_alone = criterion(weight_class=0.0)
    ratio = boxes_alone(given, packed, 1.0).total / boxes_alone(given, packed, 0.0).total
    torch.testing.assert_close(ratio, torch.tensor(1.5))


def test_matchability_loss_is_the_formula() -> None:
    logits, quality = torch.randn(1, 4, CLASSES), torch.rand(1, 4)
    labels = torch.tensor([[2, -1, 0, -1]])
    expected = 0.0
    for q in range(4):
        for k in range(CLASSES):
            p = logits[0, q, k].sigmoid()
            if labels[0, q] == k:
                y = quality[0, q] ** 1.5
                expected -= y * p.log() + (1 - y) * (1 - p).log()
            else:
                expected -= p**1.5 * (1 - p).log()
    torch.testing.assert_close(matchability_loss(logits, labels, quality, None).sum(), torch.as_tensor(expected))
    counted = torch.tensor([[True, False, False, False]])
    assert matchability_loss(logits, labels, quality, counted).sum() < expected


def test_the_weight_of_a_no_is_a_number_and_not_a_thing_to_learn() -> None:
    """So its gradient is p^1.5 times that of the cross-entropy, p."""
    logits = torch.randn(1, 4, CLASSES, requires_grad=True)
    matchability_loss(logits, torch.full((1, 4), -1), torch.zeros(1, 4), None).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().sigmoid() ** 2.5)


def test_box_losses_are_weighted_sums_of_distance_overlap_and_distance_in_sizes() -> None:
    truth = Target(
        torch.tensor([[0.5, 0.5, 0.2, 0.4]]), torch.tensor([1]), 0, (64, 64), torch.tensor([False]), torch.ones(1)
    )
    boxes = torch.tensor([[[0.52, 0.46, 0.1, 0.4], [0.1, 0.1, 0.1, 0.1]]])
    given = DetectorOutput(torch.zeros(1, 2, CLASSES), boxes)
    rule = DetectionCriterion(
        class_cost=focal_cost, class_loss=matchability_loss, weight_class=0.0, weight_l1=3.0, weight_giou=0.7,
        weight_relative_l1=0.25, cost_class=2.0,
    )  # fmt: skip
    losses = rule(given, pack_targets([truth]))
    distance, in_sizes = 0.02 + 0.04 + 0.1, 0.02 / 0.2 + 0.04 / 0.4 + 0.1 / 0.2
    inter, hull = 0.1 * 0.36, 0.2 * 0.44  # the guess is narrower, inside in x, and 0.04 higher
    union = 0.1 * 0.4 + 0.2 * 0.4 - inter
    giou = inter / union - (hull - union) / hull
    expected = 3 * distance + 0.7 * (1 - giou) + 0.25 * in_sizes
    torch.testing.assert_close(losses.total, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.terms["l1"], torch.tensor(distance), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.terms["giou"], torch.tensor(1 - giou), rtol=1e-4, atol=1e-5)


def test_a_truth_almost_without_size_has_a_bounded_relative_distance() -> None:
    packed = PackedTargets(
        torch.tensor([[[0.5, 0.5, 0.0, 0.0]]]), torch.zeros(1, 1).long(), torch.ones(1, 1).bool(), (1,)
    )
    losses = criterion()(DetectorOutput(torch.zeros(1, 1, CLASSES), torch.full((1, 1, 4), 0.5)), packed)
    assert losses.total.isfinite()
    assert losses.total < 1e3


def test_what_is_logged_is_of_the_last_layer_alone() -> None:
    packed = pack_targets([target(3, 0), target(2, 1)])
    whole = output([0, 1], packed)
    final = DetectorOutput(whole.logits, whole.boxes)
    terms, expected = criterion()(whole, packed).terms, criterion()(final, packed).terms
    assert set(terms) == {"class", "l1", "giou"}
    for name in terms:
        torch.testing.assert_close(terms[name], expected[name])
        assert not terms[name].requires_grad


def test_no_gradient_flows_into_the_quality_that_is_the_class_target() -> None:
    packed = pack_targets([target(3, 1)])
    p = guess(0, 6, 0)
    boxes = p.boxes.clone().requires_grad_()
    only_class = criterion(weight_l1=0.0, weight_giou=0.0)
    only_class.weight_relative_l1 = 0.0
    only_class(DetectorOutput(p.logits.requires_grad_(), boxes), packed).total.backward()
    assert boxes.grad is None or boxes.grad.abs().max() == 0


def test_no_object_cross_entropy_is_torchs_with_the_last_class_weighted_down() -> None:
    logits, labels = torch.randn(2, 5, CLASSES + 1), torch.tensor([[0, -1, 2, -1, 1], [-1] * 5])
    found = no_object_cross_entropy(logits, labels, torch.ones(2, 5), None, no_object_weight=0.1)
    target_ = torch.where(labels < 0, CLASSES, labels)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.1])
    for row in range(2):
        expected = functional.cross_entropy(logits[row], target_[row], weight, reduction="sum")
        torch.testing.assert_close(found[row], expected)


def test_detr_of_2020_has_its_own_losses() -> None:
    packed = pack_targets([target(3, 1), target(0, 2)])
    given = DetectorOutput(torch.randn(2, 6, CLASSES + 1), torch.rand(2, 6, 4) * 0.5 + 0.2)
    detr = DetectionCriterion(
        class_cost=softmax_cost,
        class_loss=partial(no_object_cross_entropy, no_object_weight=0.1),
        cost_class=1.0,
        weight_giou=2.0,
    )
    losses = detr(given, packed)
    assert losses.match is not None
    labels = losses.match.at_queries(packed.labels.gather(1, losses.match.truth), 6, fill=CLASSES)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.1])
    entropy = functional.cross_entropy(given.logits.transpose(1, 2), labels, weight, reduction="sum")
    torch.testing.assert_close(losses.terms["class"], entropy)
    weights = {"class": 1.0, "l1": 5.0, "giou": 2.0}
    assert set(losses.terms) == set(weights)
    weighted = torch.stack([weights[name] * term for name, term in losses.terms.items()])
    torch.testing.assert_close(losses.total, weighted.sum())


def test_a_guess_that_is_no_number_names_its_image_whatever_the_layer() -> None:
    packed = pack_targets([target(2, 0), target(2, 1), target(1, 2)])
    given = output([0, 1, 2], packed)
    boxes = given.auxiliary[0].boxes.clone()
    boxes[1, 4] = float("nan")
    broken = replace(given, auxiliary=(Prediction(given.auxiliary[0].logits, boxes),))
    with pytest.raises(NonFiniteCostError) as caught:
        criterion()(broken, packed)
    assert caught.value.rows == (1,)
