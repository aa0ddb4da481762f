"""The set operator: its two forms are one, and what a set operator owes its user."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detr_mini.attention.core import attend, attend_plain, attention_weights, scaled_dot

QUICK = settings(deadline=None, max_examples=40)
COUNTS = st.integers(1, 6)
SEEDS = st.integers(0, 2**31)
Form = Callable[..., Tensor]
FORMS = pytest.mark.parametrize("form", [attend, attend_plain])


def sets(seed: int, m: int, n: int, *, batch: tuple[int, ...] = (2, 3), c: int = 4, d: int = 5) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(*batch, count, width, generator=g, dtype=torch.float64) for count, width in ((m, c), (n, c), (n, d))
    )


def some_blocked(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.5


@QUICK
@given(SEEDS, COUNTS, st.integers(0, 6), st.sampled_from([None, (2, 3), (1, 1), (2, 1), ()]), st.booleans())
def test_plain_and_fused_form_are_one(
    seed: int, m: int, n: int, blocked_batch: tuple[int, ...] | None, for_all_queries: bool
) -> None:
    query, key, value = sets(seed, m, n)
    blocked = None
    if blocked_batch is not None:
        blocked = some_blocked(seed, *blocked_batch, 1 if for_all_queries else m, n)
    fused, plain = attend(query, key, value, blocked), attend_plain(query, key, value, blocked)
    torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-10)


@QUICK
@given(SEEDS, COUNTS, COUNTS)
def test_both_forms_have_one_gradient(seed: int, m: int, n: int) -> None:
    inputs = [x.requires_grad_() for x in sets(seed, m, n)]
    blocked = some_blocked(seed, 2, 1, m, n)
    gradients = [
        torch.autograd.grad(form(*inputs, blocked).square().sum(), inputs, allow_unused=True)
        for form in (attend, attend_plain)
    ]
    for fused, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-9)


@FORMS
@QUICK
@given(SEEDS, COUNTS, COUNTS)
def test_the_order_of_keys_means_nothing_and_that_of_queries_is_kept(form: Form, seed: int, m: int, n: int) -> None:
    query, key, value = sets(seed, m, n)
    blocked = some_blocked(seed, 2, 3, m, n)
    generator = torch.Generator().manual_seed(seed + 1)
    rows, columns = torch.randperm(m, generator=generator), torch.randperm(n, generator=generator)
    before = form(query, key, value, blocked)
    after = form(query[..., rows, :], key[..., columns, :], value[..., columns, :], blocked[..., rows, :][..., columns])
    torch.testing.assert_close(after, before[..., rows, :], rtol=1e-10, atol=1e-10)


@FORMS
@QUICK
@given(SEEDS, COUNTS, COUNTS, COUNTS)
def test_a_blocked_key_might_as_well_not_be_there(form: Form, seed: int, m: int, n: int, more: int) -> None:
    query, key, value = sets(seed, m, n)
    _, junk_key, junk_value = sets(seed + 1, m, more)
    blocked = torch.cat([torch.zeros(1, n, dtype=torch.bool), torch.ones(1, more, dtype=torch.bool)], -1)
    with_junk = form(query, torch.cat([key, 100 * junk_key], -2), torch.cat([value, 100 * junk_value], -2), blocked)
    torch.testing.assert_close(with_junk, form(query, key, value), rtol=1e-10, atol=1e-10)


@FORMS
@QUICK
@given(SEEDS, COUNTS, COUNTS)
def test_an_answer_lies_between_the_values(form: Form, seed: int, m: int, n: int) -> None:
    query, key, value = sets(seed, m, n)
    answer = form(query, key, value)
    assert (answer <= value.amax(-2, keepdim=True) + 1e-12).all()
    assert (answer >= value.amin(-2, keepdim=True) - 1e-12).all()


@QUICK
@given(SEEDS, COUNTS, COUNTS)
def test_weights_sum_to_one_and_are_zero_where_blocked(seed: int, m: int, n: int) -> None:
    query, key, _ = sets(seed, m, n)
    blocked = some_blocked(seed, 2, 3, m, n)
    weights = attention_weights(scaled_dot(query, key), blocked)
    somewhere = (~blocked.all(-1)).double()
    torch.testing.assert_close(weights.sum(-1), somewhere, rtol=1e-12, atol=1e-12)
    assert not weights[blocked].any()
    assert (weights >= 0).all()
    torch.testing.assert_close(
        attention_weights(scaled_dot(query, key)).sum(-1), torch.ones(2, 3, m, dtype=torch.float64)
    )


@FORMS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_query_that_may_look_nowhere_gets_zeros_and_finite_gradients(form: Form, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype).requires_grad_() for x in sets(0, 3, 4)]
    blocked = torch.zeros(3, 4, dtype=torch.bool)
    blocked[1] = True
    answer = form(*inputs, blocked)
    assert not answer[..., 1, :].any()
    assert answer[..., 0, :].any()
    answer.sum().backward()
    assert all(x.grad is not None and torch.isfinite(x.grad).all() for x in inputs)
    assert inputs[0].grad is not None
    assert not inputs[0].grad[..., 1, :].any()


@FORMS
def test_all_blocked_and_no_keys_give_zeros_and_zero_gradients(form: Form) -> None:
    for n, blocked in ((4, torch.ones(1, 1, dtype=torch.bool)), (0, None), (0, torch.ones(3, 0, dtype=torch.bool))):
        inputs = [x.requires_grad_() for x in sets(0, 3, n)]
        answer = form(*inputs, blocked)
        assert answer.shape == (2, 3, 3, 5)
        assert not answer.any()
        answer.sum().backward()
        assert all(x.grad is not None and not x.grad.any() for x in inputs)


@FORMS
def test_no_queries_give_no_answers(form: Form) -> None:
    query, key, value = sets(0, 0, 4)
    assert form(query, key, value, torch.zeros(1, 4, dtype=torch.bool)).shape == (2, 3, 0, 5)


@FORMS
@pytest.mark.parametrize("blocked", [None, torch.tensor([[False, True, False], [True, True, True]])])
def test_gradients_are_those_of_finite_differences(form: Form, blocked: Tensor | None) -> None:
    inputs = tuple(x.requires_grad_() for x in sets(0, 2, 3, batch=(1,), c=2, d=2))
    assert torch.autograd.gradcheck(lambda q, k, v: form(q, k, v, blocked), inputs)


@FORMS
@pytest.mark.parametrize(
    ("dtype", "masked"), list(itertools.product([torch.bfloat16, torch.float16, torch.float32], [False, True]))
)
def test_large_numbers_stay_finite_in_every_precision(form: Form, dtype: torch.dtype, masked: bool) -> None:
    query, key, value = (1e4 * x.sign() for x in sets(0, 5, 7, c=64))
    inputs = [x.to(dtype).requires_grad_() for x in (query, key, value)]
    blocked = some_blocked(1, 5, 7) if masked else None
    answer = form(*inputs, blocked)
    assert answer.dtype == dtype
    assert torch.isfinite(answer).all()
    if dtype == torch.float16:
        return  # where two keys tie, the true gradient lies beyond 65504
    answer.float().mean().backward()
    assert all(x.grad is not None and torch.isfinite(x.grad).all() for x in inputs)


def test_the_similarity_is_float32_at_least() -> None:
    query, key, _ = (x.half() for x in sets(0, 2, 3))
    assert scaled_dot(query, key).dtype == torch.float32
    assert scaled_dot(*sets(0, 2, 3)[:2]).dtype == torch.float64


def test_dropout_drops_whole_weights_by_torchs_random_state() -> None:
    query, key, _ = sets(0, 200, 4, batch=(1,))
    value = torch.eye(4, dtype=torch.float64)[None]  # so that the answer is the row of weights
    torch.manual_seed(0)
    dropped = attend(query, key, value, dropout=0.25)
    torch.manual_seed(0)
    assert torch.equal(dropped, attend(query, key, value, dropout=0.25))
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], (attend_plain(query, key, value) / 0.75)[kept])
    assert 0.2 < (~kept).double().mean() < 0.3
