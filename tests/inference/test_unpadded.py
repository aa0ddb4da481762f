"""On a CPU images are computed without padding: the same detections, and the form follows the weights."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector_parts import GROUNDED, MODEL, PlainLinear, untrained
from detr_mini.attention.core import dot, scaled_dot
from detr_mini.attention.kinds import Windowed
from detr_mini.data.collate import collate
from detr_mini.inference import unpadded
from detr_mini.inference.batches import detect_batches, evaluating
from detr_mini.inference.detector import _no_truth
from detr_mini.inference.unpadded import fastest
from detr_mini.models.build import build_model
from detr_mini.structures import Batch, Captions, Categories, Detections, DetectorOutput

RESNET = {"_target_": "detr_mini.vision.resnet", "depth": 18, "weights": "none"}
CATEGORIES = Categories((1, 2, 3), ("a", "b", "c"))
SIZES = ((40, 64), (64, 33), (40, 64), (21, 50), (64, 33), (64, 64))


def batch_of(sizes: tuple[tuple[int, int], ...], stride: int) -> Batch:
    torch.manual_seed(1)
    images = [torch.randn(3, height, width) for height, width in sizes]
    return collate(images, [_no_truth(10 - i, h, w) for i, (h, w) in enumerate(sizes)], stride)


def by_itself(model: Any, batch: Batch) -> list[Detections]:
    with evaluating(model):
        output = model(batch.images, batch.mask())
        found: list[Detections] = model.postprocess(output, [t.original_size for t in batch.targets], CATEGORIES, 5)
    return found


def assert_alike(found: dict[int, Detections], batch: Batch, wanted: list[Detections]) -> None:
    assert list(found) == list(batch.image_ids)
    for one, other in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=0)
        assert torch.equal(one.labels, other.labels)


@pytest.fixture
def model() -> Any:
    return untrained(MODEL)


@pytest.mark.parametrize("sizes", [SIZES, SIZES[:1], ((64, 64),) * 3])
@pytest.mark.parametrize("captions", [False, True])
def test_detections_are_those_of_padded_batches_in_the_order_of_the_images(
    sizes: tuple[tuple[int, int], ...], captions: bool
) -> None:
    model: Any = untrained(GROUNDED, vocabulary=20, attributes=2) if captions else untrained(MODEL)
    batch = batch_of(sizes, model.stride)
    found = detect_batches(model, [batch], CATEGORIES, limit=5, progress=False)
    assert_alike(found, batch, by_itself(model, batch))


def count_calls(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call of the model itself."""
    calls: list[int] = []
    own = type(model).forward

    def forward(self: Any, *given: Any, **more: Any) -> DetectorOutput:
        calls.extend([1] * (self is model))
        output: DetectorOutput = own(self, *given, **more)
        return output

    monkeypatch.setattr(type(model), "forward", forward)
    return calls


