"""Cases from public reports: names as a caption (G-02, G-04)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from PIL import Image
from torch import Tensor

from detector_parts import BACKBONE, CATEGORIES, IMAGE, MODEL
from detr_mini.errors import UserError
from detr_mini.inference.detector import Detector
from detr_mini.models.build import build_model
from detr_mini.structures import Captions, DetectorOutput, GroundingOutput
from detr_mini.text.tokenizers import CharacterTokenizer

GROUNDED = {
    **MODEL,
    "_target_": "detr_mini.models.GroundedDETR",
    "text": {"heads": 2, "feedforward": 32, "layers": 1, "max_tokens": 80},
    "joint": {"layers": 1, "width": 8, "heads": 2, "pair_dim": 4},
}
PICTURE = Image.linear_gradient("L").convert("RGB").resize((60, 40))


@pytest.fixture(scope="module")
def detector() -> Detector:
    tokenizer = CharacterTokenizer.train(["abcdefghijklmnopqrstuvwxyz0123456789. "], size=400)
    torch.manual_seed(0)
    model = build_model(GROUNDED, BACKBONE, len(CATEGORIES), vocabulary=len(tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Detector(model, CATEGORIES, IMAGE, tokenizer=tokenizer)


def understands(monkeypatch: pytest.MonkeyPatch, detector: Detector, things: Sequence[str]) -> list[str]:
    """The detector's query i is a `things[i]` from now on: it answers to the tokens of exactly that name. What it was
    asked goes into the list.
    """
    asked: list[str] = []

    def ground(output: DetectorOutput, captions: Captions) -> GroundingOutput:
        c, t = captions.token_ids.shape
        logits = torch.full((c, output.boxes.shape[1], t), -6.0)
        for row, ids in enumerate(captions.token_ids.tolist()):
            text = detector.tokenizer.decode(ids)  # type: ignore[union-attr]
            asked.append(text)
            begin = 1  # after [BEGIN]; a token a character
            for name in text.split("."):
                blank = len(name) - len(name.lstrip())
                if name.strip() in things:
                    logits[row, things.index(name.strip()), begin + blank : begin + len(name)] = 6.0
                begin += len(name) + 1
        return GroundingOutput((logits,), torch.zeros(c, t, 4))

    monkeypatch.setattr(detector.model, "ground", ground)
    return asked


def scores_of(detector: Detector, names: list[str]) -> dict[str, Tensor]:
    found = detector.detect(PICTURE, names, threshold=0.0, limit=10_000)
    return {name: found.scores[torch.tensor([n == name for n in found.names])] for name in names}


@pytest.mark.parametrize("as_text", [True, False])
def test_G_02_of_more_names_than_fit_the_last_is_found_in_a_pass_of_its_own(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, as_text: bool
) -> None:
    names = [f"category {number}" for number in range(120)]
    asked = understands(monkeypatch, detector, [names[119]])
    found = detector.detect(PICTURE, ". ".join(names) + "." if as_text else names, threshold=0.5)
    assert found.phrases == found.names == ("category 119",)
    assert found.queries is not None
    assert found.queries.tolist() == [0]
    assert len(asked) > 12
    assert [name.strip() for text in asked for name in text.split(".") if name.strip()] == names


def test_G_02_scores_of_many_names_are_numbers_between_0_and_1(detector: Detector) -> None:
    scores = scores_of(detector, [f"category {number}" for number in range(120)])
    assert len(scores) == 120
    assert all(len(own) == 8 and own.isfinite().all() and (own >= 0).all() and (own <= 1).all()
               for own in scores.values())  # fmt: skip


def test_G_02_names_that_do_not_fit_at_all_are_listed(detector: Detector) -> None:
    with pytest.raises(
        UserError, match=r"the model takes at most 80 tokens; these names are too long: 'x{100}'\. Shorten"
    ):
        detector.detect(PICTURE, ["cup", "x" * 100])


def test_a_long_sentence_that_is_no_list_of_names_is_refused(detector: Detector) -> None:
    with pytest.raises(UserError, match=r"the caption has 152 tokens, the model takes 80; shorten it"):
        detector.detect(PICTURE, "the cup by the door " * 7 + "cupboard 1")


@pytest.mark.parametrize("names", [["cup", "door", "cupboard"], ["cupboard", "Door", "cup"], ["board", "cupboard"]])
@pytest.mark.parametrize("as_text", [True, False])
def test_G_04_a_name_inside_another_name_is_not_taken_for_it(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, names: list[str], as_text: bool
) -> None:
    understands(monkeypatch, detector, [name.lower() for name in names])
    found = detector.detect(PICTURE, ". ".join(names) + "." if as_text else names, threshold=0.9)
    assert found.queries is not None
    assert dict(zip(found.queries.tolist(), found.names, strict=True)) == dict(enumerate(names))
    assert len(found) == len(names)
    assert found.phrases == found.names
