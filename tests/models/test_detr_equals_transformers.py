"""DETR as published: the same numbers as transformers' implementation, of the same random weights."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")
pytest.importorskip("timm", reason="the extra 'timm' is not installed")

from transformers import DetrConfig, DetrForObjectDetection
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss, HungarianMatcher

from detr_mini.losses.set_criterion import SetCriterion
from detr_mini.models.detr import DETR
from detr_mini.pretrained.detr_keys import from_library
from detr_mini.structures import DetectorOutput, PackedTargets, Target, pack_targets
from detr_mini.vision.backbone import resnet

SMALL = {"dim": 32, "heads": 4, "feedforward": 48, "encoder_layers": 2, "decoder_layers": 3, "queries": 9}
FULL = {"dim": 256, "heads": 8, "feedforward": 2048, "encoder_layers": 6, "decoder_layers": 6, "queries": 100}
CLASSES = 91
PUBLISHED_LOSS: dict[str, Any] = {"no_object_weight": 0.1, "cost_class": 1.0, "cost_l1": 5.0, "cost_giou": 2.0,
                                  "weight_class": 1.0, "weight_l1": 5.0, "weight_giou": 2.0}  # fmt: skip


def pair(depth: int, dilation: bool, sizes: dict[str, int], frozen_stride: int = 4) -> tuple[DETR, Any]:
    """Ours and the library's, with the same random weights and running statistics."""
    torch.manual_seed(0)
    config = DetrConfig(
        d_model=sizes["dim"], encoder_layers=sizes["encoder_layers"], decoder_layers=sizes["decoder_layers"],
        encoder_attention_heads=sizes["heads"], decoder_attention_heads=sizes["heads"],
        encoder_ffn_dim=sizes["feedforward"], decoder_ffn_dim=sizes["feedforward"], num_queries=sizes["queries"],
        num_labels=CLASSES, dropout=0.0, use_timm_backbone=True, backbone=f"resnet{depth}", dilation=dilation,
        use_pretrained_backbone=False,
    )  # fmt: skip
    theirs = DetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            if "running_mean" in name or name.endswith("bias"):
                value.normal_(std=0.1)
            elif name.startswith(("class_labels", "bbox")):
                value.normal_(std=1.7 / sizes["dim"] ** 0.5)
            elif re.search(r"decoder.*[qkvo]_proj.weight", name):  # else all queries say nearly the same
                value.mul_(4 if sizes["dim"] < 100 else 2)
            elif "query_position" in name:
                value.normal_()
    spread_features(theirs)
    backbone = resnet(depth=depth, weights="none", strides=[16 if dilation else 32], dilation=dilation,
                      frozen_stride=frozen_stride)  # fmt: skip
    ours = DETR(backbone=backbone, num_classes=CLASSES, dropout=0.0, padding="published", **sizes)
    ours.load_state_dict(from_library(theirs.state_dict()))
    return ours.eval(), theirs


def spread_features(model: Any) -> None:
    """Have the cells of a map differ: of a random network they are nearly the same, and all queries then agree.

    The statistics of each norm become those of its input, as in a trained network; rounding then stays small.
    """

    def settle(norm: Any, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)) + 0.1 * norm.bias)
        norm.running_var.copy_(inputs[0].var((0, 2, 3)) * (1.5 + norm.bias.tanh()))

    with torch.no_grad():
        images = torch.randn(4, 3, 192, 256, generator=torch.Generator().manual_seed(3))
        norms = [module for module in model.modules() if hasattr(module, "running_var")]
        hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
        model.model.backbone(images, torch.ones(4, 192, 256))
        for hook in hooks:
            hook.remove()
        project = model.model.input_projection
        found = project(model.model.backbone(images, torch.ones(4, 192, 256))[-1][0])
        std, mean = found.std((0, 2, 3)), found.mean((0, 2, 3))
        project.bias.copy_((project.bias - mean) / std)
        project.weight.div_(std[:, None, None, None])


def layers_of_library(model: Any, images: Tensor, mask: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """Logits and boxes of each decoder layer.

    From hooks: where the library is asked for auxiliary outputs, it hands the normed features on to the next layer,
    which neither the published code does nor the library without them.
    """
    features: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, output: features.append(output))
             for layer in model.model.decoder.layers]  # fmt: skip
    visible = None if mask is None else (~mask).long()
    final = model(pixel_values=images, pixel_mask=visible)
    for hook in hooks:
        hook.remove()
    normed = [model.model.decoder.layernorm(f[0] if isinstance(f, tuple) else f) for f in features]
    layers = [(model.class_labels_classifier(x), model.bbox_predictor(x).sigmoid()) for x in normed]
    torch.testing.assert_close(layers[-1], (final.logits, final.pred_boxes), rtol=0, atol=0)
    return layers


def layers_of(output: DetectorOutput) -> list[tuple[Tensor, Tensor]]:
    return [(layer.logits, layer.boxes) for layer in (*output.auxiliary, output.final)]


