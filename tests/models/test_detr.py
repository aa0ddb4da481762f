"""DETR of 2020: its size, its names, its layers, and what must not matter to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from detr_mini.attention.multihead import MultiHeadAttention
from detr_mini.config.compose import compose
from detr_mini.errors import ConfigError
from detr_mini.models.build import build_model
from detr_mini.models.denoising import DenoisingQueries
from detr_mini.models.detr import DETR
from detr_mini.models.detr_transformer import DecoderLayer, EncoderLayer
from detr_mini.structures import Categories
from detr_mini.vision.backbone import Backbone, resnet
from detr_mini.vision.convnet import ConvNet
from detr_mini.vision.features import Features

CONFIGS = Path(__file__).parents[2] / "configs"


def small(*, queries: int = 7, decoder_layers: int = 2, dropout: float = 0.0) -> DETR:
    torch.manual_seed(0)
    backbone = resnet(depth=18, weights="none", strides=[16])
    with torch.no_grad():  # untrained and not normalised, its features would be far from size one
        features = backbone(torch.randn(1, 3, 64, 64))[-1].tensor
        list(backbone.body.values())[-1][-1].register_forward_hook(lambda *args: args[-1] / features.std())
    model = DETR(
        backbone=backbone,
        num_classes=3,
        dim=32,
        heads=4,
        feedforward=48,
        encoder_layers=2,
        decoder_layers=decoder_layers,
        queries=queries,
        dropout=dropout,
    )
    return model.eval()


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    parts = (ours.q_proj, ours.k_proj, ours.v_proj)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())


def copy_layer(ours: EncoderLayer | DecoderLayer, theirs: nn.Module) -> None:
    for name, module in ours.named_children():
        if isinstance(module, MultiHeadAttention):
            for projection in (module.q_proj, module.k_proj, module.v_proj, module.out_proj):
                nn.init.normal_(projection.bias, std=0.5)
            copy_attention(module, getattr(theirs, name))
        elif not isinstance(module, nn.Dropout):
            getattr(theirs, name).load_state_dict(module.state_dict())


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.data())
def test_encoder_layer_equals_torchs_where_there_are_no_positions(n: int, data: st.DataObject) -> None:
    torch.manual_seed(n)
    ours = EncoderLayer(16, 4, 24, 0.0).double().eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True).double().eval()
    copy_layer(ours, theirs)
    x = torch.randn(2, n, 16, dtype=torch.float64)
    padding = torch.zeros(2, n, dtype=torch.bool)
    padding[0, data.draw(st.integers(1, n)) :] = True
    expected = theirs(x, src_key_padding_mask=padding)
    visible = ~padding
    torch.testing.assert_close(
        ours(x, torch.zeros_like(x), padding[:, None])[visible], expected[visible], rtol=1e-9, atol=1e-10
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 5), st.data())
def test_decoder_layer_equals_torchs_where_there_are_no_positions(n: int, q: int, data: st.DataObject) -> None:
    torch.manual_seed(n)
    ours = DecoderLayer(16, 4, 24, 0.0).double().eval()
    theirs = nn.TransformerDecoderLayer(16, 4, 24, 0.0, batch_first=True).double().eval()
    copy_layer(ours, theirs)
    query, memory = torch.randn(2, q, 16, dtype=torch.float64), torch.randn(2, n, 16, dtype=torch.float64)
    padding = torch.zeros(2, n, dtype=torch.bool)
    padding[0, data.draw(st.integers(1, n)) :] = True
    expected = theirs(query, memory, memory_key_padding_mask=padding)
    result, looked = ours(query, torch.zeros_like(query), memory, torch.zeros_like(memory), padding[:, None])
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-10)
    assert looked is None


def test_positions_go_to_queries_and_keys_but_not_to_values() -> None:
    """The original's `with_pos_embed`, written out with torch's attention."""
    torch.manual_seed(0)
    ours = DecoderLayer(16, 4, 24, 0.0).double().eval()
    theirs = nn.TransformerDecoderLayer(16, 4, 24, 0.0, batch_first=True).double().eval()
    copy_layer(ours, theirs)
    query, query_position = torch.randn(2, 2, 5, 16, dtype=torch.float64)
    memory, position = torch.randn(2, 2, 9, 16, dtype=torch.float64)
    place = query + query_position
    x = theirs.norm1(query + theirs.self_attn(place, place, query)[0])
    looked, weights = theirs.multihead_attn(x + query_position, memory + position, memory)
    x = theirs.norm2(x + looked)
    x = theirs.norm3(x + theirs.linear2(theirs.linear1(x).relu()))
    result, maps = ours(query, query_position, memory, position, None, True)
    torch.testing.assert_close(result, x, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(maps, weights, rtol=1e-6, atol=1e-7)


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    backbone = resnet(depth=50, weights="none", strides=[32], frozen_norm=True, frozen_stride=4)
    settings = OmegaConf.load(CONFIGS / "model" / "detr.yaml").model
    model = build_model(settings, {"_target_": "detr_mini.vision.resnet", "depth": 18, "weights": "none"}, 91)
    assert isinstance(model, DETR)
    model.input_proj = nn.Conv2d(2048, 256, 1)
    model.backbone = backbone
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learn == 41_302_368  # what the original's own log says of detr-r50
    assert learn - sum(p.numel() for p in backbone.parameters() if p.requires_grad) == 18_069_856


def test_names_are_the_published_ones_but_for_the_joined_projections() -> None:
    model = DETR(backbone=resnet(depth=18, weights="none"), num_classes=3, dim=16, heads=2, feedforward=8)
    ours = {name for name in model.state_dict() if not name.startswith("backbone.")}
    joined = {re.sub(r"\.[qkv]_proj\.", ".in_proj_", name) for name in ours}
    attention = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    expected = {"input_proj.weight", "input_proj.bias", "query_embed.weight", "class_embed.weight", "class_embed.bias"}
    expected |= {f"bbox_embed.layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    expected |= {f"transformer.decoder.norm.{kind}" for kind in ("weight", "bias")}
    for part, attentions, norms in (("encoder", ["self_attn"], 2), ("decoder", ["self_attn", "multihead_attn"], 3)):
        others = ["linear1", "linear2", *(f"norm{i + 1}" for i in range(norms))]
        names = [f"{a}.{name}" for a in attentions for name in attention]
        names += [f"{other}.{kind}" for other in others for kind in ("weight", "bias")]
        expected |= {f"transformer.{part}.layers.{i}.{name}" for i in range(6) for name in names}
    assert joined == expected
    assert {"backbone.body.conv1.weight", "backbone.body.layer4.1.bn2.running_var"} <= set(model.state_dict())


def test_projections_start_in_the_published_range() -> None:
    model = small()
    bound = (6 / (4 * 32)) ** 0.5  # xavier over one matrix of 3 x 32 rows and 32 columns
    for layer in model.transformer.decoder.layers:
        largest = layer.self_attn.q_proj.weight.abs().max()
        assert 0.9 * bound < largest <= bound


def test_padding_changes_nothing() -> None:
    model = small()
    first, second = torch.randn(1, 3, 50, 70), torch.randn(1, 3, 96, 40)

    def run(images: list[torch.Tensor], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        canvas = torch.zeros(len(images), 3, height, width)
        mask = torch.ones(len(images), height, width, dtype=torch.bool)
        for row, image in enumerate(images):
            canvas[row, :, : image.shape[2], : image.shape[3]] = image[0]
            mask[row, : image.shape[2], : image.shape[3]] = False
        with torch.no_grad():
            output = model(canvas, mask)
        return output.logits, output.boxes

    together = run([first, second], 96, 112)
    for row, (image, height, width) in enumerate([(first, 64, 80), (second, 96, 48)]):
        for alone, both in zip(run([image], height, width), together, strict=True):
            torch.testing.assert_close(both[row], alone[0], rtol=0, atol=1e-4)
    # an image that needs no padding and one whose mask says so
    whole = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        masked = model(whole, torch.zeros(1, 64, 64, dtype=torch.bool))
        torch.testing.assert_close(model(whole).logits, masked.logits, rtol=0, atol=1e-4)


class OwnNetwork(ConvNet):
    """A user's backbone: both arguments are required."""

    def forward(self, images: torch.Tensor, padding_mask: torch.Tensor | None) -> list[Features]:  # type: ignore[override]  # no default
        return super().forward(images, padding_mask)


