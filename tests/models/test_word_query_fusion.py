"""Fusion layers: their formula; padding and hidden queries change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detr_mini.models.word_query_fusion import Connectives, FusionLayer, word_inputs_of

C, Q, T, D, E, P = 2, 4, 5, 8, 6, 3


def layer(*, ordered: bool = True) -> FusionLayer:
    torch.manual_seed(0)
    made = FusionLayer(D, width=E, heads=2, pair_dim=P, value=4, ordered=ordered).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.5)
    return made


def inputs(t: int = T) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    shapes = {
        "state": (C, Q, t, E), "logits": (C, Q, t), "words": (C, t, D), "queries": (C, Q, D), "pairs": (C, Q, P, Q),
    }  # fmt: skip
    drawn = {name: torch.randn(*shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    drawn |= {"padding_mask": torch.zeros(C, t, dtype=torch.bool), "hidden": torch.zeros(C, Q, dtype=torch.bool)}
    return drawn


def run(made: FusionLayer, given: dict[str, Tensor]) -> Tensor:
    words = {name: given[name] for name in ("words", "padding_mask")}
    return made(inputs=made.word_inputs(**words), **{name: value for name, value in given.items() if name not in words})


def test_is_its_formula() -> None:
    made, given = layer(), inputs()
    state, words, queries, pairs = (given[name] for name in ("state", "words", "queries", "pairs"))
    x = made.norm1(state)
    speaks = torch.stack([given["logits"], made.names(x)[..., 0]], -1).sigmoid()
    a = made.word_inputs(words, given["padding_mask"]).attention
    expected = state.clone()
    for c in range(C):
        for i in range(Q):
            messages = []
            for j in range(T):
                sums = [sum(speaks[c, k, j, s] * pairs[c, i, :, k] for k in range(Q)) for s in range(2)]
                means = [total / (speaks[c, :, j, s].sum() + 0.1) for s, total in enumerate(sums)]
                lies = torch.cat([*means, *(total / 2 for total in sums)])
                messages.append((made.value(x[c, i, j]) + made.between(lies)) * (1 + made.gate_from(words[c, j])))
            for t in range(T):
                heads = [sum(a[c, h, t, j] * messages[j][2 * h : 2 * h + 2] for j in range(T)) for h in range(2)]
                expected[c, i, t] += made.out_proj(torch.cat(heads) * (1 + made.gate_to(words[c, t])))
    score = made.rivals(x).log_softmax(1)
    expected += made.rivals_out(torch.cat([score.clamp(min=-8) / 2, score.exp()], -1))
    inner = made.up(made.norm2(expected)) + made.up_word(words)[:, None] + made.up_thing(queries)[:, :, None]
    expected += made.down(torch.nn.functional.gelu(inner))
    torch.testing.assert_close(run(made, given), expected, rtol=1e-5, atol=1e-5)


def test_padding_and_hidden_queries_might_as_well_not_be_there() -> None:
    made, given = layer(), inputs()
    given["padding_mask"][:, 3:] = True
    given["hidden"][:, 2:] = True
    short = {
        "state": given["state"][:, :2, :3], "logits": given["logits"][:, :2, :3], "words": given["words"][:, :3],
        "queries": given["queries"][:, :2], "pairs": given["pairs"][:, :2, :, :2],
        "padding_mask": given["padding_mask"][:, :3], "hidden": given["hidden"][:, :2],
    }  # fmt: skip
    torch.testing.assert_close(run(made, given)[:, :2, :3], run(made, short), rtol=1e-6, atol=1e-6)


def test_autocast_rounds_no_similarity_of_words() -> None:
    made, given = layer(ordered=False).float(), inputs()
    words, padding = given["words"].float(), given["padding_mask"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        query, key = made.query_key(words).view(C, T, 2, 2, 16).permute(2, 0, 3, 1, 4).float()
        alone, (several,) = made.word_inputs(words, padding).attention, word_inputs_of([made], words, padding)
    exact = (query @ key.transpose(-1, -2) / 4).softmax(-1)
    torch.testing.assert_close(alone, exact)
    assert several.attention.dtype == torch.float32


@pytest.mark.parametrize("ordered", [False, True])
def test_several_layers_read_at_once_what_each_reads_alone(ordered: bool) -> None:
    layers, given = [layer(ordered=ordered), layer(ordered=ordered)], inputs()
    given["padding_mask"][1, 3:] = True
    with torch.no_grad():
        layers[1].up_word.weight.mul_(-0.5)
        for made, each in zip(layers, word_inputs_of(layers, given["words"], given["padding_mask"]), strict=True):
            alone = made.word_inputs(given["words"], given["padding_mask"])
            for name in ("attention", "gate_from", "gate_to", "up"):
                torch.testing.assert_close(getattr(each, name), getattr(alone, name))


def test_where_everything_is_hidden_answers_and_gradients_are_finite() -> None:
    made, given = layer(), inputs()
    given["padding_mask"][:], given["hidden"][:] = True, True
    state = given["state"].requires_grad_()
    answer = run(made, given)
    answer.sum().backward()
    assert answer.isfinite().all()
    assert state.grad is not None
    assert state.grad.isfinite().all()


@pytest.mark.parametrize(("ordered", "same"), [(False, True), (True, False)])
def test_words_in_another_order_are_the_same_set_only_without_distances(ordered: bool, same: bool) -> None:
    made, given = layer(ordered=ordered), inputs()
    turned = {
        **given,
        "state": given["state"].flip(2),
        "logits": given["logits"].flip(2),
        "words": given["words"].flip(1),
    }
    with torch.no_grad():
        assert torch.allclose(run(made, given), run(made, turned).flip(2), atol=1e-6) is same


@pytest.mark.parametrize("ordered", [False, True])
def test_a_word_hears_what_stands_around_it_outside_of_phrases(ordered: bool) -> None:
    torch.manual_seed(0)
    made = Connectives(nn.Embedding(20, 8), 8, ordered=ordered)
    ids, padding = torch.tensor([[3, 4, 5, 6, 0]]), torch.tensor([[False] * 4 + [True]])
    outside = torch.tensor([[-6.0, 0.0, -6.0, -6.0, 0.0]])  # the second word is of no phrase, and padding says nothing
    heard = made(ids, outside, padding)
    torch.testing.assert_close(made(ids[:, :4], outside[:, :4], padding[:, :4]), heard[:, :4])
    loud = made(torch.tensor([[3, 9, 5, 6, 0]]), outside, padding)
    soft = made(torch.tensor([[3, 4, 5, 9, 0]]), outside, padding)
    assert (loud - heard)[0, 2].norm() > 5 * (soft - heard)[0, 2].norm()


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="dim 8 and value 5 must be multiples of heads 2"):
        FusionLayer(8, width=4, heads=2, pair_dim=2, value=5)