def batch(shapes: list[tuple[int, int]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Images of these heights and widths, padded as in the published code, and the mask of the padding."""
    torch.manual_seed(1)
    height, width = (max(sides) for sides in zip(*shapes, strict=True))
    images, mask = (
        torch.zeros(len(shapes), 3, height, width, dtype=dtype),
        torch.ones(len(shapes), height, width).bool(),
    )
    for row, (h, w) in enumerate(shapes):
        images[row, :, :h, :w] = torch.randn(3, h, w, dtype=dtype)
        mask[row, :h, :w] = False
    return images, mask


def truths(counts: tuple[int, ...]) -> PackedTargets:
    torch.manual_seed(2)
    targets = []
    for image_id, n in enumerate(counts):
        boxes = torch.cat([torch.rand(n, 2) * 0.4 + 0.3, torch.rand(n, 2) * 0.4 + 0.05], 1)
        crowd, area = torch.zeros(n, dtype=torch.bool), torch.ones(n)
        targets.append(Target(boxes, torch.randint(0, CLASSES, (n,)), image_id, (64, 64), crowd, area))
    return pack_targets(targets)


NETWORKS = [(50, False), (50, True), (101, False)]
BOUNDS = [(torch.float32, 1e-5), (torch.float64, 1e-9)]


@pytest.mark.parametrize(("depth", "dilation"), NETWORKS)
def test_every_decoder_layer_gives_what_transformers_gives(depth: int, dilation: bool) -> None:
    ours, theirs = pair(depth, dilation, SMALL)
    for (dtype, bound), shapes in itertools.product(BOUNDS, ([(75, 101)], [(64, 96), (90, 50), (33, 120)])):
        ours, theirs = ours.to(dtype), theirs.to(dtype)
        images, mask = batch(shapes, dtype)
        with torch.no_grad():
            expected = layers_of_library(theirs, images, mask)
            given = layers_of(ours(images, mask))
            if len(shapes) == 1:
                torch.testing.assert_close(layers_of(ours(images)), given, rtol=0, atol=bound)
        assert len(given) == 3
        assert given[0][0].std() > 0.01
        torch.testing.assert_close(given, expected, rtol=0, atol=bound)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize(("depth", "dilation"), [*NETWORKS, (101, True)])
def test_the_published_sizes_give_what_transformers_gives(
    depth: int, dilation: bool, dtype: torch.dtype, bound: float
) -> None:
    ours, theirs = (model.to(dtype) for model in pair(depth, dilation, FULL))
    images, mask = batch([(200, 267), (256, 150)], dtype)
    with torch.no_grad():
        expected, given = layers_of_library(theirs, images, mask), layers_of(ours(images, mask))
    torch.testing.assert_close(given, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(("dilation", "counts"), [(False, (3, 0, 5)), (False, (0, 0, 0)), (True, (1, 2, 12))])
def test_losses_matched_pairs_and_gradients_are_those_of_transformers(counts: tuple[int, ...], dilation: bool) -> None:
    ours, theirs = (model.double() for model in pair(50, dilation, SMALL, frozen_stride=0))
    images, mask = batch([(64, 96), (90, 50), (33, 120)], torch.float64)
    targets = truths(counts)
    labels = [{"class_labels": labels, "boxes": boxes.double()} for boxes, labels in map(targets.of, range(3))]
    layers = layers_of_library(theirs, images, mask)
    config = theirs.config
    config.auxiliary_loss = True
    expected, parts, _ = ForObjectDetectionLoss(
        layers[-1][0].float(), [{k: v if k == "class_labels" else v.float() for k, v in one.items()} for one in labels],
        images.device, layers[-1][1].float(), config, torch.stack([logits for logits, _ in layers]).float(),
        torch.stack([boxes for _, boxes in layers]).float(),
    )  # fmt: skip
    losses = SetCriterion(**PUBLISHED_LOSS)(ours(images, mask), targets)
    shared = max(losses.boxes, 1)
    torch.testing.assert_close((losses.total / shared).float(), expected, rtol=1e-5, atol=0)
    for term, name in (("class", "loss_ce"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
        torch.testing.assert_close((losses.terms[term] / shared).float(), parts[name], rtol=1e-5, atol=1e-7)
    assert layers[-1][1].std(1).max() > 1e-3
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    assert losses.match is not None
    for row, (query, truth) in enumerate(matcher({"logits": layers[-1][0], "pred_boxes": layers[-1][1]}, labels)):
        real = losses.match.valid[row]
        found = dict(zip(losses.match.truth[row][real].tolist(), losses.match.query[row][real].tolist(), strict=True))
        assert found == dict(zip(truth.tolist(), query.tolist(), strict=True))
    expected.backward()
    (losses.total / shared).backward()
    wanted = from_library({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})
    own = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert set(own) == set(wanted)
    assert len(own) > 100
    for name, gradient in own.items():
        torch.testing.assert_close(
            gradient, wanted[name], rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )
