from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from detr_mini.boxes import cxcywh_to_xyxy, scale_boxes, xyxy_to_cxcywh
from detr_mini.data import augment as T
from detr_mini.errors import ConfigError
from detr_mini.structures import Target

SIZE = (40, 60)
TILES = [(4, 4, 16, 12), (30, 8, 50, 20), (8, 24, 20, 36)]
OURS: list[Any] = [
    T.RandomHorizontalFlip(),
    T.RandomVerticalFlip(),
    T.RandomTranspose(),
    T.RandomScaleCrop(0.5, 2.0, fill=0),
]
THEIRS: list[Any] = [
    v2.RandomHorizontalFlip(),
    v2.RandomZoomOut(fill=0),
    v2.RandomIoUCrop(),
    v2.SanitizeBoundingBoxes(),
]


def sample(image_id: int = 1) -> tuple[torch.Tensor, Target]:
    """A black image with three rectangles of grey 100, 150, 200 (labels 0, 1, 2), boxes exactly around them."""
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    for label, (left, top, right, bottom) in enumerate(TILES):
        image[:, top:bottom, left:right] = 100 + 50 * label
    boxes = torch.tensor(TILES).float() / torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    return image, Target(
        boxes=xyxy_to_cxcywh(boxes),
        labels=torch.arange(3),
        image_id=image_id,
        original_size=SIZE,
        is_crowd=torch.tensor([False, True, False]),
        area=torch.tensor([10.0, 20.0, 30.0]),
    )


def check(transforms: Sequence[Any], seed: int, tolerance: float) -> int:
    """Boxes that are left still surround their rectangle of the right grey; everything goes together."""
    image, target = sample()
    image, out, lost = T.Augment(transforms, seed)(image, target, epoch=0)
    assert lost == 3 - len(out.boxes)
    xyxy = scale_boxes(cxcywh_to_xyxy(out.boxes), float(image.shape[2]), float(image.shape[1]))
    assert out.area.tolist() == [10.0 * (label + 1) for label in out.labels.tolist()]
    assert out.is_crowd.tolist() == [label == 1 for label in out.labels.tolist()]
    for box, label in zip(xyxy, out.labels.tolist(), strict=True):
        seen = (image[0].int() - (100 + 50 * label)).abs() <= 20
        rows, columns = torch.nonzero(seen.any(1)).flatten(), torch.nonzero(seen.any(0)).flatten()
        found = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        assert (box - found).abs().max() <= tolerance
    return lost


@given(st.integers(0, 10_000))
def test_boxes_stay_around_their_things(seed: int) -> None:
    check(OURS, seed, tolerance=0.001)


@given(st.integers(0, 10_000))
def test_torchvision_s_transforms_carry_boxes_and_labels_along(seed: int) -> None:
    check(THEIRS, seed, tolerance=0.001)


def test_a_transform_that_resamples_keeps_boxes_in_proportion() -> None:
    image, target = sample()
    out, moved, _ = T.Augment([v2.Resize((80, 90))], 0)(image, target, epoch=0)
    assert out.shape == (3, 80, 90)
    torch.testing.assert_close(moved.boxes, target.boxes)


def test_a_crop_loses_boxes_and_says_how_many() -> None:
    assert any(check([T.RandomScaleCrop(2.0, 3.0)], seed, 0.001) > 0 for seed in range(20))


def test_scale_crop_draws_scales_in_its_range() -> None:
    sides = [T.Augment([T.RandomScaleCrop(0.5, 2.0)], s)(*sample(), epoch=0)[0].shape[2] for s in range(200)]
    assert min(sides) >= 30
    assert max(sides) <= 120
    assert min(sides) < 35
    assert max(sides) > 100


