"""Threads that wait for each other give way while other processes need the cores.

GNU OpenMP's threads spin for milliseconds while they wait, which is fast on cores of one's own: sleeping threads take a
quarter of a training's speed, since waking one takes longer than most of the work between two waits. Where another
process shares a core it is the other way round: they spin while the thread that they wait for does not run, and a
training falls to a quarter. So a watch measures how long this process's threads wait for a core, and lets waiting
threads sleep while that is much (docs/log/speed.md has the figures). The results of a computation are the same bits.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import torch

TASKS = Path("/proc/self/task")
SHARED, ALONE = 0.55, 0.4
"""Seconds of waiting for a core, in a second of work, from which on cores count as shared, and below which they do not.
Measured on two cores: at most 0.36 alone, with data workers; at least 0.74 beside a process that is always busy, and
0.51 there while waiting threads sleep."""
INTERVAL = 1.0
LEAST_WORK = 0.1
"""Seconds of work in an interval, below which it says nothing."""


class SleepingThreads:
    """While on, OpenMP's waiting threads sleep at once instead of spinning.

    GNU OpenMP has no function for that, but it hardly spins while it manages more threads than there are cores. So this
    keeps some more of them, asleep: each Python thread that computes in parallel gets a team of its own.
    """

    def __init__(self) -> None:
        self._end: threading.Event | None = None

    @property
    def on(self) -> bool:
        return self._end is not None

    def start(self) -> None:
        """No effect where torch computes with one thread."""
        threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
        if self._end is not None or threads < 2:
            return
        self._end = threading.Event()
        for _ in range(max(0, cores - threads) // (threads - 1) + 1):
            ready = threading.Event()
            threading.Thread(target=_keep_team, args=(ready, self._end), daemon=True).start()
            ready.wait()

    def stop(self) -> None:
        if self._end is not None:
            self._end.set()
            self._end = None


def _keep_team(ready: threading.Event, end: threading.Event) -> None:
    """Make this thread's OpenMP team by computing something in parallel, and keep it until `end`."""
    torch.ones(1 << 17).add_(1)
    ready.set()
    end.wait()


class CoreWatch:
    """Decides by the time that threads wait for a core. One object for a process."""

    def __init__(self) -> None:
        self.sleeping = SleepingThreads()
        self._before = thread_times()

    def look(self) -> None:
        """Compare with the last look, and let threads sleep or spin."""
        now = thread_times()
        share = waiting_share(self._before, now)
        self._before = now
        if share is None:
            return
        if share > SHARED:
            self.sleeping.start()
        elif share < ALONE:
            self.sleeping.stop()

    def run(self) -> None:
        while True:
            time.sleep(INTERVAL)
            self.look()


def thread_times() -> dict[str, tuple[int, int]]:
    """Nanoseconds on a core and of waiting for one, of each thread of this process; empty where the system hides it."""
    times = {}
    try:
        for task in os.scandir(TASKS):
            try:
                running, waiting = Path(task.path, "schedstat").read_text().split()[:2]
            except FileNotFoundError:  # the thread has ended
                continue
            times[task.name] = int(running), int(waiting)
    except (OSError, ValueError):
        return {}
    return times


def waiting_share(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> float | None:
    """Waiting for a core of all threads, per time that the busiest one had work; None for too little work."""
    spent = [
        (run - before.get(name, (0, 0))[0], wait - before.get(name, (0, 0))[1]) for name, (run, wait) in now.items()
    ]
    work = max((run + wait for run, wait in spent), default=0) / 1e9
    return sum(wait for _, wait in spent) / 1e9 / work if work > LEAST_WORK else None


_started = threading.Lock()


def share_cores() -> bool:
    """Watch the cores from now on, once in a process; whether they are watched.

    Not where somebody says how threads wait (OMP_WAIT_POLICY, GOMP_SPINCOUNT), and not where the system does not tell
    how long they wait for a core (only Linux does).
    """
    chosen = os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    if chosen or not any(running for running, _ in thread_times().values()):
        return False
    if _started.acquire(blocking=False):
        threading.Thread(target=CoreWatch().run, name="core watch", daemon=True).start()
    return True
