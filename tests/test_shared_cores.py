"""Waiting threads sleep while other processes need the cores (U-01)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_mini import shared_cores
from detr_mini.shared_cores import CoreWatch, waiting_share

PACKAGE = Path(shared_cores.__file__).parents[1]
SECOND = 10**9
WATCHED = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's schedstat")


def run(code: str, **more: str) -> list[str]:
    """The words that `code` prints in a process of its own, with OpenMP's settings as `more` says."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=PACKAGE, env={**bare, **more}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@given(st.lists(st.tuples(st.integers(0, SECOND), st.integers(0, SECOND)), min_size=1, max_size=9))
def test_the_share_is_of_waiting_in_the_time_of_the_busiest_thread(spent: list[tuple[int, int]]) -> None:
    before = {str(k): (k * SECOND, 3 * SECOND) for k in range(0, len(spent), 2)}  # every second thread is new
    now = {}
    for k, (running, waiting) in enumerate(spent):
        run, wait = before.get(str(k), (0, 0))
        now[str(k)] = run + running, wait + waiting
    share = waiting_share(before, now)
    work = max(r + w for r, w in spent)
    assert share == (pytest.approx(sum(w for _, w in spent) / work) if work > SECOND // 10 else None)


@WATCHED
def test_a_look_lets_threads_sleep_beside_other_work_and_spin_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"main": (0, 0), "worker": (0, 0)}
    monkeypatch.setattr(shared_cores, "thread_times", lambda: dict(times))
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    watch = CoreWatch()

    def after(running: float, waiting: float) -> bool:
        """Whether threads sleep after a second of this."""
        for name, (run, wait) in times.items():
            times[name] = run + int(running * SECOND), wait + int(waiting * SECOND)
        watch.look()
        return watch.sleeping.on

    assert not after(0.95, 0.05)
    assert after(0.55, 0.45)
    assert after(0.75, 0.25), "between the two limits all stays as it is"
    assert after(0.0, 0.01), "a moment of work says nothing"
    assert not after(0.9, 0.1)
    assert not after(0.75, 0.25)


@WATCHED
def test_sleeping_threads_are_kept_until_they_are_stopped() -> None:
    code = (
        "import os, time, torch; from detr_mini.shared_cores import SleepingThreads\n"
        "torch.set_num_threads(2); torch.ones(1 << 20).add_(1)\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "before, sleeping = count(), SleepingThreads()\n"
        "sleeping.start(); sleeping.start(); during = count(); sleeping.stop(); sleeping.stop(); time.sleep(1)\n"
        "print(during - before >= 2, count() - before)"
    )
    assert run(code) == ["True", "0"]


@WATCHED
@pytest.mark.parametrize(("settings", "watched"), [({}, "True"), ({"OMP_WAIT_POLICY": "active"}, "False"),
                                                   ({"GOMP_SPINCOUNT": "9"}, "False")])  # fmt: skip
def test_u01_cores_are_watched_by_one_thread_unless_somebody_says_how_threads_wait(
    settings: dict[str, str], watched: str
) -> None:
    code = (
        "import threading; from detr_mini.shared_cores import share_cores\n"
        "print(share_cores() and share_cores(), sum(t.name == 'core watch' for t in threading.enumerate()))"
    )
    assert run(code, **settings) == [watched, str(int(watched == "True"))]


@WATCHED
def test_u01_a_loaded_detector_watches_the_cores() -> None:
    code = (
        "import threading; from detr_mini import load\n"
        "load('shapes_captions'); print('core watch' in [t.name for t in threading.enumerate()])"
    )
    assert run(code) == ["True"]


BESIDE = """
import resource, time, torch
from detr_mini.shared_cores import share_cores
torch.set_num_threads(2)
x = torch.rand(100_000)
def work(seconds):
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        x.add_(1)
        count += 1
    return count
def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw, usage.ru_utime + usage.ru_stime
def measure():
    work(3)
    slept, seconds = spent()
    count = work(2)
    print(count, spent()[0] - slept, spent()[1] - seconds)
measure()
share_cores()
measure()
"""
"""Prints two lines: how it computes without the watch, and then with it."""


@WATCHED
@pytest.mark.slow
def test_u01_beside_a_busy_process_waiting_threads_sleep_and_do_more_in_their_time_on_a_core() -> None:
    """How much more they do by the clock depends on the scheduler, and on what else is running (docs/log/speed.md)."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("needs two cores")
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    busy = subprocess.Popen(
        [sys.executable, "-c", "while True: pass"], preexec_fn=lambda: os.sched_setaffinity(0, {cores[1]})
    )
    sleeps: dict[str, list[float]] = {"watched": [], "not": []}
    done: dict[str, list[float]] = {"watched": [], "not": []}
    try:
        for _ in range(3):
            out = subprocess.run(
                [sys.executable, "-c", BESIDE], capture_output=True, text=True, timeout=100, cwd=PACKAGE, env=bare,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )  # fmt: skip
            for kind, line in zip(("not", "watched"), out.stdout.splitlines(), strict=True):
                count, slept, seconds = map(float, line.split())
                sleeps[kind].append(slept / count)
                done[kind].append(count / seconds)
    finally:
        busy.kill()
    assert median(sleeps["watched"]) > 1, sleeps
    assert median(sleeps["not"]) < 0.1, sleeps
    assert median(done["watched"]) > median(done["not"]), done
