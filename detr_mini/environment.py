"""What a process inherits from where it was started: a terminal, a notebook's settings, how threads wait."""

from __future__ import annotations

import io
import os
import sys
from importlib.util import find_spec


def drawable(anywhere: bool = False) -> None:
    """Have matplotlib draw into files where the environment names a backend that it cannot import.

    A notebook's MPLBACKEND is inherited by the commands that it starts. `anywhere`: whatever it names.
    """
    backend = os.environ.get("MPLBACKEND", "")
    module = backend.removeprefix("module://")
    if backend and "matplotlib" not in sys.modules and (anywhere or (module != backend and not _found(module))):
        os.environ["MPLBACKEND"] = "agg"


def patient_threads() -> None:
    """Have threads that wait for each other sleep, where torch is not loaded yet and nobody has said otherwise.

    By default they spin. Where another process uses a core, they then spin while the thread that they wait for does
    not run: 0.75 batches a second in place of 27 on two busy cores (docs/results.md).
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def printable() -> None:
    """Print a question mark for a character that the terminal's encoding lacks, and for bytes that are no text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def quiet_end() -> int:
    """Drop what could not be printed to a reader that has gone (`| head`); the exit status of that."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError, AttributeError):  # no file of the system's
            continue
    return 141  # 128 + SIGPIPE, as a shell counts it
