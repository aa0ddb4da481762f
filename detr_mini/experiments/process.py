"""Trains a run in a process of its own: if it is killed, the others continue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType

from detr_mini.experiments.record import Outcome

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
COMMAND = (sys.executable, "-m", "detr_mini", "train")
PACKAGE = Path(__file__).resolve().parents[2]


class Processes:
    """The training processes of a sweep, each with `threads` threads (None: as many as a single training has).

    Ctrl-C, SIGTERM and a closed terminal reach them once, through this class: each writes its last.ckpt after its step,
    no further one starts, and leaving the context waits for them. A second Ctrl-C stops them at once.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self.stopping = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._former: dict[int, signal.Handlers | int | object | None] = {}

    def __enter__(self) -> Processes:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not self.stopping:
            self._interrupt()
        for process in list(self._running):
            process.wait()
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() returned

    def _ask(self, number: int, frame: FrameType | None) -> None:
        first = not self.stopping
        self._interrupt()
        if first:
            print("\nstopping: each run writes its state after its step. Ctrl-C again stops at once", flush=True)
            raise KeyboardInterrupt

    def _interrupt(self) -> None:
        self.stopping = True
        for process in list(self._running):
            process.send_signal(signal.SIGINT)

    def train(self, words: Sequence[str], log: Path) -> Outcome:
        """Run `detr-mini train WORDS`, append its output to `log`, and return how it ended."""
        if self.stopping:
            return 130, "stopped"
        paths = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
        own = {"PYTHONPATH": paths}
        if self.threads is not None:
            own |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [*COMMAND, *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **own},
                start_new_session=True,  # otherwise a terminal's Ctrl-C would reach it twice
            )
        self._running.add(process)
        if self.stopping:  # Ctrl-C came while it started
            process.send_signal(signal.SIGINT)
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        finally:
            self._running.discard(process)
        return status, _sentence(status, log)


def shared_threads(jobs: int) -> int:
    """Threads for each of `jobs` simultaneous runs: an equal share of this process's cores, at least one."""
    from joblib import cpu_count

    allowed = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cpu_count() // jobs)
    return min(share, int(allowed)) if allowed.isdigit() and int(allowed) else share


def _sentence(status: int, log: Path) -> str:
    """The error sentence of a process that ended with `status`."""
    if status == 0:
        return ""
    if status < 0:
        name = signal.Signals(-status).name
        return f"its process was ended by {name}" + (" (often because memory ran out)" if name == "SIGKILL" else "")
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("detr-mini: ") if lines else f"it ended with status {status}"
