"""Denoising queries: a function of seed, step and image id, and of nothing else."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.boxes import cxcywh_to_xyxy, iou_and_giou
from detr_mini.models.denoising import make_denoising
from detr_mini.structures import PackedTargets, Target, pack_targets
from detr_mini.torch_seeding import counter_noise


def packed(counts: list[int], classes: int = 5) -> PackedTargets:
    generator = torch.Generator().manual_seed(0)
    return pack_targets(
        [
            Target(
                torch.rand(n, 4, generator=generator) * 0.3 + 0.2,
                torch.randint(0, classes, (n,), generator=generator),
                i,
                (64, 64),
                torch.zeros(n, dtype=torch.bool),
                torch.ones(n),
            )
            for i, n in enumerate(counts)
        ]
    )


def inside(counts: list[int]) -> PackedTargets:
    """Boxes so small that none of them, noised, reaches the image's border."""
    targets = packed(counts)
    targets.boxes[..., 2:] *= 0.35
    return targets


def row(targets: PackedTargets, index: int) -> PackedTargets:
    n = targets.counts[index]
    pick = slice(index, index + 1)
    return PackedTargets(targets.boxes[pick, :n], targets.labels[pick, :n], targets.valid[pick, :n], (n,))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2**31), st.integers(0, 10**6))
def test_an_images_noise_does_not_depend_on_its_company(counts: list[int], seed: int, step: int) -> None:
    targets = packed(counts)
    ids = [7 * i + 3 for i in range(len(counts))]
    whole = make_denoising(targets, ids, num_classes=5, seed=seed, step=step)
    n = targets.boxes.shape[1]
    for i, count in enumerate(counts):
        alone = make_denoising(row(targets, i), [ids[i]], num_classes=5, seed=seed, step=step)
        for half in (0, 1):
            mine = slice(half * n, half * n + count)
            other = slice(half * count, (half + 1) * count)
            assert torch.equal(whole.boxes[i, mine], alone.boxes[0, other])
            assert torch.equal(whole.labels[i, mine], alone.labels[0, other])


def test_seed_step_and_image_each_change_the_noise() -> None:
    targets = packed([3, 3])
    base = make_denoising(targets, [1, 2], num_classes=5, seed=0, step=0)
    for seed, step, ids in ((1, 0, [1, 2]), (0, 1, [1, 2]), (0, 0, [3, 4])):
        assert not torch.equal(base.boxes, make_denoising(targets, ids, num_classes=5, seed=seed, step=step).boxes)


def test_the_noise_is_uniform_and_unrelated_between_neighbours() -> None:
    noise = counter_noise(3, 5, list(range(64)), 1000, torch.device("cpu"))
    assert noise.min() >= 0
    assert noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.005
    assert abs(noise.var() - 1 / 12) < 0.002
    for a, b in ((noise[:-1], noise[1:]), (noise[:, :-1], noise[:, 1:])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.01


def test_positives_stay_near_their_truth_and_negatives_are_noised_further() -> None:
    targets = packed([6] * 50)
    noised = make_denoising(targets, list(range(50)), num_classes=5, seed=0, step=0, box_noise=0.4, label_noise=0.2)
    truth = targets.boxes.gather(1, noised.truth[..., None].expand(-1, -1, 4))
    iou = iou_and_giou(cxcywh_to_xyxy(noised.boxes), cxcywh_to_xyxy(truth))[0]
    assert iou[noised.positive].min() > 0.3
    assert iou[noised.positive].mean() > iou[~noised.positive].mean() + 0.15
    corners = cxcywh_to_xyxy(noised.boxes)
    assert corners.min() >= -1e-3
    assert corners.max() <= 1 + 1e-3
    changed = (noised.labels != targets.labels.gather(1, noised.truth)).float().mean()
    assert abs(changed - 0.2 * 4 / 5) < 0.04


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.5), st.integers(0, 10**6))
def test_corners_move_by_the_noise_at_most_and_those_of_negatives_further(noise: float, step: int) -> None:
    targets = inside([6, 3])
    noised = make_denoising(targets, [4, 9], num_classes=5, seed=0, step=step, box_noise=noise)
    truth = targets.boxes.gather(1, noised.truth[..., None].expand(-1, -1, 4))
    corners = cxcywh_to_xyxy(noised.boxes) - cxcywh_to_xyxy(truth)
    moved = (corners / (truth[..., 2:] / 2).repeat(1, 1, 2)).abs()  # in half sizes
    near, far = noised.valid & noised.positive, noised.valid & ~noised.positive
    assert near.sum() == far.sum() == 9
    assert moved[near].max() <= noise + 1e-4
    assert moved[far].min() >= noise - 1e-4
    assert moved[far].max() <= 2 * noise + 1e-4


