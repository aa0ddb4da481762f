"""Augmentation that cuts and mixes: boxes follow the pixels, labels stay with their boxes, nothing is outside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.boxes import cxcywh_to_xyxy, scale_boxes, xyxy_to_cxcywh
from detr_mini.data.augment import Augment, RandomQuarterTurn, Sample
from detr_mini.data.mosaic import Mixup, Mosaic, RandomWindow, within
from detr_mini.errors import ConfigError
from detr_mini.structures import Target

BACKGROUND, STEP = 10, 30
"""Grey of an image without things, and between two things: thing k is BACKGROUND + STEP (k + 1)."""
SIZES = ((48, 64), (64, 48), (90, 120), (50, 50))
seeds = st.integers(0, 100_000)


def scene(number: int) -> tuple[torch.Tensor, Target]:
    """Image `number`: two rectangles on grey, each of a grey that only it has; label and area say which."""
    height, width = SIZES[number]
    image = torch.full((3, height, width), BACKGROUND, dtype=torch.uint8)
    half_y, half_x = height // 2, width // 2
    boxes = torch.tensor([[4, 6, half_x - 2, half_y - 4], [half_x + 4, half_y, width - 6, height - 3]])
    labels = torch.tensor([2 * number, 2 * number + 1])
    for (left, top, right, bottom), label in zip(boxes.tolist(), labels.tolist(), strict=True):
        image[:, top:bottom, left:right] = BACKGROUND + STEP * (label + 1)
    return image, Target(
        boxes=xyxy_to_cxcywh(boxes.float() / torch.tensor([width, height, width, height])),
        labels=labels,
        image_id=number,
        original_size=(height, width),
        is_crowd=labels == 1,
        area=100.0 + labels,
    )


def augmented(transform: Any, seed: int, number: int = 0) -> tuple[torch.Tensor, Target, int, torch.Tensor]:
    """Image, target, boxes lost, and the boxes in pixels; what is drawn are the other scenes, in turn."""
    image, target = scene(number)
    others = iter([scene(other) for other in range(4) if other != number])
    image, out, lost = Augment([], seed, [transform])(image, target, 0, strong=True, draw=lambda: next(others))
    boxes = scale_boxes(cxcywh_to_xyxy(out.boxes), float(image.shape[2]), float(image.shape[1]))
    return image, out, lost, boxes


def is_whole(image: torch.Tensor, target: Target, boxes: torch.Tensor) -> None:
    """What holds of any result: types, boxes inside, what stands beside them goes along."""
    assert image.dtype == torch.uint8 and image.shape[0] == 3
    assert (boxes >= -1e-3).all() and (boxes[:, [0, 2]] <= image.shape[2] + 1e-3).all()
    assert (boxes[:, [1, 3]] <= image.shape[1] + 1e-3).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1 - 1e-3).all()
    assert len(target.boxes) == len(target.labels) == len(target.is_crowd) == len(target.area)
    assert target.area.tolist() == (100.0 + target.labels).tolist()
    assert target.is_crowd.tolist() == (target.labels == 1).tolist()


def place_of(image: torch.Tensor, label: int, border: int) -> torch.Tensor | None:
    """The box around the pixels with the grey of a thing; None where there are none.

    `border`: so many pixels at its edge may be mixed with what is beside it. They do not count, and the box is as much
    larger.
    """
    same = ((image[0].int() - BACKGROUND - STEP * (label + 1)).abs() <= 1).float()[None, None]
    wide = torch.nn.functional.pad(same, [border] * 4, mode="replicate")
    seen = torch.nonzero(-torch.nn.functional.max_pool2d(-wide, 2 * border + 1, 1)[0, 0] == 1)
    if not len(seen):
        return None
    low, high = seen.amin(0) - border, seen.amax(0) + 1 + border
    return torch.tensor([low[1], low[0], high[1], high[0]])


@settings(deadline=None)
@given(seeds, st.integers(0, 3))
def test_a_window_shows_its_things_where_their_boxes_are_and_never_loses_all(seed: int, number: int) -> None:
    image, target, lost, boxes = augmented(RandomWindow(p=1, least=0.3), seed, number)
    is_whole(image, target, boxes)
    assert lost == 2 - len(boxes)
    assert len(boxes) >= 1
    for box, label in zip(boxes, target.labels.tolist(), strict=True):
        found = place_of(image, label, 0)
        assert found is not None and (box - found).abs().max() <= 0.001


@given(seeds, st.floats(0.1, 1))
def test_a_window_has_the_shape_of_its_image(seed: int, least: float) -> None:
    torch.manual_seed(seed)
    image, boxes = torch.zeros(3, 60, 100, dtype=torch.uint8), torch.tensor([[10.0, 5.0, 30.0, 25.0]])
    window, _ = RandomWindow(p=1, least=least)(image, boxes)
    height, width = window.shape[1:]
    assert abs(height / 60 - width / 100) <= 1 / 60


def test_a_window_holds_the_whole_of_one_thing_and_drops_what_it_shows_too_little_of() -> None:
    whole, dropped = 0, 0
    for seed in range(60):
        _, target, lost, boxes = augmented(RandomWindow(p=1, least=0.3, least_visible=0.5), seed)
        truth = scale_boxes(cxcywh_to_xyxy(scene(0)[1].boxes), 64.0, 48.0)[target.labels]
        shares = (boxes[:, 2:] - boxes[:, :2]).prod(1) / (truth[:, 2:] - truth[:, :2]).prod(1)
        assert shares.max() > 0.999
        assert shares.min() >= 0.499
        whole += len(boxes) == 2
        dropped += lost > 0
    assert whole and dropped


@settings(deadline=None)
@given(seeds, st.integers(0, 3))
def test_a_mosaic_shows_four_images_each_thing_under_its_box(seed: int, number: int) -> None:
    image, target, lost, boxes = augmented(Mosaic(p=1), seed, number)
    assert image.shape[1:] == SIZES[number]
    is_whole(image, target, boxes)
    assert lost == 8 - len(boxes)
    for box, label in zip(boxes, target.labels.tolist(), strict=True):
        found = place_of(image, label, 1)
        if (box[2:] - box[:2]).min() >= 6:  # a smaller one may be nothing but mixed pixels
            assert found is not None
            assert (box - found).abs().max() <= 2.5


def test_a_mosaic_holds_things_of_this_image_and_of_others_at_several_scales() -> None:
    labels, widths = set[int](), set[int]()
    for seed in range(30):
        _, target, _, boxes = augmented(Mosaic(p=1), seed)
        labels |= set(target.labels.tolist())
        widths |= {int(w) for w in (boxes[:, 2] - boxes[:, 0]).tolist()}
    assert labels == set(range(8))
    assert len(widths) > 10


@settings(deadline=None)
@given(seeds)
def test_a_mixup_shows_two_images_and_keeps_the_boxes_of_both(seed: int) -> None:
    image, target, lost, boxes = augmented(Mixup(p=1), seed, 3)
    (own, truth), (other, _) = scene(3), scene(0)
    is_whole(image, target, boxes)
    assert image.shape == own.shape
    assert lost == 4 - len(boxes)
    assert target.labels[:2].tolist() == truth.labels.tolist()
    torch.testing.assert_close(target.boxes[:2], truth.boxes)
    things = set()
    for box, label in zip(boxes[2:], target.labels[2:].tolist(), strict=True):
        x, y = ((box[:2] + box[2:]) / 2).int().tolist()
        theirs = BACKGROUND + STEP * (label + 1)
        mixed, mine = int(image[0, y, x]), int(own[0, y, x])
        assert min(mine, theirs) <= mixed <= max(mine, theirs)
        if abs(mine - theirs) > 50:
            assert 0.35 < (mixed - theirs) / (mine - theirs) < 0.65
        things.add(label)
    assert things <= {0, 1}
    assert other.shape != image.shape


@settings(deadline=None)
@given(seeds, st.integers(0, 3))
def test_a_quarter_turn_takes_boxes_along(seed: int, number: int) -> None:
    image, target, lost, boxes = augmented(RandomQuarterTurn(), seed, number)
    assert lost == 0
    for box, label in zip(boxes, target.labels.tolist(), strict=True):
        found = place_of(image, label, 0)
        assert found is not None and (box - found).abs().max() <= 0.001


def test_quarter_turns_are_four_and_no_mirror_image() -> None:
    image, _ = scene(0)
    turns = {image.rot90(k, (1, 2)).numpy().tobytes() for k in range(4)}
    seen = {augmented(RandomQuarterTurn(), seed)[0].contiguous().numpy().tobytes() for seed in range(40)}
    assert seen == turns


@pytest.mark.parametrize("transform", [Mosaic(p=1), Mixup(p=1), RandomWindow(p=1)], ids=lambda t: type(t).__name__)
def test_it_is_a_function_of_seed_epoch_and_image_and_changes_no_stored_image(transform: Any) -> None:
    stored = [scene(number)[0].clone() for number in range(3)]
    images = [scene(number) for number in range(3)]

    def out(seed: int, epoch: int) -> tuple[torch.Tensor, Target, int]:
        torch.rand(int(torch.randint(50, ())))
        picked = lambda: images[int(torch.randint(3, ()))]  # noqa: E731
        return Augment([], seed, [transform])(*images[0], epoch, strong=True, draw=picked)

    first, again = out(3, 1), out(3, 1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1].boxes, again[1].boxes)
    others = [out(4, 1)[0], out(3, 2)[0]]
    assert any(other.shape != first[0].shape or not torch.equal(other, first[0]) for other in others)
    assert all(torch.equal(image, before) for (image, _), before in zip(images, stored, strict=True))


def test_images_of_any_size_and_without_things_go_through() -> None:
    none = torch.zeros(0, 4)
    for shape in ((1, 1), (1, 40), (2, 2), (7, 30), (8, 8), (9, 300)):
        image = torch.zeros(3, *shape, dtype=torch.uint8)

        def another(given: torch.Tensor = image) -> Sample:
            return given, none

        for seed in range(5):
            torch.manual_seed(seed)
            for transform in (Mosaic(p=1), Mixup(p=1)):
                out, boxes = transform(image, none, another)
                assert out.shape == image.shape and boxes.shape == (0, 4)
            out, boxes = RandomWindow(p=1)(image, none)
            assert min(out.shape) >= 1 and boxes.shape == (0, 4)


def test_strong_transforms_are_left_out_unless_they_are_asked_for() -> None:
    image, target = scene(0)
    augment, draw = Augment([], 0, [Mosaic(p=1)]), lambda: scene(1)
    assert augment(image, target, 0, draw=draw)[0] is image
    assert len(augment(image, target, 0, strong=True)[1].boxes) == 2  # nothing to draw from: as it was
    assert not torch.equal(augment(image, target, 0, strong=True, draw=draw)[0], image)


def test_what_fills_the_window_keeps_its_box_however_small_its_part_is() -> None:
    table, beside = [0.0, 0, 1000, 1000], [300.0, 300, 420, 420]
    kept = within(torch.tensor([table, beside]), 400, 400, 400, 400, 0.3)
    assert kept[0].tolist() == [0, 0, 400, 400]
    assert kept[1].prod() == 0 or kept[1, 2:].min() == 0


def test_within_cuts_at_the_edge_and_drops_what_is_mostly_outside() -> None:
    boxes = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [8.0, 8.0, 18.0, 18.0], [30.0, 30.0, 40.0, 40.0], [5.0, 5.0, 5.0, 5.0]]
    )
    inside = within(boxes, 5, 0, 20, 20, 0.5)
    assert inside.tolist() == [[0.0, 0.0, 5.0, 10.0], [3.0, 8.0, 13.0, 18.0], [0.0] * 4, [0.0] * 4]
    assert within(boxes, 5, 0, 20, 20, 0.51)[0].tolist() == [0.0] * 4


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Mosaic needs scales \[least, most\] above 0, not \[2, 1\]"):
        Mosaic(scales=[2, 1])
    with pytest.raises(ConfigError, match="RandomWindow needs least above 0 and at most 1, not 0"):
        RandomWindow(least=0)
    with pytest.raises(ConfigError, match=r"Mixup needs least_visible above 0 and at most 1, not 1\.5"):
        Mixup(least_visible=1.5)
