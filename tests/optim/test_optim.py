"""Muon, AdamW, their groups, and the learning rate's curve."""

from __future__ import annotations

import copy
import io
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from detr_mini.benchmarks.operations import OperationCounter
from detr_mini.models.detr import DETR
from detr_mini.models.mini import MiniDETR
from detr_mini.optim import muon as muon_file
from detr_mini.optim.groups import adamw, is_matrix, parameter_groups
from detr_mini.optim.muon import Muon, blocks, iterate, iterate_by_gram, muon, orthogonalise, orthogonalise_together
from detr_mini.optim.schedule import warmup_cosine
from detr_mini.vision.convnet import ConvNet


@settings(max_examples=15, deadline=None)
@given(st.integers(4, 48), st.integers(4, 48), st.integers(0, 100))
def test_orthogonalising_brings_singular_values_near_one_and_keeps_the_directions(
    rows: int, columns: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(rows, rows, generator=generator))[0][:, : min(rows, columns)]
    v = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0][:, : min(rows, columns)]
    values = torch.rand(min(rows, columns), generator=generator) + 0.2
    found = orthogonalise((u * values @ v.mT)[None], steps=5)[0]
    singular = torch.linalg.svdvals(found)
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    # the same left and right directions: u^T M v stays diagonal, up to bfloat16
    inner = u.mT @ found @ v
    assert (inner - inner.diagonal().diag()).abs().max() < 0.08


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_only_emulates_bfloat16_multiplies_in_float32_and_is_asked_once(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(
        "torch", "2.12", "older versions of torch ask for a real device where tensors pretend to be on one"
    )
    asked, computed = [], []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return native or including_emulation

    def watched(x: Tensor, steps: int) -> Tensor:
        computed.append(x.dtype)
        return x

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(muon_file, "iterate", watched)
    matrices = torch.randn(1, 16, 16)
    muon_file.gpu_has_bfloat16.cache_clear()
    try:
        with FakeTensorMode() as mode:
            for _ in range(2):
                assert orthogonalise(mode.from_tensor(matrices).to("cuda")).dtype == torch.float32
    finally:
        muon_file.gpu_has_bfloat16.cache_clear()
    assert computed == [torch.bfloat16 if native else torch.float32] * 2
    assert asked == [False]


def test_matrices_are_orthogonalised_together_as_one_by_one() -> None:
    matrices = torch.randn(3, 8, 20)
    for i in range(3):
        torch.testing.assert_close(
            orthogonalise(matrices)[i], orthogonalise(matrices[i : i + 1])[0], rtol=0.02, atol=0.02
        )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(12, 40), st.integers(12, 40)), min_size=1, max_size=6),
    st.sampled_from([1.0, 2.0, 4.0]),
)
def test_stacks_of_any_sizes_are_orthogonalised_together_as_one_by_one(
    sizes: list[tuple[int, int, int]], padded: float
) -> None:
    stacks = [torch.randn(size) for size in sizes]
    for stack, found in zip(stacks, orthogonalise_together(stacks, 4, padded), strict=True):
        assert found.shape == stack.shape
        torch.testing.assert_close(found, orthogonalise(stack, 4), rtol=0.02, atol=0.02)


def test_more_matrices_of_one_shape_take_no_more_operations() -> None:
    counts = []
    for count in (2, 9):
        weights = [nn.Parameter(torch.randn(16, 24)) for _ in range(count)]
        optimizer = Muon([{"params": weights, "rule": "matrix", "weight_decay": 0.1}])
        for _ in range(2):
            for weight in weights:
                weight.grad = torch.randn(16, 24)
            with OperationCounter() as operations:
                optimizer.step()
        counts.append(operations.total)
    assert counts[0] == counts[1] < 40


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(50, 99)), min_size=1, max_size=20), st.floats(1, 5))
def test_every_size_is_in_one_block_that_holds_it_and_is_not_much_larger(
    sizes: list[tuple[int, int]], padded: float
) -> None:
    found = blocks(sizes, padded)
    assert sorted(i for *_, members in found for i in members) == list(range(len(sizes)))
    for rows, columns, members in found:
        for high, wide in (sizes[i] for i in members):
            assert high <= rows and wide <= columns
            assert rows * columns <= padded * high * wide
    if padded == 1:
        assert len(found) == len(set(sizes))


def test_the_adamw_rule_is_torchs_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    group = {"params": list(ours.parameters()), "rule": "adamw", "weight_decay": 0.1}
    mine = Muon([group], adamw_lr=1e-2, betas=(0.9, 0.99))
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(5):
        x = torch.randn(4, 3)
        for model, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-6, atol=1e-7)


