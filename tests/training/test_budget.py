from __future__ import annotations

from types import SimpleNamespace

import pytest

from detr_mini.training import budget as budget_module
from detr_mini.training.budget import Budget


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock in place of the budget's that stands still; a test moves `clock.seconds`."""
    clock = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(budget_module, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    return clock


def test_a_budget_of_steps_is_a_share_of_steps() -> None:
    budget = Budget(steps=8)
    assert [budget.progress(step) for step in (0, 2, 8, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert not budget.over(7) and budget.over(8)


def test_time_counts_between_start_and_pause_only(clock: SimpleNamespace) -> None:
    budget = Budget(seconds=100)
    budget.start()
    clock.seconds += 2
    budget.pause()
    clock.seconds += 30
    assert budget.elapsed == 2
    budget.set_elapsed(50.0)
    assert budget.progress(0) == 0.5
    budget.start()
    clock.seconds += 10
    assert budget.progress(0) == 0.6


def test_of_two_limits_the_nearer_one_counts() -> None:
    budget = Budget(steps=10, seconds=100)
    budget.set_elapsed(30.0)
    assert budget.progress(2) == 0.3
    assert budget.progress(6) == 0.6
    assert budget.over(10)


def test_a_budget_has_an_end() -> None:
    with pytest.raises(ValueError, match="needs steps, seconds, or both"):
        Budget()


def test_processes_that_agree_on_the_time_see_the_same_progress_until_they_agree_again(clock: SimpleNamespace) -> None:
    one, other = Budget(seconds=100), Budget(seconds=100)
    one.start()
    for elapsed in (10.0, 20.0):
        for budget in (one, other):
            budget.agree(elapsed)
        clock.seconds += 1
        assert one.agreed_progress(1) == other.agreed_progress(1) == elapsed / 100
        assert one.progress(1) > other.progress(1)
    alone = Budget(steps=10)
    assert alone.agreed_progress(3) == alone.progress(3) == 0.3
