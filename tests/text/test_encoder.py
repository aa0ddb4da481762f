"""The text encoder: order through positions only, and padding changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.errors import ConfigError
from detr_mini.text.encoder import POSITIONS, TextEncoder
from detr_mini.text.tokenizers import WordTokenizer, pad

QUICK = settings(deadline=None, max_examples=20)
KINDS = pytest.mark.parametrize("positions", POSITIONS)


def encoder(positions: str) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(vocabulary=30, dim=16, heads=2, feedforward=32, layers=2, positions=positions).eval()


@KINDS
@QUICK
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_padding_does_not_change_a_caption(positions: str, lengths: list[int]) -> None:
    net, g = encoder(positions), torch.Generator().manual_seed(sum(lengths))
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, 30, (length,), generator=g)
    together, _ = net(ids, ids == 0)
    assert not together[ids == 0].any()
    for row, length in enumerate(lengths):
        alone, _ = net(ids[row : row + 1, :length], torch.zeros(1, length, dtype=torch.bool))
        torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("positions", "same"), [("none", True), ("relative", False), ("sine", False), ("learned", False)]
)
def test_only_positions_tell_who_chased_whom(positions: str, same: bool) -> None:
    sentences = ["the dog chased the cat", "the cat chased the dog"]
    words = WordTokenizer.train(sentences)
    ids, mask = pad([words.encode(sentence) for sentence in sentences])
    vectors, _ = encoder(positions)(ids, mask)
    first, second = (vectors[row, :].detach() for row in range(2))
    order = [ids[1].tolist().index(token) for token in ids[0].tolist()]
    order[3] = 3  # the second "the"
    assert torch.allclose(first, second[order], atol=1e-5) is same


@KINDS
def test_weights_are_returned_for_each_layer_on_request_only(positions: str) -> None:
    net = encoder(positions)
    ids, mask = torch.tensor([[4, 5, 6, 0]]), torch.tensor([[False, False, False, True]])
    vectors, none = net(ids, mask)
    again, weights = net(ids, mask, need_weights=True)
    assert none == []
    assert torch.equal(vectors, again)
    assert [w.shape for w in weights] == [(1, 2, 4, 4)] * 2
    for w in weights:
        torch.testing.assert_close(w.sum(-1), torch.ones(1, 2, 4))
        assert not w[..., 3].any()


def test_unknown_positions_and_too_long_a_caption_are_refused() -> None:
    with pytest.raises(ConfigError, match="'sinus' do not exist; did you mean 'sine'"):
        TextEncoder(vocabulary=9, positions="sinus")
    net = TextEncoder(vocabulary=9, dim=8, heads=2, max_tokens=3)
    with pytest.raises(ValueError, match="5 tokens are more than the 3"):
        net(torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 5, dtype=torch.bool))
