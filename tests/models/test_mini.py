"""The mini model: an image alone is an image in company; queries from the image; training's extras."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from detr_mini.attention.kinds import KINDS
from detr_mini.config.compose import compose
from detr_mini.data.collate import collate
from detr_mini.errors import ConfigError
from detr_mini.losses.criterion import DetectionCriterion, matchability_loss
from detr_mini.losses.matcher import focal_cost
from detr_mini.models.build import build_model
from detr_mini.models.denoising import DenoisingQueries
from detr_mini.models.mini import MiniDETR
from detr_mini.structures import Batch, Categories, Target, pack_targets
from detr_mini.vision.convnet import ConvNet

CATEGORIES = Categories((1, 2, 5), ("a", "b", "c"))
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def model() -> MiniDETR:
    return make()


def make(classes: int = 3, queries: int = 8, **more: Any) -> MiniDETR:
    torch.manual_seed(0)
    usual = {"backbone": ConvNet(channels=(4, 8, 16, 32), blocks=(0, 1, 1, 1)), "dim": 32, "heads": 2,
             "feedforward": 48, "sample_channels": 8}  # fmt: skip
    model = MiniDETR(num_classes=classes, queries=queries, **{**usual, **more})
    with torch.no_grad():  # an untrained model says nearly the same of everything
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def target(n: int, image_id: int, size: tuple[int, int]) -> Target:
    generator = torch.Generator().manual_seed(image_id)
    boxes = torch.rand(n, 4, generator=generator) * 0.3 + 0.3
    labels = torch.randint(0, 3, (n,), generator=generator)
    return Target(boxes, labels, image_id, size, torch.zeros(n, dtype=torch.bool), torch.ones(n))


def batch(sizes: list[tuple[int, int]], counts: list[int] | None = None) -> Batch:
    images = [torch.randn(3, *s, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(sizes)]
    counts = counts or [0] * len(sizes)
    return collate(images, [target(n, i, s) for i, (n, s) in enumerate(zip(counts, sizes, strict=True))], 16)


sides = st.integers(8, 80)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(sides, sides), min_size=2, max_size=4))
@example([(64, 32), (32, 64)])  # alone, these need no mask at all
@example([(3, 5), (64, 64)])  # alone, fewer tokens than queries
def test_an_image_alone_and_padded_among_others_gives_the_same_detections(
    model: MiniDETR, sizes: list[tuple[int, int]]
) -> None:
    whole = batch(sizes)
    with torch.no_grad():
        together = model.postprocess(model(whole.images, whole.mask()), sizes, CATEGORIES)
        for i, size in enumerate(sizes):
            image = whole.images[i : i + 1, :, : size[0], : size[1]]
            one = collate([image[0]], [target(0, 0, size)], 16)
            alone = model.postprocess(model(one.images, one.mask()), [size], CATEGORIES)[0]
            n = len(alone)
            torch.testing.assert_close(together[i].scores[:n], alone.scores, rtol=1e-4, atol=1e-5)
            # equal scores may stand in either order: compare the boxes of each detection with its nearest twin
            distance = torch.cdist(alone.boxes, together[i].boxes[:n]).min(1).values
            assert distance.max() < 1e-4 * max(size) + 1e-3


def test_the_order_of_the_batch_means_nothing(model: MiniDETR) -> None:
    given_batch = batch([(48, 64), (64, 32), (32, 32)])
    mask = given_batch.mask()
    assert mask is not None
    with torch.no_grad():
        one = model(given_batch.images, mask)
        other = model(given_batch.images.flip(0), mask.flip(0))
    torch.testing.assert_close(other.logits.flip(0), one.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.boxes.flip(0), one.boxes, rtol=1e-4, atol=1e-5)


def test_evaluation_is_deterministic_and_different_images_differ(model: MiniDETR) -> None:
    given_batch = batch([(48, 64), (48, 64)])
    with torch.no_grad():
        first, second = model(given_batch.images), model(given_batch.images)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.boxes, second.boxes)
    assert not torch.allclose(first.logits[0], first.logits[1], atol=1e-3)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(sides, sides, st.integers(0, 4)), min_size=2, max_size=3), st.integers(0, 10**6))
@example([(64, 32, 2), (32, 64, 1)], 0)
@example([(64, 64, 3), (32, 32, 0), (9, 17, 2)], 1)
def test_a_padded_batch_costs_the_sum_of_its_images_alone(images: list[tuple[int, int, int]], step: int) -> None:
    """Model and losses together, in training: proposals, one-to-many head, denoising, every layer."""
    model = make().train()
    whole = batch([(h, w) for h, w, _ in images], [n for *_, n in images])

    def total(given_batch: Batch) -> Tensor:
        noised = model.noised_truths(given_batch.packed, given_batch.image_ids, seed=0, step=step)
        return criterion()(model(given_batch.images, given_batch.mask(), denoising=noised), given_batch.packed).total

    with torch.no_grad():
        alone = [
            total(collate([whole.images[i, :, :h, :w]], [whole.targets[i]], 16)) for i, (h, w, _) in enumerate(images)
        ]
        torch.testing.assert_close(total(whole), torch.stack(alone).sum(), rtol=1e-4, atol=1e-3)


def test_attention_maps_are_weights_over_visible_tokens(model: MiniDETR) -> None:
    given_batch = batch([(64, 64), (32, 48)])
    output = model(given_batch.images, given_batch.mask(), need_attention=True)
    assert output.attention is not None
    height, width = output.attention.size
    assert len(output.attention.cross) == len(model.decoder)
    for weights in output.attention.cross:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, weights.shape[1]))
        small = weights[1].reshape(-1, height, width)
        assert small[:, 4:].abs().max() == small[:, :, 6:].abs().max() == 0
    plain = model(given_batch.images, given_batch.mask())
    assert plain.attention is None
    torch.testing.assert_close(plain.logits, output.logits)


def test_attention_maps_are_the_weights_that_were_used() -> None:
    model, used = make(), []
    for layer in model.decoder:
        layer.cross_attention.attention.register_forward_hook(
            lambda module, args, _: used.append(module.weights(args[0], args[1], *args[3:]).mean(1))
        )
    given_batch = batch([(64, 64), (32, 48)])
    output = model(given_batch.images, given_batch.mask(), need_attention=True)
    assert output.attention is not None
    assert len(used) == 2
    for shown, weights in zip(output.attention.cross, used, strict=True):
        torch.testing.assert_close(shown, weights, rtol=1e-4, atol=1e-6)


def test_an_image_with_fewer_tokens_than_queries_works(model: MiniDETR) -> None:
    tiny = batch([(8, 8), (64, 64)])
    found = model.postprocess(model(tiny.images, tiny.mask()), [(8, 8), (64, 64)], CATEGORIES)
    assert all(d.boxes.isfinite().all() for d in found)
    alone = batch([(8, 8)])
    assert model(alone.images, alone.mask()).logits.shape[1] <= 8


def test_one_class_is_enough() -> None:
    model = make(classes=1)
    assert model(torch.randn(1, 3, 32, 32)).logits.shape == (1, 8, 1)
    given_batch = batch([(32, 32)], [0])
    found = model.postprocess(model(given_batch.images), [(320, 640)], Categories((9,), ("only",)))[0]
    assert found.names == ("only",) * 8
    assert (found.scores.diff() <= 0).all()
    one = Target(torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.zeros(1).long(), 0, (32, 32), torch.zeros(1).bool(),
                 torch.ones(1))  # fmt: skip
    packed = pack_targets([one])
    noised = model.noised_truths(packed, [0], seed=0, step=0)
    total = criterion()(model.train()(given_batch.images, None, denoising=noised), packed).total
    total.backward()
    assert total.isfinite()


def test_training_alone_carries_proposals_and_denoising() -> None:
    model = make()
    given_batch = batch([(32, 32), (32, 32)], [2, 0])
    in_evaluation = model(given_batch.images)
    assert in_evaluation.proposals is in_evaluation.one_to_many is in_evaluation.denoising is None
    model.train()
    assert model(given_batch.images).denoising is None
    noised = model.noised_truths(given_batch.packed, given_batch.image_ids, seed=0, step=0)
    output = model(given_batch.images, None, denoising=noised)
    assert output.proposals is not None
    assert output.one_to_many is not None
    assert output.denoising is not None
    assert len(output.denoising.layers) == 2
    assert output.logits.shape == in_evaluation.logits.shape
    assert output.denoising.layers[0].logits.shape == (2, 4, 3)
    # the two heads on the memory are two: each learns from its own matching
    assert not torch.allclose(output.proposals.logits, output.one_to_many.logits)


def test_training_and_evaluation_say_the_same_of_an_image() -> None:
    model = make()
    given_batch = batch([(32, 48), (48, 32)])
    in_evaluation = model(given_batch.images, given_batch.mask())
    in_training = model.train()(given_batch.images, given_batch.mask())
    assert torch.equal(in_evaluation.logits, in_training.logits)
    assert torch.equal(in_evaluation.boxes, in_training.boxes)


def test_a_denoising_query_sees_the_other_denoising_queries_and_not_padding() -> None:
    model = make().train()
    given_batch = batch([(32, 32), (32, 32)], [1, 3])
    noised = model.noised_truths(given_batch.packed, given_batch.image_ids, seed=0, step=0)
    boxes = noised.boxes.clone()
    boxes[0, 1] = boxes[1, 1] = torch.tensor([0.8, 0.8, 0.1, 0.3])  # padding in the first image, a truth in the second

    def denoised(queries: DenoisingQueries) -> Tensor:
        output = model(given_batch.images, None, denoising=queries).denoising
        assert output is not None
        return output.layers[-1].logits[:, 0]

    other_labels = replace(noised, labels=(noised.labels + 1) % 3)
    assert (denoised(noised) - denoised(other_labels)).abs().amax() > 1e-4, "a query says which class it was told"
    change = (denoised(noised) - denoised(replace(noised, boxes=boxes))).abs().amax(-1)
    assert change[0] < 1e-6
    assert change[1] > 1e-4


def test_the_close_look_reads_the_image_inside_the_querys_box_only() -> None:
    model = make().train()
    for layer in model.decoder:  # nothing but the close look is left
        for attention in (layer.self_attention, layer.cross_attention.attention):
            attention.out_proj.weight.data.zero_()
    images = torch.randn(2, 3, 96, 192)
    mask = torch.zeros(2, 96, 192, dtype=torch.bool)
    mask[1, 64:], mask[1, :, 160:] = True, True
    images = images.masked_fill(mask[:, None], 0).requires_grad_()
    one = torch.ones(2, 1, dtype=torch.bool)
    box = torch.tensor([0.75, 0.3, 0.1, 0.2]).expand(2, 1, 4)
    noised = DenoisingQueries(box, torch.zeros(2, 1).long(), torch.zeros(2, 1).long(), one, one)
    output = model(images, mask, denoising=noised)
    assert output.denoising is not None
    output.denoising.layers[0].logits.sum().backward()
    assert images.grad is not None
    for row, (height, width) in enumerate(((96, 192), (64, 160))):
        seen = images.grad[row].abs().sum(0) > 0
        for axis, centre, size in ((0, 0.75 * width, 0.1 * width), (1, 0.3 * height, 0.2 * height)):
            place = seen.any(axis).nonzero().flatten()
            # convolutions up to stride 4 look some 16 pixels further
            assert centre - size * 0.6 - 20 <= place.min() <= centre
            assert centre <= place.max() <= centre + size * 0.6 + 20


def test_an_earlier_layer_gets_no_gradient_from_a_later_layers_boxes() -> None:
    model = make().train()
    model(batch([(32, 32)]).images).boxes.sum().backward()
    assert model.heads[0].move[0].weight.grad is None
    assert model.heads[1].move[0].weight.grad.any()
    assert model.propose.move[0].weight.grad is None


def test_no_matching_query_sees_a_denoising_query() -> None:
    model = make().train()
    given_batch = batch([(32, 32), (48, 32)], [2, 3])
    answers = []
    for step in (0, 1):
        noised = model.noised_truths(given_batch.packed, given_batch.image_ids, seed=0, step=step)
        answers.append(model(given_batch.images, given_batch.mask(), denoising=noised))
    torch.testing.assert_close(answers[0].logits, answers[1].logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answers[0].boxes, answers[1].boxes, rtol=1e-5, atol=1e-6)
    plain = model(given_batch.images, given_batch.mask())
    torch.testing.assert_close(answers[0].logits, plain.logits, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient_even_without_any_box() -> None:
    model = make().train()
    given_batch = batch([(32, 32)], [0])
    noised = model.noised_truths(given_batch.packed, given_batch.image_ids, seed=0, step=0)
    losses = criterion()(model(given_batch.images, None, denoising=noised), given_batch.packed)
    losses.total.backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing, "DDP would wait for these"
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def criterion() -> DetectionCriterion:
    return DetectionCriterion(class_cost=focal_cost, class_loss=matchability_loss, cost_class=2.0, weight_giou=2.0)


def test_two_images_are_learned_in_sixty_steps() -> None:
    model = make().train()
    given_batch = batch([(48, 48), (48, 48)], [2, 3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals: list[Tensor] = []
    for step in range(60):
        noised = model.noised_truths(given_batch.packed, given_batch.image_ids, seed=0, step=step)
        total = criterion()(model(given_batch.images, None, denoising=noised), given_batch.packed).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.detach())
    assert totals[-1] < 0.5 * totals[0]


def test_packed_truths_of_the_batch_are_those_of_its_targets() -> None:
    given_batch = batch([(32, 32), (32, 32)], [2, 1])
    assert pack_targets(given_batch.targets).counts == given_batch.packed.counts == (2, 1)


@pytest.mark.parametrize(
    "kinds",
    [
        *({"encoder": {"attention": kind, "window": 1, "size": [9, 9], "rank": 4, "features": 16}} for kind in KINDS),
        {"decoder": {"cross_attention": "deformable", "points": 3}},
        {"similarity": "cosine"},
        {"similarity": "root_length"},
        {"similarity": "dot"},
    ],
    ids=str,
)
def test_every_kind_of_attention_keeps_padding_out_learns_and_says_where_it_looks(kinds: dict[str, Any]) -> None:
    model = make(**kinds)
    sizes = [(40, 64), (64, 24), (32, 32)]
    whole = batch(sizes, [2, 1, 3])
    with torch.no_grad():
        together = model(whole.images, whole.mask(), need_attention=True)
        for i, (h, w) in enumerate(sizes):
            one = collate([whole.images[i, :, :h, :w]], [target(0, 0, (h, w))], 16)
            alone = model(one.images, one.mask())
            torch.testing.assert_close(
                together.logits[i].sigmoid().sort(0).values, alone.logits[0].sigmoid().sort(0).values, rtol=0, atol=1e-4
            )
    assert together.attention is not None
    for looked in together.attention.cross:
        assert (looked >= 0).all()
        assert (looked.sum(-1) <= 1 + 1e-5).all()
        on_padding = looked.unflatten(2, together.attention.size)[1, :, :, 3:]
        if "decoder" not in kinds:  # a deformable query may look at padding, whose value is zero
            assert not on_padding.any()
    model.train()
    output = model(whole.images, whole.mask())
    (output.logits.square().sum() + output.boxes.square().sum()).backward()
    parts = {name: p for name, p in model.named_parameters() if "encoder." in name or "cross_attention" in name}
    for name, parameter in parts.items():
        if not name.endswith("k_proj.bias"):
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_with_a_backbone_of_one_stride_padding_is_kept_out_and_the_loss_is_finite() -> None:
    model = make(backbone=ConvNet(channels=(8,), blocks=(1,)))
    sizes = [(16, 32), (32, 12)]
    whole = batch(sizes, [2, 1])
    with torch.no_grad():
        together = model(whole.images, whole.mask(), need_attention=True)
        for i, (h, w) in enumerate(sizes):
            one = collate([whole.images[i, :, :h, :w]], [target(0, 0, (h, w))], 16)
            alone = model(one.images, one.mask())
            torch.testing.assert_close(
                together.logits[i].sigmoid().sort(0).values, alone.logits[0].sigmoid().sort(0).values, rtol=0, atol=1e-4
            )
    assert together.attention is not None
    assert together.attention.size == (16, 16)
    noised = model.noised_truths(whole.packed, whole.image_ids, seed=0, step=0)
    total = criterion()(model.train()(whole.images, whole.mask(), denoising=noised), whole.packed).total
    total.backward()
    assert total.isfinite()


@pytest.mark.parametrize("config", sorted({path.stem for path in (CONFIGS / "backbone").glob("*.yaml")} - {"own"}))
def test_mini_is_built_from_configs_on_every_backbone(config: str) -> None:
    backbone = compose("train", [f"backbone={config}"]).backbone
    if "weights" in backbone:
        backbone.weights = "none"
    if "lite0" in config:
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    model = build_model(OmegaConf.load(CONFIGS / "model" / "mini.yaml").model, backbone, 5).eval()
    images, mask = torch.randn(2, 3, model.stride * 2, model.stride), torch.zeros(2, model.stride * 2, model.stride)
    mask[1, model.stride :] = 1
    with torch.no_grad():
        output = model(images.masked_fill(mask[:, None] == 1, 0), mask == 1)
    assert output.logits.shape[::2] == (2, 5)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"decoder": {"layers": 0}}, r"model\.decoder\.layers is 0; it must be at least 1"),
        ({"dim": 90, "heads": 3}, r"model\.dim is 90; it must be a multiple of 4"),
        ({"encoder": {"attention": "windowed", "window": 0}}, r"model\.encoder\.window is 0; it must be at least 1"),
        ({"encoder": {"attention": "linformer", "size": [9]}}, r"model\.encoder\.size is \[9\]; it must be two"),
    ],
)
def test_settings_that_no_image_could_pass_are_refused_when_the_model_is_built(
    wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make(**wrong)


def test_kinds_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="attention 'dens' does not exist; did you mean 'dense'"):
        make(encoder={"attention": "dens"})
    with pytest.raises(ConfigError, match="cross-attention 'sparse' does not exist; the kinds are dense, deformable"):
        make(decoder={"cross_attention": "sparse"})
