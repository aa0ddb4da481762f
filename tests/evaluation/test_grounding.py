"""Figures of captions: exact, best guess, recall, absence; each on cases one can follow by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.evaluation.metrics.grounding import Answer, Asked, answers, best_threshold, grounding_metrics, is_exact
from detr_mini.phrases import Caption, Phrase
from detr_mini.structures import Captions, PhraseFound, Target

A, B, C = [0.0, 0, 10, 10], [50.0, 50, 70, 60], [20.0, 0, 30, 10]
SHIFTED = [2.0, 0, 12, 10]  # IoU with A: 8 / 12
FAR = [6.0, 0, 16, 10]  # IoU with A: 4 / 16


def boxes(*given: list[float]) -> torch.Tensor:
    return torch.tensor(given).reshape(-1, 4)


def asked(*given: list[float], spans: tuple[tuple[int, int], ...] = ((4, 8),)) -> Asked:
    return Asked(spans, boxes(*given))


def found(*given: tuple[list[float], float], spans: tuple[tuple[int, int], ...] = ((4, 8),)) -> PhraseFound:
    return PhraseFound(spans, boxes(*(box for box, _ in given)), torch.tensor([score for _, score in given]))


def answer(truth: tuple[Asked, ...], said: tuple[PhraseFound, ...], kind: str = "relation") -> Answer:
    return Answer(kind, truth, said, (100, 100))


@pytest.mark.parametrize(
    ("truth", "said", "right"),
    [
        ((asked(A),), (found((A, 0.9), (B, 0.1)),), True),
        ((asked(A),), (found((SHIFTED, 0.9)),), True),
        ((asked(A),), (found((FAR, 0.9)),), False),
        ((asked(A),), (found((A, 0.9), (B, 0.8)),), False),  # one too many
        ((asked(A, B),), (found((A, 0.9), (B, 0.1)),), False),  # one missing
        ((asked(A, B),), (found((B, 0.9), (SHIFTED, 0.8)),), True),
        ((asked(A, C),), (found((A, 0.9), (SHIFTED, 0.8)),), False),  # one thing twice
        ((asked(),), (found((A, 0.1)),), True),  # absent, and nothing said
        ((asked(),), (found((A, 0.9)),), False),
        ((asked(A),), (), False),
        ((asked(A),), (found((A, 0.9), spans=((20, 24),)),), False),  # other words
        ((asked(A), asked(B, spans=((10, 14),))), (found((A, 0.9)), found((B, 0.9), spans=((9, 15),))), True),
        ((asked(A), asked(B, spans=((10, 14),))), (found((A, 0.9)),), False),
        ((asked(A),), (found((A, 0.9)), found((B, 0.9), spans=((10, 14),))), False),
        ((asked(B), asked(A, spans=((10, 14),))), (found((A, 0.9)), found((B, 0.9), spans=((10, 14),))), False),
    ],
)
def test_exact_is_all_boxes_of_all_phrases_and_no_other(
    truth: tuple[Asked, ...], said: tuple[PhraseFound, ...], right: bool
) -> None:
    assert is_exact(answer(truth, said), 0.5) is right


def test_figures_follow_their_definitions() -> None:
    merged = [0.0, 0, 30, 10]  # around A and C
    given = [
        answer((asked(A),), (found((B, 0.9), (A, 0.6)),)),  # right at rank two; two above the threshold
        answer((asked(A, C),), (found((merged, 0.9), (A, 0.2)),), "count"),
        answer((asked(),), (found((A, 0.4)),), "absent"),
        answer((asked(),), (found((A, 0.6)),), "absent"),
    ]
    metrics = grounding_metrics(given, 0.5)
    assert metrics["grounding/accuracy"] == 0.25
    assert metrics["grounding/accuracy/absent"] == 0.5
    assert metrics["grounding/accuracy/relation"] == 0
    assert metrics["grounding/top1"] == metrics["grounding/recall_any@1"] == 0
    assert metrics["grounding/recall_any@5"] == 1
    assert metrics["grounding/recall_merged@1"] == 0.5
    assert metrics["grounding/absent_rejected"] == 0.5
    assert 0 < metrics["grounding/agnostic_AP"] < 1
    assert metrics["grounding/captions"] == 4


def test_a_perfect_reader_scores_one_everywhere() -> None:
    given = [
        answer((asked(A, B),), (found((A, 0.9), (B, 0.8), (C, 0.1)),)),
        answer((asked(),), (found((C, 0.1)),), "absent"),
    ]
    metrics = grounding_metrics(given, best_threshold(given))
    for name in ("accuracy", "top1", "recall_any@1", "absent_rejected", "agnostic_AP"):
        assert metrics[f"grounding/{name}"] == pytest.approx(1)


def test_what_has_nothing_to_be_taken_over_is_none() -> None:
    metrics = grounding_metrics([answer((asked(),), (), "absent")], 0.5)
    assert metrics["grounding/top1"] is None
    assert metrics["grounding/agnostic_AP"] is None
    assert metrics["grounding/absent_rejected"] == 1
    assert grounding_metrics([], 0.5)["grounding/accuracy"] is None


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6))
def test_the_best_threshold_has_most_exact_answers(scores: list[float]) -> None:
    given = [answer((asked(A),), (found((A, score), (B, score / 2)),)) for score in scores]
    best = best_threshold(given)
    right = [sum(is_exact(one, step / 20) for one in given) for step in range(1, 20)]
    assert sum(is_exact(one, best) for one in given) == max(right)


def test_answers_are_in_pixels_of_the_original_and_of_their_own_image() -> None:
    target = Target(
        torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.1, 0.1]]), torch.tensor([0, 0]), 7, (100, 200),
        torch.tensor([False, True]), torch.ones(2),
    )  # fmt: skip
    other = Target(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 8, (10, 10), torch.zeros(0).bool(), torch.ones(0)
    )
    star = Caption("the star", "attribute", (Phrase(((4, 8),), (0,), True),))
    none = Caption("the star of it", "absent", (Phrase(((4, 8),), (), True), Phrase(((12, 14),), (), False)))
    said = Captions(torch.ones(2, 3).long(), torch.zeros(2, 3).bool(), torch.tensor([1, 0]), ((), ()), (star, none))
    first, second = answers([(found((A, 0.5)),), ()], said, [other, target])
    torch.testing.assert_close(first.asked[0].boxes, torch.tensor([[80.0, 30, 120, 70]]))
    assert first.size == (100, 200)
    assert len(second.asked) == 1
    assert second.asked[0].boxes.shape == (0, 4)
