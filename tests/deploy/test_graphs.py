"""The parts of an exported file that are written by hand compute what `predict` does: sizes, pixels, suppression."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from detr_mini.deploy import graphs, openvino_folder
from detr_mini.images.model_input import target_size, to_model_input
from detr_mini.models.heads import suppress
from detr_mini.structures import Categories, Detections

onnx = pytest.importorskip("onnx", reason="the package onnx of the extra 'export' is not installed")
ort = pytest.importorskip("onnxruntime", reason="the package onnxruntime of the extra 'export' is not installed")
NORM = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def session(text: str) -> Any:
    return ort.InferenceSession(onnx.parser.parse_model(text).SerializeToString())


def openvino_runner(text: str) -> Any:
    pytest.importorskip("openvino", reason="the package openvino of the extra 'export' is not installed")
    core = openvino_folder.core()
    model = core.read_model(onnx.parser.parse_model(text).SerializeToString())
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(names: list[str], given: dict[str, Any]) -> list[Any]:
        found = compiled(given)
        return [found[name] for name in names]

    return SimpleNamespace(run=run)


@pytest.mark.parametrize("runtime", [session, openvino_runner])
@pytest.mark.parametrize(("size", "shorter_side"), [(64, None), (37, None), (133, 80), (100, 30)])
def test_pictures_are_prepared_as_by_predict(runtime: Any, size: int, shorter_side: int | None) -> None:
    image = {"size": size, "shorter_side": shorter_side, **NORM}
    prepare, rng = runtime(graphs.prepare(image)), np.random.default_rng(size)
    sizes = [(64, 64), (1, 1), (30, 30), (80, 133), (3, 260), *rng.integers(1, 160, (40, 2)).tolist()]
    for height, width in sizes:
        pixels = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        given, original = prepare.run(["images", "sizes"], {"pixels": pixels})
        assert given.shape[2:] == target_size((height, width), size, shorter_side)
        assert original.tolist() == [[height, width]] * 2
        for row in range(2):
            expected = to_model_input(torch.from_numpy(pixels[row]).permute(2, 0, 1).contiguous(), **image)
            levels = np.abs(given[row] - expected.numpy()) * 255 * np.array(NORM["std"], np.float32)[:, None, None]
            assert levels.max() < 1.01
            assert (levels > 0.01).mean() < 0.001  # a sum in another order, where a value is a half


def test_halves_are_rounded_as_python_rounds_them() -> None:
    prepare = session(graphs.prepare({"size": 10, "shorter_side": None, **NORM}))
    for short in range(1, 41):  # short * 10 / 40 is a half for every second even number
        (given,) = prepare.run(["images"], {"pixels": np.zeros((1, short, 40, 3), np.uint8)})
        assert given.shape[2:] == target_size((short, 40), 10)


@pytest.mark.parametrize("iou", [0.3, 0.7, None])
def test_doubles_are_suppressed_as_by_detect_and_rows_keep_their_places(iou: float | None) -> None:
    torch.manual_seed(0)
    count, classes = 30, 4
    finish = session(graphs.finish(classes, count, iou))
    centre = torch.rand(2, 6, 2).repeat(1, count // 6, 1) * 0.5 + 0.05 * torch.rand(2, count, 2)
    fractions = torch.cat([centre, centre + 0.3 + 0.1 * torch.rand(2, count, 2)], -1)
    best, kinds = torch.rand(2, count).sort(descending=True).values, torch.randint(classes, (2, count))
    sizes = torch.tensor([[100, 300], [70, 40]])
    given = {"fractions": fractions, "best": best, "kinds": kinds, "sizes": sizes}
    boxes, scores, labels = finish.run(["boxes", "scores", "labels"], {k: v.numpy() for k, v in given.items()})
    names = Categories(tuple(range(classes)), tuple("abcd"))
    for row, (height, width) in enumerate(sizes.tolist()):
        all_of_it = Detections(fractions[row] * torch.tensor([width, height] * 2), best[row], kinds[row], names)
        torch.testing.assert_close(torch.from_numpy(boxes[row]), all_of_it.boxes)
        kept = scores[row] != graphs.SUPPRESSED
        expected = suppress(all_of_it, iou)
        assert scores[row][kept].tolist() == expected.scores.tolist()
        assert labels[row][kept].tolist() == expected.labels.tolist()
        assert kept.all() == (iou is None)
