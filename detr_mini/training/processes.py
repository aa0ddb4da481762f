"""The other processes of a training: if one dies, it is reported, and the others do not wait for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytorch_lightning as pl
import torch

GRACE = 0.5
"""Seconds for a lost process to end this process's collective with an error. NCCL does not; it waits forever."""


class PeerWatch(pl.Callback):
    """Ends a training if one of its processes has died; exit status 2, as for everything that the user can fix.

    It replaces Lightning's own watch, which kills this process without a message.
    """

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._ended = threading.Event()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.processes = list(getattr(trainer.strategy.launcher, "procs", ()))
        if self.processes:
            self._folder = Path(trainer.default_root_dir)
            for thread in threading.enumerate():
                if thread.name == "child-process-observer":
                    thread._finished = True  # type: ignore[attr-defined]  # Lightning's own class
            threading.Thread(target=self._watch, name="peer watch", daemon=True).start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._ended.set()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            sentence = self.dead()
            if sentence is not None and not self._ended.wait(GRACE):
                print(f"detr-mini: {sentence}; {how_to_continue(self._folder)}", file=sys.stderr, flush=True)
                for process in self.processes:
                    process.kill()
                os._exit(2)  # nothing interrupts a main thread that waits in a collective

    def dead(self) -> str | None:
        """Which process has ended too early, and how; None if none has."""
        for number, process in enumerate(self.processes, 1):
            code = process.poll()
            if code:
                how = f"ended with exit code {code}; its message is above"
                if code < 0:
                    name = signal.Signals(-code).name
                    how = f"was ended by {name}" + (", usually because memory ran out" if name == "SIGKILL" else "")
                return f"process {number} of this training (pid {process.pid}) {how}"
        return None


def lost_peer(error: BaseException, watch: PeerWatch) -> str | None:
    """The sentence for a collective that failed because another process is gone; None for any other error."""
    text = str(error)
    marks = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
    if not isinstance(error, torch.distributed.DistError) and not any(mark in text for mark in marks):
        return None
    deadline = time.monotonic() + 5 * GRACE
    while watch.processes and watch.dead() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return watch.dead() or "another process of this training has ended or cannot be reached; its message is above"


def how_to_continue(folder: Path) -> str:
    """The end of a sentence about a training that was interrupted."""
    return f"the training was interrupted; continue with resume={folder}"