def test_augmentation_is_a_function_of_seed_epoch_and_image() -> None:
    everything = [*OURS, T.RandomChannelPermutation(), T.RandomInversion(), v2.ColorJitter(0.5, 0.5, 0.5, 0.1)]

    def out(seed: int, epoch: int, image_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, target, _ = T.Augment(everything, seed)(*sample(image_id), epoch)
        return image, target.boxes

    first = out(0, 1, 2)
    torch.rand(17)
    again = out(0, 1, 2)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    for other in (out(1, 1, 2), out(0, 2, 2), out(0, 1, 3)):
        assert other[0].shape != first[0].shape or not torch.equal(other[0], first[0])


def test_no_other_random_stream_moves() -> None:
    before = torch.get_rng_state()
    T.Augment(THEIRS, 0)(*sample(), epoch=0)
    assert torch.equal(before, torch.get_rng_state())


def test_the_random_stream_is_restored_after_an_error() -> None:
    def broken(image: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        T.Augment([broken], 0)(*sample(), epoch=0)
    assert torch.equal(before, torch.get_rng_state())


def test_the_file_s_image_is_never_written_into() -> None:
    image, target = sample()
    before = image.clone()
    for seed in range(10):
        T.Augment([*OURS, T.RandomInversion(), T.RandomChannelPermutation()], seed)(image, target, epoch=0)
    assert torch.equal(before, image)


def test_an_image_without_boxes_is_augmented_too() -> None:
    image, target = sample()
    empty = Target(target.boxes[:0], target.labels[:0], 1, SIZE, target.is_crowd[:0], target.area[:0])
    for transforms in (OURS, THEIRS):
        out, target_out, lost = T.Augment(transforms, 3)(image, empty, epoch=0)
        assert target_out.boxes.shape == (0, 4)
        assert lost == 0
        assert out.dtype == torch.uint8


def test_channels_are_permuted_and_inverted() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].repeat(1, *SIZE)
    _, target = sample()
    permuted = [T.Augment([T.RandomChannelPermutation()], s)(image, target, 0)[0] for s in range(60)]
    orders = {tuple(out[:, 0, 0].tolist()) for out in permuted}
    assert len(orders) == 6
    inverted = {int(T.Augment([T.RandomInversion()], s)(image, target, 0)[0][0, 0, 0]) for s in range(20)}
    assert inverted == {10, 245}


def test_what_is_no_transform_is_refused() -> None:
    with pytest.raises(ConfigError, match="which is no transform"):
        T.Augment([{"p": 0.5}], 0)
    with pytest.raises(ConfigError, match="0 < least <= most"):
        T.RandomScaleCrop(2, 1)


def with_a_narrow_box(side: float) -> tuple[torch.Tensor, Target]:
    """`sample` with one box that is `side` pixels wide."""
    image, target = sample()
    boxes = torch.tensor([[17.0, 9.0, 17.0 + side, 30.0]]) / torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    return image, replace(
        target,
        boxes=xyxy_to_cxcywh(boxes),
        labels=torch.zeros(1, dtype=torch.long),
        is_crowd=torch.zeros(1, dtype=torch.bool),
        area=torch.ones(1),
    )


@pytest.mark.parametrize("side", [0.3, 0.9999, 1.0])
def test_a_box_that_was_as_small_in_its_file_stays(side: float) -> None:
    image, small = with_a_narrow_box(side)
    _, out, lost = T.Augment([T.RandomHorizontalFlip(1.0), T.RandomTranspose(1.0)], 0)(image, small, 0)
    assert (len(out.boxes), lost) == (1, 0)


class Beside:
    """Another image's boxes, on this image."""

    draws = True

    def __call__(self, image: torch.Tensor, boxes: torch.Tensor, draw: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return image, torch.cat([boxes, draw()[1]])


def test_a_box_that_is_small_because_its_photograph_was_reduced_stays_unless_augmentation_makes_it_smaller() -> None:
    image, small = with_a_narrow_box(0.96)
    small = replace(small, original_size=(3 * SIZE[0], 3 * SIZE[1]))  # 2.88 pixels in the file
    for transforms, stays, goes in (
        ([T.RandomHorizontalFlip(1.0)], 1, 0),
        ([Beside(), T.RandomHorizontalFlip(1.0)], 2, 0),
        ([v2.Resize((20, 30))], 0, 1),
        ([Beside(), v2.Resize((20, 30))], 0, 2),
    ):
        _, out, lost = T.Augment(transforms, 0)(image, small, 0, draw=lambda: (image, small))
        assert (len(out.boxes), lost) == (stays, goes)


def test_all_images_of_an_epoch_are_transposed_or_none() -> None:
    turned = set()
    for epoch in range(20):
        augment = T.Augment([T.RandomTranspose(whole_epoch=True), T.RandomHorizontalFlip()], 5)
        shapes = {augment(*sample(image_id), epoch)[0].shape[1:] for image_id in range(6)}
        assert len(shapes) == 1
        turned |= shapes
    assert len(turned) == 2


def test_what_an_epoch_shares_leaves_the_images_own_draws_alone() -> None:
    flip = T.RandomHorizontalFlip()
    for image_id in range(8):
        alone = T.Augment([flip], 5)(*sample(image_id), 0)[0]
        behind = T.Augment([T.RandomTranspose(0.0, whole_epoch=True), flip], 5)(*sample(image_id), 0)[0]
        assert torch.equal(alone, behind)
