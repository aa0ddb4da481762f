"""A training that begins with another one's weights: rows go by names, the rest by place, nothing in silence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from detector_parts import BACKBONE, CATEGORIES, GROUNDED, MODEL, PlainLinear, checkpoint_of, untrained
from detr_mini.errors import CheckpointError
from detr_mini.models.build import build_model
from detr_mini.pretrained.transfer import THING, Start, carry, rows_by_token
from detr_mini.structures import Categories
from detr_mini.text.names import plain_name, rows_by_name
from detr_mini.text.tokenizers import AnyTokenizer, CharacterTokenizer, WordTokenizer

DETR = {"_target_": "detr_mini.models.DETR", "dim": 32, "heads": 2, "feedforward": 32, "encoder_layers": 1,
        "decoder_layers": 1, "queries": 8}  # fmt: skip
WORDS = WordTokenizer(["a", "bolt", "red", "nut"])


def saved(model: nn.Module, config: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of a model of this config."""
    return {**checkpoint_of(model), "config": {"model": config, "backbone": BACKBONE}}


def begin(
    names: tuple[str, ...], checkpoint: dict[str, Any], model: dict[str, Any] = MODEL, **parts: Any
) -> tuple[nn.Module, nn.Module, list[str]]:
    """A model for categories of these names before and after it has begun with the checkpoint; what was said."""
    torch.manual_seed(1)
    categories = Categories(tuple(range(len(names))), names)
    tokenizer: AnyTokenizer | None = parts.get("tokenizer")
    words = {} if tokenizer is None else {"vocabulary": len(tokenizer)}
    before, after = (build_model(model, BACKBONE, len(names), **words) for _ in range(2))
    after.load_state_dict(before.state_dict())
    start = Start({"model": model, "backbone": BACKBONE}, categories, tokenizer)
    return before, after, carry(after, checkpoint, "outputs/old", start)


def test_the_same_categories_in_another_order_give_the_same_detector() -> None:
    old = untrained().eval()
    _, new, notices = begin(("washer", "bolt", "nut"), checkpoint_of(old))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        one, other = old(images), new.eval()(images)
    torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=0)
    torch.testing.assert_close(one.logits[..., [2, 0, 1]], other.logits, rtol=0, atol=0)
    assert notices == ["init=outputs/old: 3 of 3 categories go on with its rows: 'bolt', 'nut', 'washer'"]


def test_rows_go_over_by_name_new_ones_begin_anew_and_all_is_said() -> None:
    old = untrained()
    before, new, notices = begin(("gear", "NUT"), checkpoint_of(old))
    own, fresh, given = new.state_dict(), before.state_dict(), old.state_dict()
    tables = set(new.category_rows)  # type: ignore[arg-type]
    assert len(tables) == 9  # two heads over the memory and two decoder layers, weight and bias each; the embedding
    for name, value in own.items():
        if name in tables:
            assert torch.equal(value[0], fresh[name][0])
            assert torch.equal(value[1], given[name][1])
        else:
            assert torch.equal(value, given[name]), name
    assert notices == [
        "init=outputs/old: 1 of 2 categories go on with its rows: 'NUT (its nut)'; new rows: 'gear'; "
        "2 of its 3 categories are not in these data"
    ]


def test_no_object_of_the_2020_model_goes_over_too() -> None:
    old = untrained(DETR)
    _, new, _ = begin(("gear", "nut"), saved(old, DETR), DETR)
    rows, given = new.state_dict()["class_embed.weight"], old.state_dict()["class_embed.weight"]
    assert torch.equal(rows[1:], given[[1, 3]])


def test_names_are_the_same_whatever_their_case_and_what_stands_between_words() -> None:
    assert rows_by_name(["red blood cell", "platelet"], ["Red-Blood_Cell", "PLATELET", "white"]) == {0: 0, 1: 1}
    assert plain_name("  Red_Blood-Cell ") == "red blood cell"
    assert plain_name("+") == "+" != plain_name("-")
    assert rows_by_name(["Cell", "cell"], ["cell", "CELL"]) == {0: 1}  # the second could be either
    assert rows_by_name(["cell"], ["cell", "Cell"]) == {0: 0, 1: 0}
    assert rows_by_name(["STRASSE"], ["straße"]) == {0: 0}