def test_a_matrix_moves_by_the_learning_rate_in_every_direction_whatever_its_gradients_size() -> None:
    for scale in (1e-4, 1e3):
        weight = nn.Parameter(torch.randn(32, 16))
        before = weight.detach().clone()
        optimizer = Muon([{"params": [weight], "rule": "matrix", "weight_decay": 0.0}], lr=0.02)
        weight.grad = torch.randn(32, 16, generator=torch.Generator().manual_seed(0)) * scale
        optimizer.step()
        moved = torch.linalg.svdvals(weight.detach() - before) / (0.02 * math.sqrt(2))
        assert moved.min() > 0.5
        assert moved.max() < 1.35


def test_a_convolution_is_a_matrix_of_its_output_channels() -> None:
    kernel = torch.randn(16, 4, 3, 3)
    steps = []
    for shape in ((16, 4, 3, 3), (16, 36)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = kernel.reshape(shape)
        Muon([{"params": [weight], "rule": "matrix", "weight_decay": 0.0}]).step()
        steps.append(weight.detach().reshape(16, 36))
    torch.testing.assert_close(*steps)


def test_the_layout_of_a_kernel_or_of_its_gradient_does_not_change_its_step() -> None:
    kernel, gradient = torch.randn(16, 4, 3, 3), torch.randn(16, 4, 3, 3)
    layouts = (torch.contiguous_format, torch.channels_last)
    steps = []
    for layout, of_gradient in ((a, b) for a in layouts for b in layouts):
        weight = nn.Parameter(kernel.clone(memory_format=layout))
        weight.grad = gradient.clone(memory_format=of_gradient)
        Muon([{"params": [weight], "rule": "matrix", "weight_decay": 0.0}]).step()
        assert weight.is_contiguous(memory_format=layout)
        steps.append(weight.detach() - kernel)
    for step in steps[1:]:
        torch.testing.assert_close(step, steps[0], rtol=0.02, atol=1e-4)
    assert steps[0].abs().max() > 1e-3


def test_a_restored_optimizer_makes_the_next_step_in_the_same_bits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
    optimizer = muon(model)
    x = torch.randn(3, 8, 16)

    def step(m: nn.Module, o: torch.optim.Optimizer, k: int) -> None:
        o.zero_grad()
        m(x[k]).square().sum().backward()
        o.step()

    step(model, optimizer, 0)
    other = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
    other.load_state_dict(model.state_dict())
    restored = muon(other)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # as a file would hold it
    for k in (1, 2):
        step(model, optimizer, k)
        step(other, restored, k)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("matrices", [True, False])
def test_groups_hold_every_parameter_once_and_decay_no_bias_gain_or_embedding(matrices: bool) -> None:
    model = MiniDETR(
        backbone=ConvNet(channels=(4, 8, 16, 32), blocks=(0, 1, 1, 1)), num_classes=3, dim=32, sample_channels=32
    )
    model.backbone.blocks.requires_grad_(False)
    groups = parameter_groups(model, matrices=matrices, backbone_scale=0.1, embedding_scale=10.0, weight_decay=0.05)
    tables = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    assert tables
    grouped = [p for g in groups for p in g["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}
    names = {id(p): n for n, p in model.named_parameters()}
    for group in groups:
        for p in group["params"]:
            name = names[id(p)]
            plain = p.ndim < 2 or "embedding" in name or name.endswith("gain")
            assert group["weight_decay"] == (0.0 if plain else 0.05), name
            scale = 0.1 if name.startswith("backbone.") else 10.0 if name in tables else 1.0
            assert group["lr_scale"] == scale, name
            if group["rule"] == "matrix":
                assert matrices
                assert min(p.shape[0], p[0].numel()) >= 12
                assert "embedding" not in name


@pytest.mark.parametrize("matrices", [True, False])
@pytest.mark.parametrize("kind", ["mini", "detr"])
def test_weights_of_linear_layers_and_convolutions_are_decayed_and_nothing_else(kind: str, matrices: bool) -> None:
    backbone = ConvNet(channels=(4, 8, 16, 32), blocks=(0, 1, 1, 1))
    model: nn.Module = MiniDETR(backbone=backbone, num_classes=3, dim=32, sample_channels=32)
    if kind == "detr":
        model = DETR(backbone=backbone, num_classes=3, dim=32, heads=4, feedforward=32)
    maps = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, matrices=matrices, weight_decay=0.05)
    decayed = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == maps


def test_a_restored_state_lies_where_its_parameter_lies() -> None:
    """Checkpoints are read to the CPU; the fused AdamW wants its step count beside the parameter. `meta` stands for
    any other device."""
    trained = nn.Linear(16, 16)
    optimizer = muon(trained)
    trained(torch.randn(2, 16)).sum().backward()
    optimizer.step()
    restored = muon(nn.Linear(16, 16, device="meta"))
    restored.load_state_dict(optimizer.state_dict())
    places = {name: value.device.type for state in restored.state.values() for name, value in state.items()}
    assert places == dict.fromkeys(places, "meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_optimizer_restored_from_the_cpu_makes_the_same_step_on_a_gpu() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16)).cuda()
    first = muon(model)
    model(torch.randn(4, 16, device="cuda")).square().sum().backward()
    first.step()
    copied = copy.deepcopy(model)
    second = muon(copied)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    for mine, theirs in zip(copied.parameters(), model.parameters(), strict=True):
        mine.grad = theirs.grad.clone()
    first.step()
    second.step()
    for mine, theirs in zip(copied.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_decay_shrinks_a_matrix_by_rate_times_decay_apart_from_its_gradient() -> None:
    weight = nn.Parameter(torch.randn(16, 16))
    before = weight.detach().clone()
    weight.grad = torch.zeros(16, 16)
    Muon([{"params": [weight], "rule": "matrix", "weight_decay": 0.1}], lr=0.02).step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.02 * 0.1))


def test_the_momentum_is_nesterovs() -> None:
    """Second step by hand: m = 0.95 m + 0.05 g, the direction 0.95 m + 0.05 g."""
    weight = nn.Parameter(torch.zeros(16, 24))
    optimizer = Muon([{"params": [weight], "rule": "matrix", "weight_decay": 0.0}], lr=1.0, steps=5)
    momentum = torch.zeros(16, 24)
    for seed in (0, 1):
        gradient = torch.randn(16, 24, generator=torch.Generator().manual_seed(seed))
        weight.grad = gradient.clone()
        before = weight.detach().clone()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        direction = orthogonalise((0.95 * momentum + 0.05 * gradient)[None], steps=5)[0]
        torch.testing.assert_close(before - weight.detach(), direction, rtol=0.05, atol=0.03)


def test_parameters_without_a_gradient_stay_and_the_closures_loss_comes_back() -> None:
    used, unused = nn.Linear(16, 16), nn.Linear(16, 16)
    optimizer = muon(nn.ModuleList([used, unused]))
    before = [p.detach().clone() for p in unused.parameters()]

    def closure() -> torch.Tensor:
        loss = used(torch.ones(1, 16)).square().sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(before, unused.parameters(), strict=True))
    assert 0 < used(torch.ones(1, 16)).square().sum() < first


def test_tables_vectors_and_narrow_maps_are_no_matrices() -> None:
    assert not is_matrix("label_embedding.weight", torch.zeros(80, 128))
    assert not is_matrix("query_embed.weight", torch.zeros(100, 256))
    assert not is_matrix("norm.weight", torch.zeros(128))
    assert not is_matrix("classify.weight", torch.zeros(3, 128))
    assert is_matrix("linear.weight", torch.zeros(12, 128))
    assert is_matrix("conv.weight", torch.zeros(16, 2, 3, 3))
    assert not is_matrix("conv.weight", torch.zeros(16, 1, 3, 3))


def test_the_backbone_learns_slower_by_its_scale() -> None:
    model = MiniDETR(
        backbone=ConvNet(channels=(4, 8, 16, 32), blocks=(0, 1, 1, 1)), num_classes=3, dim=32, sample_channels=32
    )
    names = {id(p): n for n, p in model.named_parameters()}
    for optimizer, base in (
        (muon(model, lr=0.02, adamw_lr=1e-3, backbone_scale=0.1), None),
        (adamw(model, lr=1e-4), 1e-4),
    ):
        for group in optimizer.param_groups:
            full = base or (0.02 if group["rule"] == "matrix" else 1e-3)
            in_backbone = names[id(group["params"][0])].startswith("backbone.")
            assert group["lr"] == pytest.approx(full * (0.1 if in_backbone else 1.0))


@given(st.integers(1, 500), st.floats(0, 0.5))
def test_the_rate_rises_in_a_line_then_falls_to_its_end(warmup: int, final: float) -> None:
    rise = [warmup_cosine(step, 0.0, warmup_steps=warmup, final=final) for step in range(warmup)]
    assert rise == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    fall = [warmup_cosine(warmup, k / 50, warmup_steps=warmup, final=final) for k in range(51)]
    assert all(a >= b for a, b in pairwise(fall))
    assert fall[0] == pytest.approx(1.0)
    assert fall[-1] == pytest.approx(final)
    assert warmup_cosine(warmup, 1.7, warmup_steps=warmup, final=final) == fall[-1], "a training by minutes overruns"
    assert warmup_cosine(warmup, 0.5, warmup_steps=warmup, final=final) == pytest.approx((1 + final) / 2)


def test_no_warmup_starts_at_the_full_rate() -> None:
    assert warmup_cosine(0, 0.0, warmup_steps=0) == 1.0


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 24), st.integers(24, 96), st.integers(0, 6), st.integers(0, 100))
def test_iterating_on_the_gram_matrix_gives_what_iterating_on_the_matrix_gives(
    rows: int, columns: int, steps: int, seed: int
) -> None:
    x = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(iterate_by_gram(x, steps), iterate(x, steps), rtol=1e-6, atol=1e-8)


def test_on_the_gram_matrix_float32_is_exact_enough() -> None:
    x = torch.randn(3, 192, 1152, generator=torch.Generator().manual_seed(0))
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(iterate_by_gram(x, 4), iterate(x, 4), rtol=0, atol=1e-4)
