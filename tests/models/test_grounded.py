"""The detector that takes sentences: many captions share an image, none sees another, padding moves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.errors import ConfigError
from detr_mini.models import grounded
from detr_mini.models.grounded import GroundedDETR, merged, phrase_numbers, phrases_of
from detr_mini.models.mini import MiniDETR
from detr_mini.structures import Captions, GroundingOutput
from detr_mini.vision.convnet import ConvNet

SIZES = {"dim": 32, "heads": 2, "feedforward": 48, "queries": 8, "sample_channels": 8, "num_classes": 3}


def backbone() -> ConvNet:
    return ConvNet(channels=(4, 8, 16, 32), blocks=(0, 1, 1, 1))


def make() -> GroundedDETR:
    torch.manual_seed(0)
    model = GroundedDETR(
        backbone=backbone(),
        vocabulary=30,
        text={"heads": 2, "feedforward": 32, "layers": 1},
        joint={"layers": 2, "width": 8, "heads": 2, "pair_dim": 4, "likenesses": 2},
        **SIZES,
    )
    with torch.no_grad():  # an untrained model says nearly the same of everything
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> GroundedDETR:
    return make()


def captions(lengths: list[int], image: list[int], longest: int | None = None) -> Captions:
    """Captions of these lengths; caption i reads the same wherever it stands."""
    longest = longest or max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, 30, (length,), generator=torch.Generator().manual_seed(length))
    padding = torch.arange(longest)[None] >= torch.tensor(lengths)[:, None]
    spans = tuple(tuple((2 * i, 2 * i + 1) for i in range(length)) for length in lengths)
    return Captions(ids, padding, torch.tensor(image), spans)


def images(n: int) -> torch.Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(n))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 4))
def test_a_caption_alone_and_beside_longer_ones_of_any_image_says_the_same(lengths: list[int], more: int) -> None:
    model, two = make(), images(2)
    where = [i % 2 for i in range(len(lengths))]
    with torch.no_grad():
        together = model(two, captions=captions(lengths, where, max(lengths) + more)).grounding
        for row, (length, image) in enumerate(zip(lengths, where, strict=True)):
            alone = model(two[image : image + 1], captions=captions([length], [0])).grounding
            torch.testing.assert_close(together.logits[-1][row, :, :length], alone.logits[-1][0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together.tags[row, :length], alone.tags[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "buckets"), [("cpu", 4), ("cuda", 1), ("mps", 1)])
def test_sixty_four_captions_have_four_length_buckets_on_a_cpu_and_one_on_a_gpu(kind: str, buckets: int) -> None:
    assert grounded.length_buckets(64, torch.device(kind)) == buckets
    assert grounded.length_buckets(31, torch.device(kind)) == 1


def test_one_length_bucket_and_four_give_the_same_logits_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = make().double(), [1 + i % 9 for i in range(64)]
    given = captions(lengths, [i % 2 for i in range(64)])
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    def said(buckets: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        monkeypatch.setattr(grounded, "length_buckets", lambda captions, device: buckets)
        model.zero_grad()
        found = model(images(2).double(), captions=given).grounding
        logits, tags = found.logits[-1].masked_fill(~valid[:, None], 0), found.tags.masked_fill(~valid[..., None], 0)
        (logits.square().mean() + tags.square().mean()).backward()
        return logits, tags, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    torch.testing.assert_close(said(1), said(4))


def test_captions_that_images_share_are_encoded_once_and_say_the_same(
    model: GroundedDETR, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, encoded = captions([5, 3, 5, 3, 4], [0, 0, 1, 1, 1]), list[int]()

    def run() -> list[torch.Tensor]:
        encoded.clear()
        with torch.no_grad():
            found = model(images(2), captions=given).grounding
        return [found.logits[-1], found.tags]

    counted = model.text.register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0])))
    try:
        once = run()
        assert sum(encoded) == 3
        monkeypatch.setattr(model, "_words_once", model.words_and_tags)
        each = run()
        assert sum(encoded) == 5
    finally:
        counted.remove()
    for one, other in zip(once, each, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_training_encodes_every_caption() -> None:
    model, encoded = make().train(), list[int]()
    model.text.register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0])))
    model(images(2), captions=captions([3, 3], [0, 1]))
    assert sum(encoded) == 2


def test_a_phrase_takes_the_boxes_of_its_own_image_along_and_no_others(model: GroundedDETR) -> None:
    given = captions([3, 3, 3], [0, 1, 1])
    with torch.no_grad():
        output = model(images(2), captions=given)
    tags = torch.nn.functional.one_hot(torch.tensor([[1, 0, 1]] * 3), 4).float()
    asked = replace(output, grounding=GroundingOutput(output.grounding.logits, tags))
    for found in model.read(asked, given, [(100, 200), (50, 60)]):
        assert len(found) == 2
        for phrase in found:
            assert phrase.boxes.untyped_storage().nbytes() == phrase.boxes.nbytes


def test_an_image_padded_in_a_batch_says_the_same_of_its_caption(model: GroundedDETR) -> None:
    small = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(3))
    padded = torch.zeros(2, 3, 96, 80)
    padded[0, :, :48, :64] = small[0]
    mask = torch.ones(2, 96, 80, dtype=torch.bool)
    mask[0, :48, :64] = False
    mask[1] = False
    with torch.no_grad():
        alone = model(small, captions=captions([5], [0])).grounding.logits[-1]
        beside = model(padded, mask, captions=captions([5, 5], [0, 1])).grounding.logits[-1]
    torch.testing.assert_close(beside[:1], alone, atol=1e-4, rtol=1e-4)


def test_without_captions_it_is_its_detector(model: GroundedDETR) -> None:
    plain = MiniDETR(backbone=backbone(), **SIZES).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    with torch.no_grad():
        ours, theirs = model(images(2)), plain(images(2))
    assert ours.grounding is None
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.boxes, theirs.boxes)


def test_a_batch_without_captions_is_one_of_images(model: GroundedDETR) -> None:
    none = Captions(torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, 0, dtype=torch.bool), torch.zeros(0).long(), ())
    with torch.no_grad():
        alone, with_none = model(images(2)), model(images(2), captions=none)
    assert with_none.grounding is None
    torch.testing.assert_close(with_none.logits, alone.logits)


def test_the_order_of_the_words_matters(model: GroundedDETR) -> None:
    said = captions([4], [0])
    turned = replace(said, token_ids=said.token_ids.flip(1))
    with torch.no_grad():
        one, other = (model(images(1), captions=c).grounding.logits[-1] for c in (said, turned))
    assert (one - other.flip(2)).abs().max() > 1e-3


def test_every_parameter_gets_a_gradient() -> None:
    model = make().train()
    output = model(images(2), captions=captions([3, 6, 2], [0, 1, 1]))
    assert len(output.grounding.logits) == 3  # before the layers, and after each
    parts = [*output.grounding.logits, output.grounding.tags]
    sum(part.square().sum() for part in parts).backward()
    silent = [
        name for name, p in model.named_parameters()
        if p.grad is None
        and name.startswith(("text", "connect", "joint", "pairs", "place", "thing", "alike", "of_", "tag", "speaks"))
    ]  # fmt: skip
    assert not silent


def test_with_attributes_a_head_tells_them_in_training_only() -> None:
    torch.manual_seed(0)
    model = GroundedDETR(
        backbone=backbone(), vocabulary=30, attributes=5, text={"heads": 2, "feedforward": 32, "layers": 1},
        joint={"layers": 1, "width": 8, "heads": 2, "pair_dim": 4, "likenesses": 2}, **SIZES,
    )  # fmt: skip
    assert model.train()(images(2), captions=captions([3], [1])).grounding.attributes.shape == (2, 8, 5)
    assert model.eval()(images(2), captions=captions([3], [1])).grounding.attributes is None


def test_fusion_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.joint\.layers is 0; it must be at least 1"):
        GroundedDETR(backbone=backbone(), vocabulary=30, text={"heads": 2, "layers": 1}, joint={"layers": 0}, **SIZES)


def test_phrases_begin_where_a_word_says_so_and_go_on_over_gaps() -> None:
    other, begin, inside, anchor = range(4)
    assert phrases_of([other, begin, inside, other, begin, anchor, other, inside]) == [[1, 2], [4, 7]]
    assert phrases_of([inside, other]) == []


@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=4))
def test_phrases_of_several_captions_are_numbered_in_one_formula(tags: list[list[int]]) -> None:
    for own, numbers in zip(tags, phrase_numbers(torch.tensor(tags)).tolist(), strict=True):
        expected = [-1] * 7
        for number, phrase in enumerate(phrases_of(own)):
            for token in phrase:
                expected[token] = number
        assert numbers == expected
    assert merged([(0, 5), (6, 9), (12, 14), (12, 14)]) == ((0, 9), (12, 14))


def test_a_phrases_score_is_the_mean_of_its_words_on_the_images_own_pixels(model: GroundedDETR) -> None:
    said = captions([3], [0])
    with torch.no_grad():
        output = model(images(1), captions=said)
    logits = torch.full((1, 8, 3), -20.0)
    logits[0, 5] = torch.tensor([9.0, 1.0, 3.0])
    tags = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2]]), 4).float()
    told = replace(output, grounding=GroundingOutput((logits,), tags))
    ((phrase,),) = model.read(told, said, [(100, 200)])
    assert phrase.spans == ((2, 5),)
    assert int(phrase.scores.argmax()) == 5
    assert float(phrase.scores[5]) == pytest.approx(float(torch.tensor(2.0).sigmoid()))
    assert (phrase.boxes >= 0).all()
    assert (phrase.boxes[:, 2] <= 200).all()
    assert (phrase.boxes[:, 3] <= 100).all()


def test_what_a_step_without_captions_or_attributes_leaves_out_is_known() -> None:
    torch.manual_seed(0)
    model = GroundedDETR(
        backbone=backbone(), vocabulary=30, attributes=5, text={"heads": 2, "feedforward": 32, "layers": 1},
        joint={"layers": 1, "width": 8, "heads": 2, "pair_dim": 4, "likenesses": 2}, **SIZES,
    ).train()  # fmt: skip
    used = captions([3, 4], [0, 1])

    def silent(said: Captions | None) -> set[str]:
        """The parameters of the part that reads captions that a step leaves without a gradient."""
        model.zero_grad()
        output = model(images(2), captions=said)
        parts = [output.logits, output.boxes]
        if output.grounding is not None:
            parts += [*output.grounding.logits, output.grounding.tags]
            parts += [] if said is None or said.attributes is None else [output.grounding.attributes]
        sum(part.square().sum() for part in parts).backward()
        of_images = {name for name, _ in MiniDETR(backbone=backbone(), **SIZES).named_parameters()}
        return {name for name, p in model.named_parameters() if p.grad is None} - of_images

    names = {id(p): name for name, p in model.named_parameters()}
    known = torch.zeros(2, 1, 5, dtype=torch.bool)
    for said in (None, used, replace(used, attributes=known)):
        assert {names[id(p)] for p in model.left_out(said)} == silent(said)
    assert len(model.left_out(None)) > len(model.left_out(used)) == 2
    assert not model.left_out(replace(used, attributes=known))
