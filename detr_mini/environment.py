"""What a process inherits: command line, the terminal's encoding, matplotlib's backend, how threads wait; its host."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec


@contextmanager
def command_line(words: Sequence[str]) -> Iterator[None]:
    """Within this context the command line is `words`, for one run of several.

    A strategy that starts more processes repeats the command line, which then describes that run alone.
    """
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        yield
    finally:
        sys.argv = before


def drawable(anywhere: bool = False) -> None:
    """Let matplotlib draw into files where MPLBACKEND names a backend that cannot be imported.

    Commands that a notebook starts inherit its MPLBACKEND. `anywhere`: whatever MPLBACKEND names.
    """
    backend = os.environ.get("MPLBACKEND", "")
    module = backend.removeprefix("module://")
    if backend and "matplotlib" not in sys.modules and (anywhere or (module != backend and not _found(module))):
        os.environ["MPLBACKEND"] = "agg"


def own_cores(processes: int) -> int:
    """The cores for one of this machine's `processes`. SLURM may have pinned each to cores of its own already."""
    cores = usable_cores()
    pinned = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return cores if pinned.isdecimal() and cores <= int(pinned) else max(1, cores // processes)


def usable_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_this_host() -> str:
    """Where this process runs, for an error about a file: " on the host NAME" if a launcher has started it, else ""."""
    launched = any(name in os.environ for name in ("WORLD_SIZE", "SLURM_JOB_ID"))
    return f" on the host {socket.gethostname()}" if launched else ""


def patient_threads() -> None:
    """Let waiting threads sleep where `shared_cores` cannot watch whether other processes use the cores.

    Not if torch is loaded already or OMP_WAIT_POLICY is set. Only Linux tells how long threads wait for a core.
    """
    if "torch" not in sys.modules and not os.path.exists("/proc/self/schedstat"):
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def one_thread_for_numpy() -> None:
    """Let NumPy multiply matrices on one thread, unless it is loaded already or OPENBLAS_NUM_THREADS is set.

    Ours are small, and OpenBLAS's threads spin between two products: `data split` of 6,000 images took 344 seconds of
    processor time beside another process, and 17 with one thread.
    """
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def printable() -> None:
    """Print a question mark for characters that the terminal's encoding lacks, and for bytes that are not text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def quiet_end() -> int:
    """Drop output that nobody reads any more (`| head`); the exit status for it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError, AttributeError):  # not a file of the operating system
            continue
    return 141  # 128 + SIGPIPE, as a shell counts it
