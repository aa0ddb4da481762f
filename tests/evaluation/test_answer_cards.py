"""Answers to look at: what is right bears its score, what is not says so, and all kinds are shown."""

from __future__ import annotations

import torch

from detr_mini.evaluation.metrics.grounding import Answer, Asked
from detr_mini.evaluation.report.answer_cards import card, spread
from detr_mini.structures import PhraseFound

BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
IMAGE = torch.zeros(3, 60, 60, dtype=torch.uint8)


def answer(scores: list[float], kind: str = "count", truth: int = 2) -> Answer:
    guess = PhraseFound(((4, 8),), BOXES, torch.tensor(scores))
    return Answer(kind, (Asked(((4, 8),), BOXES[:truth]),), (guess,), (60, 60), "the cats", 7)


def test_each_box_says_whether_it_is_right() -> None:
    right = card(answer([0.9, 0.8, 0.1]), 0.5, IMAGE)
    assert (right.notes, right.caption.detail) == (("0.90", "0.80"), "right")
    wrong = card(answer([0.9, 0.2, 0.7]), 0.5, IMAGE)
    assert (wrong.notes, wrong.caption.detail) == (("0.90", "wrong 0.70", "missed"), "WRONG")
    assert wrong.caption.phrases[0].things == (0, 1, 2)
    torch.testing.assert_close(wrong.boxes_xyxy[2], BOXES[1])


def test_a_phrase_that_nobody_asked_for_is_shown_and_one_that_was_not_read_is_missed() -> None:
    unread = Answer("list", (Asked(((4, 8),), BOXES[:1]),), (), (60, 60), "the cats")
    assert card(unread, 0.5, IMAGE).notes == ("missed",)
    more = PhraseFound(((0, 3),), BOXES, torch.tensor([0.0, 0.6, 0.0]))
    base = answer([0.9, 0.8, 0.1])
    two = card(Answer("count", base.asked, (*base.guesses, more), (60, 60), "the cats"), 0.5, IMAGE)
    assert two.notes == ("0.90", "0.80", "wrong 0.60")
    assert [phrase.spans for phrase in two.caption.phrases] == [((4, 8),), ((0, 3),)]


def test_nothing_found_and_nothing_there_is_right() -> None:
    nothing = card(answer([0.1, 0.1, 0.1], "absent", 0), 0.5, IMAGE)
    assert (nothing.notes, nothing.caption.detail, len(nothing.boxes_xyxy)) == ((), "right", 0)


def test_every_kind_is_shown() -> None:
    many = [answer([0.9, 0.8, 0.1], kind) for kind in ("list", "count", "list", "absent", "list", "list")]
    assert sorted(a.kind for a in spread(many, 6)) == ["absent", "count", "list", "list"]
    assert len(spread(many, 3)) == 3
    assert spread([], 5) == []
