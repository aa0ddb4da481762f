"""Deformable attention equals the layer of transformers."""

from __future__ import annotations

import pytest
import torch

from detr_mini.attention.deformable import DeformableAttention

SIZES = [(6, 5), (3, 4)]


def theirs(dim: int, heads: int, points: int) -> torch.nn.Module:
    hf = pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")
    module = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    config = hf.DeformableDetrConfig(
        d_model=dim, num_feature_levels=len(SIZES), disable_custom_kernels=True, use_timm_backbone=False,
        backbone_config=hf.ResNetConfig(),
    )  # fmt: skip
    return module.DeformableDetrMultiscaleDeformableAttention(config, num_heads=heads, n_points=points).double()


@pytest.mark.parametrize("numbers", [2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_it_equals_transformers_layer_with_the_same_weights(numbers: int, padded: bool) -> None:
    torch.manual_seed(0)
    other = theirs(16, 4, 3)
    ours = DeformableAttention(16, 4, levels=2, points=3).double()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_(std=0.5)
    ours.load_state_dict(other.state_dict())
    query, reference = torch.randn(2, 7, 16).double(), torch.rand(2, 7, 2, numbers).double()
    maps = [torch.randn(2, 16, h, w).double() for h, w in SIZES]
    masks = [torch.rand(2, h, w) < 0.3 for h, w in SIZES] if padded else None
    answer = ours(query, reference, maps, masks)
    expected = other(
        hidden_states=query,
        attention_mask=None if masks is None else ~torch.cat([mask.flatten(1) for mask in masks], 1),
        encoder_hidden_states=torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2),
        reference_points=reference,
        spatial_shapes=torch.tensor(SIZES),
        spatial_shapes_list=SIZES,
        level_start_index=torch.tensor([0, SIZES[0][0] * SIZES[0][1]]),
    )[0]
    torch.testing.assert_close(answer, expected, rtol=1e-9, atol=1e-9)


def test_a_constant_map_gives_its_constant_wherever_the_samples_fall_inside() -> None:
    torch.manual_seed(0)
    layer = DeformableAttention(8, 2, levels=1, points=4)
    with torch.no_grad():
        for projection in (layer.value_proj, layer.output_proj):
            projection.weight.copy_(torch.eye(8))
    colour = torch.randn(8)
    answer = layer(
        torch.randn(1, 5, 8), torch.full((1, 5, 1, 4), 0.5) * 0.9, [colour.view(1, 8, 1, 1).expand(1, 8, 9, 9)]
    )
    torch.testing.assert_close(answer, colour.expand(1, 5, 8))


def test_gradients_reach_places_weights_and_values() -> None:
    torch.manual_seed(0)
    layer = DeformableAttention(8, 2, levels=2).double()
    with torch.no_grad():
        layer.sampling_offsets.weight.normal_(std=0.1)
        layer.attention_weights.weight.normal_(std=0.5)
    maps = [torch.randn(1, 8, h, w).double() for h, w in SIZES]
    layer(torch.randn(1, 3, 8).double(), torch.rand(1, 3, 2, 2).double(), maps).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_wrong_number_of_levels_is_refused() -> None:
    layer = DeformableAttention(8, 2, levels=2)
    with pytest.raises(ValueError, match="1 maps and 2 references for 2 levels"):
        layer(torch.randn(1, 3, 8), torch.rand(1, 3, 2, 2), [torch.randn(1, 8, 4, 4)])
    with pytest.raises(ValueError, match="8 is not a multiple of heads 3"):
        DeformableAttention(8, 3, levels=1)