@pytest.mark.parametrize("kind", [ConvNet, OwnNetwork])
@pytest.mark.parametrize("padding", ["published", "hidden"])
def test_both_paddings_go_with_any_backbone(kind: type[ConvNet], padding: str) -> None:
    torch.manual_seed(0)
    sizes = {"dim": 16, "heads": 2, "feedforward": 8, "encoder_layers": 1, "decoder_layers": 1, "queries": 5}
    backbone = kind(channels=(4, 8, 16, 32), blocks=(0, 1, 1, 1))
    model = DETR(backbone=backbone, num_classes=3, padding=padding, **sizes).eval()
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, 40:] = True
    images = torch.randn(2, 3, 64, 96).masked_fill(mask[:, None], 0)
    with torch.no_grad():
        together, alone = model(images, mask), model(images[:1])
    torch.testing.assert_close(together.logits[:1], alone.logits, rtol=0, atol=1e-4)
    assert together.boxes.isfinite().all()


def test_a_width_that_positions_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.dim is 90; it must be a multiple of 4"):
        DETR(backbone=ConvNet(), num_classes=3, dim=90, heads=3)


def test_permuting_object_queries_permutes_the_outputs() -> None:
    model = small()
    x, order = torch.randn(2, 3, 64, 64), torch.randperm(7)
    with torch.no_grad():
        before = model(x)
        model.query_embed.weight.copy_(model.query_embed.weight[order].clone())
        after = model(x)
    torch.testing.assert_close(after.logits, before.logits[:, order], rtol=0, atol=1e-5)
    torch.testing.assert_close(after.boxes, before.boxes[:, order], rtol=0, atol=1e-5)
    assert not torch.allclose(after.logits, before.logits, atol=1e-3)


