"""Losses of captions: least where words are tied to their things, nothing from padding and absent anchors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from detr_mini.losses.grounding import attribute_loss, grounding_loss
from detr_mini.losses.matcher import Match
from detr_mini.structures import Captions, GroundingOutput

QUERIES = 5
MATCH = Match(
    torch.tensor([[3, 1], [0, 0]]),
    torch.tensor([[0, 1], [0, 0]]),
    torch.tensor([[True, True], [True, False]]),
    torch.ones(2, dtype=torch.long),
)
"""Query 3 of the first image is its first truth, query 1 its second; query 0 of the second image its only one."""


def captions() -> Captions:
    """Of image 0 (its second thing asked for, the first the anchor), and of image 1 (absent)."""
    spoken = torch.zeros(2, 2, 4, dtype=torch.bool)
    spoken[0, 1, 1], spoken[0, 0, 3] = True, True
    tags = torch.tensor([[0, 1, 0, 3], [0, 1, -1, -1]])
    padding = torch.tensor([[False] * 4, [False, False, True, True]])
    return Captions(
        torch.ones(2, 4, dtype=torch.long),
        padding,
        torch.tensor([0, 1]),
        ((), ()),
        (),
        spoken,
        tags,
    )


def perfect() -> GroundingOutput:
    logits = torch.full((2, QUERIES, 4), -20.0)
    logits[0, 1, 1], logits[0, 3, 3] = 20.0, 20.0
    tags = 20.0 * torch.nn.functional.one_hot(captions().tags.clamp(min=0), 4).float()
    return GroundingOutput((logits, logits), tags)


def loss(output: GroundingOutput, said: Captions | None = None) -> tuple[float, dict[str, Tensor]]:
    total, parts = grounding_loss(output, said or captions(), MATCH)
    return float(total), parts


def test_each_query_is_told_its_truth() -> None:
    assert MATCH.at_queries(MATCH.truth, QUERIES, fill=-1).tolist() == [[-1, 1, -1, 0, -1], [0, -1, -1, -1, -1]]


def test_what_is_right_costs_nothing() -> None:
    total, parts = loss(perfect())
    assert total < 1e-5
    assert all(float(part) < 1e-5 for part in parts.values())


def test_each_part_costs_where_it_is_wrong() -> None:
    right = perfect()
    wrong = right.logits[1].clone()
    wrong[0, 1, 1] = -20.0
    assert loss(replace(right, logits=(right.logits[0], wrong)))[1]["tokens"] > 1
    assert loss(replace(right, tags=-right.tags))[1]["tags"] > 1


def test_padding_costs_nothing_whatever_is_said_there() -> None:
    right = perfect()
    logits = right.logits[0].clone()
    logits[1, :, 2:] = 20.0
    tags = right.tags.clone()
    tags[1, 2:] = torch.tensor([-20.0, 3.0, 5.0, 0.0])
    assert loss(replace(right, logits=(logits, logits), tags=tags))[0] < 1e-5


def test_attributes_count_for_matched_queries_alone() -> None:
    attributes = torch.tensor([[[True, False], [False, True]], [[True, True], [False, False]]])
    logits = torch.full((2, QUERIES, 2), 7.0)  # of what is matched to nothing, anything may be said
    logits[0, 3], logits[0, 1], logits[1, 0] = torch.tensor([[20.0, -20.0], [-20.0, 20.0], [20.0, 20.0]])
    assert attribute_loss(logits, attributes, MATCH) < 1e-5
    logits[0, 3, 1] = 20.0
    torch.testing.assert_close(attribute_loss(logits, attributes, MATCH), torch.tensor(20.0))


def test_queries_that_stand_for_padding_cost_nothing() -> None:
    right = perfect()
    logits = right.logits[0].clone()
    logits[0, 4] = 20.0
    wrong = replace(right, logits=(logits,))
    visible = torch.ones(2, QUERIES, dtype=torch.bool)
    assert loss(wrong)[0] > 1
    visible[0, 4] = False
    assert float(grounding_loss(wrong, captions(), MATCH, visible)[0]) < 1e-5
