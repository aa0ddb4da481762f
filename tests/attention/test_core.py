"""The set operator: its forms are equal, and it has the properties of an operator on sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detr_mini.attention.core import (
    SIMILARITIES,
    attend,
    attend_plain,
    attend_small,
    attention_weights,
    cosine,
    similarities,
)

QUICK = settings(deadline=None, max_examples=40)
COUNTS = st.integers(1, 6)
SEEDS = st.integers(0, 2**31)
Form = Callable[..., Tensor]
KINDS = pytest.mark.parametrize("kind", sorted(SIMILARITIES))
FORMS = pytest.mark.parametrize("form", [attend, attend_plain])


def sets(seed: int, m: int, n: int, *, batch: tuple[int, ...] = (2, 3), c: int = 4, d: int = 5) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(*batch, count, width, generator=g, dtype=torch.float64) for count, width in ((m, c), (n, c), (n, d))
    )


def some_blocked(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.5


@KINDS
@QUICK
@given(SEEDS, COUNTS, st.integers(0, 6), st.sampled_from([None, (2, 3), (1, 1), (2, 1), ()]), st.booleans())
def test_all_forms_give_the_same_result(
    kind: str, seed: int, m: int, n: int, blocked_batch: tuple[int, ...] | None, for_all_queries: bool
) -> None:
    query, key, value = sets(seed, m, n)
    blocked = None
    if blocked_batch is not None:
        blocked = some_blocked(seed, *blocked_batch, 1 if for_all_queries else m, n)
    function = SIMILARITIES[kind]
    plain = attend_plain(query, key, value, blocked, function)
    torch.testing.assert_close(attend(query, key, value, blocked, 0.0, function), plain, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(attend_small(query, key, value, blocked, function), plain, rtol=1e-10, atol=1e-10)


@QUICK
@given(SEEDS, COUNTS, COUNTS)
def test_both_forms_have_the_same_gradient(seed: int, m: int, n: int) -> None:
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
def test_the_order_of_keys_does_not_matter_and_that_of_queries_is_kept(form: Form, seed: int, m: int, n: int) -> None:
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
def test_a_blocked_key_has_no_effect(form: Form, seed: int, m: int, n: int, more: int) -> None:
    query, key, value = sets(seed, m, n)
    _, junk_key, junk_value = sets(seed + 1, m, more)
    blocked = torch.cat([torch.zeros(1, n, dtype=torch.bool), torch.ones(1, more, dtype=torch.bool)], -1)
    with_junk = form(query, torch.cat([key, 100 * junk_key], -2), torch.cat([value, 100 * junk_value], -2), blocked)
    torch.testing.assert_close(with_junk, form(query, key, value), rtol=1e-10, atol=1e-10)


@FORMS
@QUICK
@given(SEEDS, COUNTS, COUNTS)
def test_the_result_lies_between_the_values(form: Form, seed: int, m: int, n: int) -> None:
    query, key, value = sets(seed, m, n)
    answer = form(query, key, value)
    assert (answer <= value.amax(-2, keepdim=True) + 1e-12).all()
    assert (answer >= value.amin(-2, keepdim=True) - 1e-12).all()


@QUICK
@given(SEEDS, COUNTS, COUNTS)
def test_weights_sum_to_one_and_are_zero_where_blocked(seed: int, m: int, n: int) -> None:
    query, key, _ = sets(seed, m, n)
    blocked = some_blocked(seed, 2, 3, m, n)
    weights = attention_weights(similarities(query, key), blocked)
    somewhere = (~blocked.all(-1)).double()
    torch.testing.assert_close(weights.sum(-1), somewhere, rtol=1e-12, atol=1e-12)
    assert not weights[blocked].any()
    assert (weights >= 0).all()
    torch.testing.assert_close(
        attention_weights(similarities(query, key)).sum(-1), torch.ones(2, 3, m, dtype=torch.float64)
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
def test_no_queries_give_an_empty_result(form: Form) -> None:
    query, key, value = sets(0, 0, 4)
    assert form(query, key, value, torch.zeros(1, 4, dtype=torch.bool)).shape == (2, 3, 0, 5)


@KINDS
@FORMS
@pytest.mark.parametrize("blocked", [None, torch.tensor([[False, True, False], [True, True, True]])])
def test_gradients_equal_finite_differences(form: Form, blocked: Tensor | None, kind: str) -> None:
    inputs = tuple(x.requires_grad_() for x in sets(0, 2, 3, batch=(1,), c=2, d=2))
    function = SIMILARITIES[kind]
    assert torch.autograd.gradcheck(lambda q, k, v: form(q, k, v, blocked, similarity=function), inputs)


@KINDS
@FORMS
@pytest.mark.parametrize(
    ("dtype", "masked"), list(itertools.product([torch.bfloat16, torch.float16, torch.float32], [False, True]))
)
def test_large_numbers_stay_finite_in_every_precision(form: Form, dtype: torch.dtype, masked: bool, kind: str) -> None:
    query, key, value = (1e4 * x.sign() for x in sets(0, 5, 7, c=64))
    inputs = [x.to(dtype).requires_grad_() for x in (query, key, value)]
    blocked = some_blocked(1, 5, 7) if masked else None
    answer = form(*inputs, blocked, similarity=SIMILARITIES[kind])
    assert answer.dtype == dtype
    assert torch.isfinite(answer).all()
    if dtype == torch.float16:
        return  # where two keys tie, the true gradient lies beyond 65504
    answer.float().mean().backward()
    assert all(x.grad is not None and torch.isfinite(x.grad).all() for x in inputs)


def test_similarities_are_computed_in_float32_at_least() -> None:
    query, key, _ = (x.half() for x in sets(0, 2, 3))
    assert similarities(query, key).dtype == torch.float32
    assert similarities(*sets(0, 2, 3)[:2]).dtype == torch.float64


@KINDS
def test_autocast_rounds_no_similarity(kind: str) -> None:
    query, key = (x.float() for x in sets(0, 5, 7)[:2])
    exact = similarities(query, key, SIMILARITIES[kind])
    with torch.autocast("cpu", torch.bfloat16):
        found = similarities(query, key, SIMILARITIES[kind])
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 1, 1, 7), (1, 3, 1, 7), (2, 3, 5, 7)])
def test_a_mask_reaches_the_kernel_in_the_size_in_which_it_is_given(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expanded to every query and head, a padding mask would be as large as the weights."""
    masks, kernel = [], torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Tensor, attn_mask: Tensor, **how: float) -> Tensor:
        masks.append(attn_mask)
        return kernel(*args, attn_mask=attn_mask, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    query, key, value = sets(0, 5, 7)
    blocked = some_blocked(0, *shape)
    answer = attend(query, key, value, blocked)
    torch.testing.assert_close(answer, attend_plain(query, key, value, blocked), rtol=1e-10, atol=1e-10)
    (mask,) = masks
    assert mask.dim() == query.dim()  # the kernels without an m x n matrix ask for that
    assert mask.numel() == blocked.numel()


@QUICK
@given(SEEDS, COUNTS, COUNTS)
def test_each_similarity_equals_its_formula(seed: int, m: int, n: int) -> None:
    query, key, _ = sets(seed, m, n, c=4)
    product = torch.einsum("...mc,...nc->...mn", query, key)
    lengths = query.norm(dim=-1)[..., :, None] * key.norm(dim=-1)[..., None, :]
    formulas = {
        "dot": product,
        "scaled_dot": product / 2,
        "cosine": product / lengths / 0.1,
        "root_length": product / lengths.sqrt(),
    }
    for name, expected in formulas.items():
        torch.testing.assert_close(similarities(query, key, SIMILARITIES[name]), expected, rtol=1e-10, atol=1e-10)


@KINDS
def test_a_zero_vector_has_similarity_zero_and_finite_gradients(kind: str) -> None:
    query, key, _ = sets(0, 2, 3)
    query, key = query.mul_(0).requires_grad_(), key.requires_grad_()
    zeros = similarities(query, key, SIMILARITIES[kind])
    assert not zeros.any()
    zeros.exp().sum().backward()
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()


@pytest.mark.parametrize("kind", ["scaled_dot", "dot"])
@FORMS
def test_a_key_much_more_similar_than_all_others_gives_its_value(form: Form, kind: str) -> None:
    query, key, value = sets(0, 1, 6)
    key = key - (key * query).sum(-1, keepdim=True) * query / query.square().sum(
        -1, keepdim=True
    )  # all at right angles
    key[..., 2, :] = 1e4 * query[..., 0, :]
    answer = form(query, key, value, similarity=SIMILARITIES[kind])
    torch.testing.assert_close(answer[..., 0, :], value[..., 2, :], rtol=1e-10, atol=1e-10)


@QUICK
@given(SEEDS, st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_lengths_of_vectors_do_not_change_a_cosine(seed: int, a: float, b: float) -> None:
    query, key, _ = sets(seed, 3, 4)
    for mine, scaled in zip(cosine(query, key), cosine(a * query, b * key), strict=True):
        torch.testing.assert_close(scaled, mine)


@FORMS
def test_an_error_about_shapes_names_both_shapes_and_the_rule(form: Form) -> None:
    query, key, value = sets(0, 3, 4)
    jaxtyping.config.update("jaxtyping_disable", True)  # what a user without the checker sees
    try:
        with pytest.raises(ValueError, match=r"query \(2, 3, 3, 4\) and key \(2, 3, 4, 2\) do not fit: .* width"):
            form(query, key[..., :2], value)
        with pytest.raises(ValueError, match=r"key \(2, 3, 4, 4\) and value \(2, 3, 2, 5\) do not fit: .* number"):
            form(query, key, value[..., :2, :])
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_dropout_drops_whole_weights_and_follows_torchs_seed() -> None:
    query, key, _ = sets(0, 200, 4, batch=(1,))
    value = torch.eye(4, dtype=torch.float64)[None]  # so that the answer is the row of weights
    torch.manual_seed(0)
    dropped = attend(query, key, value, dropout=0.25)
    torch.manual_seed(0)
    assert torch.equal(dropped, attend(query, key, value, dropout=0.25))
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], (attend_plain(query, key, value) / 0.75)[kept])
    assert 0.2 < (~kept).double().mean() < 0.3