def test_a_box_turned_inside_out_by_strong_noise_is_turned_back() -> None:
    noised = make_denoising(inside([6] * 50), list(range(50)), num_classes=5, seed=0, step=0, box_noise=1.0)
    assert (noised.boxes[..., 2:] > 2e-3).float().mean() > 0.95


def test_corners_move_in_and_out_alike() -> None:
    targets = inside([6] * 50)
    noised = make_denoising(targets, list(range(50)), num_classes=5, seed=0, step=0)
    moved = cxcywh_to_xyxy(noised.boxes) - cxcywh_to_xyxy(targets.boxes.repeat(1, 2, 1))
    for negatives in (False, True):
        outwards = (moved[noised.positive != negatives] > 0).float().mean(0)
        assert (outwards - 0.5).abs().max() < 0.12, "300 fair coins"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_noised_boxes_have_a_size_and_stay_in_the_image(cx: float, cy: float, w: float, h: float) -> None:
    targets = packed([1])
    targets.boxes[0, 0] = torch.tensor([cx, cy, w, h])
    noised = make_denoising(targets, [0], num_classes=5, seed=0, step=0)
    assert noised.boxes[..., 2:].min() > 0
    assert noised.boxes[..., :2].min() >= 0
    corners = cxcywh_to_xyxy(noised.boxes)
    assert corners.min() >= -1e-3
    assert corners.max() <= 1 + 1e-3


def test_labels_are_redrawn_among_all_classes_and_the_truth_is_kept() -> None:
    targets = inside([6] * 50)
    noised = make_denoising(targets, list(range(50)), num_classes=5, seed=0, step=0, label_noise=1.0)
    assert (noised.labels.flatten().bincount(minlength=5) - 120).abs().max() < 50
    assert noised.labels.max() < 5
    some = make_denoising(targets, list(range(50)), num_classes=5, seed=0, step=0, label_noise=0.3)
    redrawn = some.labels[some.labels != targets.labels.repeat(1, 2)]
    assert redrawn.bincount(minlength=5).min() > 10, "whatever the share, none of the five classes is left out"
    kept = make_denoising(targets, list(range(50)), num_classes=5, seed=0, step=0, label_noise=0.0, box_noise=0.0)
    assert torch.equal(kept.labels, targets.labels.repeat(1, 2))
    torch.testing.assert_close(kept.boxes, targets.boxes.repeat(1, 2, 1))


def test_nobody_looks_at_padding_and_no_matching_query_at_noise() -> None:
    noised = make_denoising(packed([1, 2]), [0, 1], num_classes=5, seed=0, step=0)
    blocked = noised.blocked(3)
    assert blocked.shape == (2, 7, 7)
    assert blocked[:, :3, 3:].all()
    assert not blocked[:, :, :3].any()
    assert blocked[0, 3:, 3:].any(0).tolist() == [False, True, False, True]
    assert not blocked[1, 3:, 3:].any()


def test_a_batch_without_truths_gets_queries_that_do_not_count() -> None:
    noised = make_denoising(packed([0, 0]), [0, 1], num_classes=5, seed=0, step=0)
    assert not noised.valid.any()
    blocked = noised.blocked(4)
    assert blocked[:, :4, 4:].all()
    assert not blocked[:, :, :4].any()
