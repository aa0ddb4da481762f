"""Where queries looked: maps of the detections that `detect` gives, on the picture's own pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detector_parts import CATEGORIES, IMAGE
from detr_mini.errors import UserError
from detr_mini.inference import explain as explaining
from detr_mini.inference import unpadded
from detr_mini.inference.detector import Detector
from detr_mini.inference.explain import explain, trace_query
from detr_mini.models.protocol import ModelDefaults
from detr_mini.structures import Batch, DetectorOutput

SIZES = [(64, 64), (90, 40), (40, 90), (17, 200)]


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_detections_are_those_of_detect_with_a_map_a_layer_on_the_pictures_pixels(
    detector: Detector, size: tuple[int, int]
) -> None:
    found, maps = explain(detector, picture(*size), threshold=0.0)
    alone = detector.detect(picture(*size), threshold=0.0)
    torch.testing.assert_close(found.boxes, alone.boxes)
    torch.testing.assert_close(found.scores, alone.scores)
    assert maps.shape == (len(found), len(detector.model.decoder), size[1], size[0])
    assert (maps >= 0).all()
    assert (maps.sum((2, 3)) > 0).all()


def test_a_map_is_the_attention_of_the_query_that_found_the_thing(detector: Detector) -> None:
    found, maps = explain(detector, picture(64, 64), threshold=0.0)
    (batch,) = detector.batches([picture(64, 64)], 1)
    with torch.no_grad():
        output = detector.model.eval()(batch.images, need_attention=True)
    assert found.queries is not None
    for index, query in enumerate(found.queries.tolist()):
        for layer, attention in enumerate(output.attention.cross):
            cells = nn.functional.interpolate(maps[index, layer][None, None], output.attention.size, mode="area")
            own = attention[0, query].reshape(cells.shape)
            others = torch.cat([attention[0, :query], attention[0, query + 1 :]])
            distance = (cells - own).abs().sum()
            assert (distance <= (others - cells.flatten()).abs().sum(1) + 1e-6).all()


def test_a_trace_is_of_the_query_that_detect_means_where_its_queries_have_other_numbers(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turned(*given: Any) -> Any:
        compute = unpadded.fastest(*given)

        def backwards(batch: Batch) -> Iterator[Any]:
            for rows, output in compute(batch):
                yield rows, replace(output, boxes=output.boxes.flip(1), logits=output.logits.flip(1))

        return backwards

    queries = detector.model.queries
    usual = [trace_query(detector, picture(90, 40), query) for query in range(queries)]
    monkeypatch.setattr(explaining, "fastest", turned)
    for query, wanted in enumerate(reversed(usual)):
        trace = trace_query(detector, picture(90, 40), query)
        assert torch.equal(trace.boxes, wanted.boxes)
        assert torch.equal(trace.maps, wanted.maps)
    with pytest.raises(UserError, match=f"there is no query {queries}"):
        trace_query(detector, picture(90, 40), queries)


def test_where_nothing_is_found_there_are_no_maps(detector: Detector) -> None:
    found, maps = explain(detector, picture(64, 48), threshold=1.0)
    assert len(found) == len(maps) == 0


def test_a_model_that_cannot_say_is_refused() -> None:
    class Silent(ModelDefaults, nn.Module):
        stride = 16

        def forward(self, images: torch.Tensor, mask: object, need_attention: bool) -> DetectorOutput:
            return DetectorOutput(torch.zeros(1, 1, 3), torch.full((1, 1, 4), 0.5))

        def postprocess(self, output: DetectorOutput, sizes: list[tuple[int, int]], categories: object) -> list:
            return [Blank()]

    class Blank:
        queries = None

        def above(self, threshold: float) -> Blank:
            return self

    with pytest.raises(UserError, match="does not say where its queries look"):
        explain(Detector(Silent(), CATEGORIES, IMAGE), picture(32, 32))