def test_another_architecture_is_refused_in_a_sentence_that_says_what_would_build_it() -> None:
    larger = {**MODEL, "dim": 64, "decoder": {"layers": 3}}
    ours = {**MODEL, "decoder": {"layers": 2}}
    torch.manual_seed(0)
    checkpoint = saved(build_model(larger, BACKBONE, 3), larger)
    with pytest.raises(CheckpointError) as caught:
        begin(("bolt",), checkpoint, ours)
    assert "say model.dim=64 model.decoder.layers=3 to build the same, or leave init out" in str(caught.value)
    with pytest.raises(
        CheckpointError,
        match=r"init=outputs/old holds another architecture, DETR on ConvNet, and this training builds MiniDETR on "
        r"ConvNet; choose the same model=\.\.\. and backbone=",
    ):
        begin(("bolt",), saved(untrained(DETR), DETR))
    two = {**MODEL, "decoder": {"layers": 3}}
    with pytest.raises(CheckpointError, match=r"decoder\.2.* is missing, here it is .*say model\.decoder\.layers=2"):
        begin(("bolt",), saved(untrained(ours), ours), two)
    with pytest.raises(CheckpointError, match=r"its decoder\.2.*, here it is missing; say model\.decoder\.layers=3"):
        begin(("bolt",), saved(untrained(two), two), ours)
    with pytest.raises(CheckpointError, match="a PlainLinear cannot begin with the weights of x"):
        carry(PlainLinear(1, 1), checkpoint, "x", Start({}, CATEGORIES))


def test_a_detector_begins_with_one_that_reads_sentences_and_the_other_way_round() -> None:
    grounded = untrained(GROUNDED, vocabulary=len(WORDS))
    checkpoint = {**saved(grounded, GROUNDED), "tokeniser": WORDS.state()}
    _, new, notices = begin(("nut",), checkpoint)
    assert torch.equal(new.state_dict()["decoder_norm.weight"], grounded.state_dict()["decoder_norm.weight"])
    assert "text" in notices[-1] and "are left out, the model has none" in notices[-1]
    before, new, notices = begin(("nut",), checkpoint_of(untrained()), GROUNDED, tokenizer=WORDS)
    assert torch.equal(new.state_dict()["text.norm.weight"], before.state_dict()["text.norm.weight"])
    assert "text" in notices[-1] and "they begin anew" in notices[-1]


def test_tokens_go_over_by_their_text() -> None:
    grounded = untrained(GROUNDED, vocabulary=len(WORDS))
    checkpoint = {**saved(grounded, GROUNDED), "tokeniser": WORDS.state()}
    ours = WordTokenizer(["nut", "gear", "a"])
    before, new, notices = begin(("nut",), checkpoint, GROUNDED, tokenizer=ours)
    given = grounded.state_dict()
    for name in new.token_rows:  # type: ignore[union-attr]
        rows = new.state_dict()[name]
        assert torch.equal(rows[[0, 1, 2, 3, 4, 6]], given[name][[0, 1, 2, 3, 7, 4]])
        assert torch.equal(rows[5], before.state_dict()[name][5])
    assert "init=outputs/old: 6 of 7 tokens go on with its vectors" in notices
    assert rows_by_token(CharacterTokenizer("ab"), CharacterTokenizer("bc"))[4 + 256] == 4 + 256 + 1


def test_every_category_begins_as_a_thing_where_the_detector_has_learned_to_find_things() -> None:
    things = Categories((1,), (THING,))
    old = build_model(MODEL, BACKBONE, 1).eval()
    for parameter in old.parameters():
        nn.init.normal_(parameter, std=0.05)
    _, new, notices = begin(("gear", "nut"), checkpoint_of(old, things))
    given = old.state_dict()
    for name, value in new.state_dict().items():
        if name.endswith("classify.bias"):  # two categories share the score of a thing
            torch.testing.assert_close(value, (given[name] - math.log(2)).expand(2))
        else:
            assert torch.equal(value, given[name].expand_as(value)), name
    assert notices == ["init=outputs/old has learned to find things of any kind: every category begins as one"]