def test_a_batch_of_several_shapes_does_not_run_the_padded_model(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(model, monkeypatch)
    batch = batch_of(SIZES, model.stride)
    with evaluating(model):
        rows = [list(rows) for rows, _ in fastest(model, "cpu")(batch)]
    assert not calls
    assert rows == [[0, 2], [1, 4], [3], [5]]


def grown(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def reloaded(model: Any) -> None:
    model.load_state_dict({name: 1.1 * value for name, value in model.state_dict().items()})


def replaced(model: Any) -> None:
    model.propose.classify = nn.Linear(32, 3)


def with_fewer_queries(model: Any) -> None:
    model.queries = 5


def with_distinct_queries(model: Any) -> None:
    model.distinct_iou = 0.05


def with_another_kernel(model: Any) -> None:
    """A kind of attention that has no tensors."""
    model.encoder[0].attention.attention = Windowed(scaled_dot, window=1)


def with_another_similarity(model: Any) -> None:
    model.encoder[0].attention.attention.similarity = dot


CHANGES = [grown, reloaded, replaced, with_fewer_queries, with_distinct_queries, with_another_kernel,
           with_another_similarity]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_detections_follow_a_change_of_the_model(model: Any, change: Callable[[Any], None]) -> None:
    batch = batch_of(SIZES, model.stride)
    before = detect_batches(model, [batch], CATEGORIES, limit=5, progress=False)
    change(model)
    after = detect_batches(model, [batch], CATEGORIES, limit=5, progress=False)
    assert_alike(after, batch, by_itself(model, batch))
    assert not torch.allclose(before[10].scores, after[10].scores, atol=1e-4)


def test_a_model_that_has_not_changed_keeps_its_form(model: Any) -> None:
    batch = batch_of(SIZES, model.stride)
    forms = []
    for _ in range(2):
        detect_batches(model, [batch], CATEGORIES, progress=False)
        by_itself(model, batch)
        forms.append(unpadded._forms[model][1])
    assert forms[0] is forms[1]


def test_statistics_that_are_loaded_after_a_first_pass_are_those_of_the_form() -> None:
    model: Any = build_model(MODEL, RESNET, len(CATEGORIES))
    batch = batch_of(SIZES, model.stride)
    before = by_itself(model, batch)
    state = model.state_dict()
    model.load_state_dict({name: 3 * value if "running_var" in name else value for name, value in state.items()})
    found = detect_batches(model, [batch], CATEGORIES, limit=5, progress=False)
    assert_alike(found, batch, by_itself(model, batch))
    assert not torch.allclose(before[0].scores, found[10].scores, atol=1e-4)


def test_a_detector_that_was_made_in_inference_mode_detects() -> None:
    with torch.inference_mode():
        model: Any = build_model(MODEL, RESNET, len(CATEGORIES)).eval()
    batch = batch_of(SIZES, model.stride)
    found = detect_batches(model, [batch], CATEGORIES, limit=5, progress=False)
    assert_alike(found, batch, by_itself(model, batch))


def test_the_form_of_a_detector_with_captions_holds_no_part_for_captions_and_is_made_when_it_is_used() -> None:
    model: Any = untrained(GROUNDED, vocabulary=20, attributes=2)
    batch, plain = batch_of(SIZES[:2], model.stride), untrained(MODEL)
    spans = ((0, 1), (2, 3), (4, 5))
    captions = Captions(torch.ones(2, 3).long(), torch.zeros(2, 3).bool(), torch.arange(2), (spans, spans))
    detect_batches(model, [replace(batch, captions=captions)], CATEGORIES, progress=False)
    assert model not in unpadded._forms
    for each in (model, plain):
        detect_batches(each, [batch], CATEGORIES, progress=False)
    ours, others = (
        {name: value.shape for name, value in unpadded._forms[each][1].state_dict().items()} for each in (model, plain)
    )
    assert ours == others, "the form of the same detector without captions"


def test_a_model_with_a_hook_computes_itself(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(SIZES, model.stride)
    detect_batches(model, [batch], CATEGORIES, progress=False)
    seen: list[Tensor] = []
    model.propose.register_forward_hook(lambda module, given, output: seen.append(output.logits))
    detect_batches(model, [batch], CATEGORIES, progress=False)
    assert len(seen) == 1


class OwnBackbone(nn.Module):
    """A backbone of one's own may count on sides that are multiples of the stride."""

    mean, std, channels, strides = (0.5,) * 3, (0.25,) * 3, (8, 8), (8, 16)


@pytest.mark.parametrize("kind", ["model of one's own", "backbone of one's own"])
def test_what_others_wrote_gets_padded_batches(kind: str) -> None:
    if kind == "model of one's own":
        other: Any = PlainLinear(2, 2)
    else:
        other = untrained(MODEL)
        other.backbone = OwnBackbone()
    batch = batch_of(SIZES, 32)
    given: list[Tensor] = []
    other.forward = lambda images, mask: given.append(images)
    with evaluating(other):
        list(fastest(other, "cpu")(batch))
    assert len(given) == 1
    assert given[0] is batch.images


def test_the_form_goes_with_its_model() -> None:
    own: Any = untrained(MODEL)
    detect_batches(own, [batch_of(SIZES, own.stride)], CATEGORIES, progress=False)
    form = weakref.ref(unpadded._forms[own][1])
    assert form() is not None
    del own
    gc.collect()
    assert form() is None