def test_an_auxiliary_output_is_what_a_shallower_decoder_says() -> None:
    model = small(decoder_layers=3)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        deep = model(x)
        del model.transformer.decoder.layers[1:]
        shallow = model(x)
    assert len(deep.auxiliary) == 2
    assert shallow.auxiliary == ()
    torch.testing.assert_close(deep.auxiliary[0].logits, shallow.logits)
    torch.testing.assert_close(deep.auxiliary[0].boxes, shallow.boxes)
    assert deep.logits.shape == (1, 7, 4)
    assert deep.boxes.min() >= 0
    assert deep.boxes.max() <= 1


def test_attention_maps_come_on_request_and_change_nothing() -> None:
    model = small()
    x, mask = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, 40:], mask[1, :, 50:] = True, True
    x = x.masked_fill(mask[:, None], 0)
    with torch.no_grad():
        plain, asked = model(x, mask), model(x, mask, need_attention=True)
    assert plain.attention is None
    assert torch.equal(plain.logits, asked.logits)
    assert asked.attention is not None
    assert asked.attention.size == (4, 6)
    for weights in asked.attention.cross:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7))
        assert not weights[1].unflatten(-1, (4, 6))[:, 3:].any()


def test_every_parameter_that_can_learn_gets_a_gradient() -> None:
    model = small().train()
    output = model(torch.randn(1, 3, 64, 64))
    layers = [*output.auxiliary, output.final]
    torch.stack([layer.logits.square().sum() + layer.boxes.square().sum() for layer in layers]).sum().backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # the content of the queries begins with zeros: in the first layer they have nothing to tell each other
    first = ("transformer.decoder.layers.0.self_attn", "transformer.decoder.layers.0.norm1.weight")
    assert all(name.startswith(first) or name.endswith("k_proj.bias") for name in still), still
    assert all(p.grad is not None for p in model.parameters())


def test_dropout_follows_torchs_random_state_and_rests_in_evaluation() -> None:
    model = small(dropout=0.5)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x).logits, model(x).logits)
        model.train()
        torch.manual_seed(3)
        first, second = model(x).logits, model(x).logits
        torch.manual_seed(3)
        again = model(x).logits
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_dilated_backbone_gives_twice_the_cells() -> None:
    def detr(dilation: bool) -> DETR:
        backbone = resnet(depth=50, weights="none", strides=[16 if dilation else 32], dilation=dilation)
        return DETR(
            backbone=backbone, num_classes=2, dim=16, heads=2, feedforward=8, encoder_layers=1, decoder_layers=1
        )

    sizes = {}
    for dilation in (False, True):
        model = detr(dilation).eval()
        with torch.no_grad():
            attention = model(torch.randn(1, 3, 64, 96), need_attention=True).attention
        assert attention is not None
        sizes[model.stride] = attention.size
    assert sizes == {32: (2, 3), 16: (4, 6)}


def test_denoising_queries_are_refused() -> None:
    none = torch.zeros(1, 0, dtype=torch.long)
    denoising = DenoisingQueries(torch.zeros(1, 0, 4), none, none, none.bool(), none.bool())
    with pytest.raises(ValueError, match="no denoising"):
        small()(torch.randn(1, 3, 64, 64), denoising=denoising)


def test_detections_never_say_no_object() -> None:
    model, categories = small(), Categories((4, 9, 11), ("a", "b", "c"))
    with torch.no_grad():
        model.class_embed.bias[-1] += 10
        found = model.postprocess(model(torch.randn(2, 3, 64, 64)), [(30, 50), (64, 64)], categories, limit=5)
    assert [len(d) for d in found] == [5, 5]
    assert all(0 <= label < 3 for d in found for label in d.labels.tolist())
    assert all(bool((d.scores.diff() <= 0).all()) for d in found)


@pytest.mark.parametrize("config", sorted({path.stem for path in (CONFIGS / "backbone").glob("*.yaml")} - {"own"}))
def test_detr_is_built_from_configs_on_every_backbone(config: str) -> None:
    backbone = compose("train", [f"backbone={config}"]).backbone
    if "weights" in backbone:
        backbone.weights = "none"
    if "lite0" in config:
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    model_config = OmegaConf.merge(
        OmegaConf.load(CONFIGS / "model" / "detr.yaml").model, {"encoder_layers": 1, "decoder_layers": 1}
    )
    model = build_model(model_config, backbone, 5).eval()
    assert isinstance(model, DETR)
    assert isinstance(model.backbone, Backbone) or config == "convnet"
    with torch.no_grad():
        output = model(torch.randn(1, 3, model.stride * 2, model.stride))
    assert output.logits.shape == (1, 100, 6)
