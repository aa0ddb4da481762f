"""Attention maps over the image: a row per detection, a column per layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detr_mini.drawing.attention import MOST, draw_attention
from detr_mini.structures import Categories, Detections

CATEGORIES = Categories((1,), ("bolt",))


def found(n: int) -> Detections:
    boxes = torch.tensor([[2.0, 2, 20, 10]]).expand(n, 4).clone()
    return Detections(boxes, torch.linspace(0.9, 0.5, n), torch.zeros(n, dtype=torch.long), CATEGORIES)


def grey(width: int, height: int) -> torch.Tensor:
    return torch.full((3, height, width), 180, dtype=torch.uint8)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (500, 9), (1, 1)])
@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_images_of_any_size_and_any_number_of_detections_can_be_drawn(size: tuple[int, int], count: int) -> None:
    sheet = draw_attention(grey(*size), found(count), torch.rand(count, 2, size[1], size[0]), side=80)
    assert sheet.width < 3 * 100
    assert sheet.height <= max(1, min(count, MOST)) * 120 + 20 + 9 * 26  # the legend, on narrow sheets in many lines


def test_the_image_is_bright_where_the_weight_lies_and_dimmed_elsewhere() -> None:
    maps = torch.zeros(1, 1, 80, 80)
    maps[..., :, 40:] = 0.01  # how much is of no matter: a map is shown relative to its largest weight
    sheet = np.asarray(draw_attention(grey(80, 80), found(1), maps, side=80).convert("L"), np.float32)
    lit = sheet[40:105, -88:-8]
    assert lit[:, 50:].mean() > 1.6 * lit[:, :30].mean()
    assert np.allclose(lit[:, 55:75], lit[:, 55:75].mean(), atol=3)


def test_a_map_of_zeros_is_dimmed_everywhere() -> None:
    sheet = np.asarray(draw_attention(grey(80, 80), found(1), torch.zeros(1, 1, 80, 80), side=80).convert("L"))
    assert sheet[40:105, -80:-10].max() <= 90
