"""Every kind in `KINDS`: no effect of padding, settings and lists in which users find it, errors for unknown names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from detr_mini.attention.core import SIMILARITIES
from detr_mini.attention.encoder import EncoderLayer
from detr_mini.attention.kinds import KINDS, LearnedCosine, attention_named, settings_of, similarity_named
from detr_mini.attention.multihead import MultiHeadAttention, blocked_by_padding
from detr_mini.errors import ConfigError

ROOT = Path(__file__).parents[2]
SMALL = {"window": 2, "size": (12, 12), "rank": 6, "features": 24}
ALL = pytest.mark.parametrize("kind", KINDS)
SIMILARITY = pytest.mark.parametrize("similarity", sorted(SIMILARITIES))


def layer(kind: str, similarity: str = "scaled_dot") -> EncoderLayer:
    torch.manual_seed(0)
    attention = attention_named(kind, dim=16, heads=2, similarity=similarity, **SMALL)
    return EncoderLayer(16, 2, 24, attention).double().eval()


def on_canvas(x: Tensor, h: int, w: int) -> Tensor:
    """A map's cells on a canvas of h x w, the rest junk."""
    canvas = torch.full((1, h, w, x.shape[-1]), 5.0, dtype=x.dtype)
    canvas[:, : x.shape[1], : x.shape[2]] = x
    return canvas


@ALL
@SIMILARITY
def test_padding_changes_nothing(kind: str, similarity: str) -> None:
    net = layer(kind, similarity)
    x, position = torch.randn(2, 1, 5, 6, 16).double()
    alone = net(x.flatten(1, 2), position.flatten(1, 2), None, (5, 6))
    mask = torch.ones(1, 8, 11, dtype=torch.bool)
    mask[:, :5, :6] = False
    inputs = [on_canvas(part, 8, 11).flatten(1, 2) for part in (x, position)]
    padded = net(*inputs, blocked_by_padding(mask.flatten(1)), (8, 11)).unflatten(1, (8, 11))[:, :5, :6]
    torch.testing.assert_close(padded.flatten(1, 2), alone, rtol=1e-9, atol=1e-9)


@ALL
def test_every_parameter_learns(kind: str) -> None:
    net = layer(kind, "cosine")
    net(torch.randn(2, 30, 16).double(), None, None, (5, 6)).square().sum().backward()
    for name, parameter in net.named_parameters():
        if not name.endswith("k_proj.bias"):  # the same for every key: softmax does not see it
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_numbers_stay_finite(kind: str, dtype: torch.dtype) -> None:
    attention = layer(kind).attention.attention.to(dtype)
    inputs = [(1e4 * torch.randn(1, 2, 30, 8)).to(dtype).requires_grad_() for _ in range(3)]
    answer = attention(*inputs, None, (5, 6))
    assert answer.dtype == dtype
    assert answer.isfinite().all()


def test_random_features_are_saved_in_the_checkpoint() -> None:
    net = layer("performer")
    assert "attention.attention.features" in net.state_dict()


def test_each_head_learns_its_own_cosine_temperature() -> None:
    function = similarity_named("cosine", 2)
    assert isinstance(function, LearnedCosine)
    with torch.no_grad():
        function.log_temperature[1] = torch.log(torch.tensor(1.0))
    q, k = function(*torch.ones(2, 1, 2, 3, 4).unbind(0))
    products = (q @ k.transpose(-1, -2))[0, :, 0, 0]
    torch.testing.assert_close(products, torch.tensor([10.0, 1.0]))


def test_only_dense_attention_has_weights_to_show() -> None:
    x = torch.randn(1, 4, 16)
    windowed = MultiHeadAttention(16, 2, attention=attention_named("windowed", dim=16, heads=2))
    with pytest.raises(ValueError, match="Windowed attention computes no weights to show; only dense attention does"):
        windowed.weights(x, x)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'windowd' does not exist; did you mean 'windowed'.* dense, windowed, linf"):
        attention_named("windowd", dim=16, heads=2)
    with pytest.raises(
        ConfigError, match=r"similarity 'cosin' does not exist; did you mean 'cosine'.* scaled_dot, cos"
    ):
        similarity_named("cosin", 2)


def test_a_setting_that_no_kind_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no attention has the setting 'windw'; did you mean 'window'"):
        attention_named("dense", dim=16, heads=2, windw=3)


def test_sizes_that_no_map_could_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.encoder\.window is 0; it must be at least 1"):
        attention_named("windowed", dim=16, heads=2, window=0)
    for size in ([9], [9, 9, 9]):
        with pytest.raises(ConfigError, match=r"model\.encoder\.size is \[9.*\]; it must be two numbers"):
            attention_named("linformer", dim=16, heads=2, size=size)


def test_a_map_beyond_linformers_largest_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"size \(13, 4\) exceeds .* \(12, 12\); .* a larger model\.encoder\.size"):
        layer("linformer")(torch.randn(1, 52, 16).double(), None, None, (13, 4))


def test_every_setting_of_a_kind_is_in_the_config_with_the_same_default() -> None:
    encoder = yaml.safe_load((ROOT / "configs/model/mini.yaml").read_text(encoding="utf-8"))["model"]["encoder"]
    defaults = {name: default for kind in KINDS for name, default in settings_of(kind).items()}
    assert {"layers": 1, "attention": "dense", **defaults} == {**encoder, "size": tuple(encoder["size"])}


@pytest.mark.parametrize(
    ("page", "line"),
    [
        ("configs/model/mini.yaml", r"^    attention: .*"),
        ("configs/benchmark_attention.yaml", r"^kinds: .*"),
        ("docs/command-line.md", r"^\| `model.encoder.attention` .*"),
    ],
)
def test_every_list_of_the_kinds_names_them_all(page: str, line: str) -> None:
    found = re.search(line, (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    settings = {name for kind in KINDS for name in settings_of(kind)} if page.startswith("docs") else set[str]()
    missing = {*KINDS, *settings} - set(re.findall(r"\w+", found[0]))
    assert not missing, f"{page}: add {', '.join(sorted(missing))} to the line {found[0][:50]!r}"


@pytest.mark.parametrize(
    ("page", "line"),
    [("configs/model/mini.yaml", r"^  similarity: .*"), ("docs/command-line.md", r"^\| `model.similarity` .*")],
)
def test_every_list_of_the_similarities_names_them_all(page: str, line: str) -> None:
    found = re.search(line, (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    assert set(SIMILARITIES) <= set(re.findall(r"\w+", found[0]))
