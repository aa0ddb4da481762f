from __future__ import annotations

import time

import pytest

from detr_mini.training.budget import Budget


def test_a_budget_of_steps_is_a_share_of_steps() -> None:
    budget = Budget(steps=8)
    assert [budget.progress(step) for step in (0, 2, 8, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert not budget.over(7) and budget.over(8)


def test_time_counts_between_start_and_pause_only() -> None:
    budget = Budget(seconds=100)
    budget.start()
    time.sleep(0.02)
    budget.pause()
    elapsed = budget.elapsed
    time.sleep(0.02)
    assert budget.elapsed == elapsed >= 0.02
    budget.set_elapsed(50.0)
    assert budget.progress(0) == 0.5
    budget.start()
    assert 0.5 <= budget.progress(0) < 0.51


def test_a_budget_is_of_one_kind() -> None:
    for wrong in ({}, {"steps": 1, "seconds": 1.0}):
        with pytest.raises(ValueError, match="steps or in seconds"):
            Budget(**wrong)
