"""Trainings of two processes, each with a fault at a random moment: all end, say why, and go on to the same bits.

    PYTHONPATH=tests python tests/faults/hundred_faults.py [COUNT] [SEED]

COUNT (100) faults, drawn by SEED (0): a signal to the first process, to the second or to both, a full disk, a dead
worker of either; in every third training the second process's clock runs a thousand times too fast. Each training is
repeated by the same command (`resume=auto`) until it is done, and compared with one that had no fault. Prints a line
for each, and what was not as it should be at the end.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired

import psutil
import torch

from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.scenes.shapes import ensure_scenes
from fork_server import Process
from process_parts import start
from training_parts import overrides, weights

ENDS = 60.0
"""Seconds within which all processes end after a fault."""
STEPS = 12
SIGNALS = ("SIGKILL", "SIGTERM", "SIGUSR1", "SIGINT")
SETTINGS = ("trainer=ddp", "trainer.devices=2", "trainer.threads=1", "data.test=null", "trainer.log_every_steps=1",
            "data.batch_size=2", "data.workers=1", f"trainer.max_steps={STEPS}", "trainer.save_every_minutes=1e-9",
            "resume=auto")  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What happens, to whom, and when: a share of an undisturbed training's time, or a step."""

    kind: str
    victims: tuple[int, ...]
    moment: float
    fast_clock: bool

    @classmethod
    def drawn(cls, chance: random.Random) -> Fault:
        """Any of them."""
        kind = chance.choice((*SIGNALS, "full disk", "dead worker"))
        victims = chance.choice(((0,), (1,), (0, 1)) if kind in SIGNALS else ((0,), (1,)))
        return cls(kind, (0,) if kind == "full disk" else victims, chance.random(), chance.random() < 1 / 3)

    @property
    def inside(self) -> dict[int, dict[str, float]]:
        """The part of it that a process does to itself (`process_parts.prepare`)."""
        own: dict[int, dict[str, float]] = {1: {"clock": 1000}} if self.fast_clock else {}
        if self.kind == "full disk":
            own[0] = {"full": 1 + int(self.moment * (STEPS - 1))}
        return own

    def __str__(self) -> str:
        who = " and ".join(str(rank) for rank in self.victims)
        return f"{self.kind} to {who} at {self.moment:.2f}" + (", clocks apart" if self.fast_clock else "")


def processes_of(first: Process) -> dict[int, psutil.Process]:
    """The first process, and the second where it is there."""
    found = {0: psutil.Process(first.pid)}
    for child in found[0].children():
        if child.environ().get("LOCAL_RANK") == "1":
            found[1] = child
    return found


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The data workers of one process of a training."""
    rank = process.environ().get("LOCAL_RANK")
    return [child for child in process.children() if child.environ().get("LOCAL_RANK") == rank]


def do(fault: Fault, first: Process, seconds: float) -> bool:
    """Let it happen; False where the training was over before."""
    if fault.kind == "full disk":
        return True
    time.sleep(fault.moment * seconds)
    until = time.monotonic() + seconds
    while first.poll() is None and time.monotonic() < until:
        try:
            there = processes_of(first)
            aims = [there[rank] for rank in fault.victims]
            if fault.kind == "dead worker":
                aims = workers_of(aims[0])[:1]
            if aims:
                for aim in aims:
                    aim.send_signal(signal.SIGKILL if fault.kind == "dead worker" else getattr(signal, fault.kind))
                return True
        except (psutil.Error, KeyError):  # not yet there, or no longer
            pass
        time.sleep(0.02)
    return False


def left_over(run: Path) -> Iterator[psutil.Process]:
    """Processes of the training in `run` that are still there, beside the first, whose command is not its own."""
    for process in psutil.process_iter():
        try:
            if f"run_folder={run}" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


def ended(first: Process, run: Path) -> tuple[float, str]:
    """Seconds until all processes had ended, and their output. Those that hang are killed."""
    begun = time.monotonic()
    output = ""
    while time.monotonic() - begun < 2 * ENDS:
        try:
            output = first.communicate(timeout=0.2)[0]
        except TimeoutExpired:
            continue
        if not any(left_over(run)):
            break
        time.sleep(0.1)
    seconds = time.monotonic() - begun
    first.kill()
    for process in left_over(run):
        process.kill()
    return seconds, output


def one(fault: Fault, words: list[str], run: Path, whole: dict, seconds: float) -> list[str]:
    """What was not as it should be with this fault."""
    wrong = []
    first = start(words, fault.inside)
    happened = do(fault, first, seconds)
    ends, output = ended(first, run)
    ends = 0.0 if fault.kind == "full disk" else ends  # it comes while this waits
    status = first.returncode
    said = [line for line in output.splitlines() if line.startswith("detr-mini: ")]
    sentence = said[-1] if said else ""
    if ends > ENDS:
        wrong.append(f"all had ended after {ends:.0f} s only")
    if status and not said and not (fault.kind == "SIGKILL" and 0 in fault.victims):
        wrong.append(f"no sentence, status {status}: {output[-300:]!r}")
    for attempt in range(3):
        if status == 0:
            break
        again = start(words)
        _, output = ended(again, run)
        status = again.returncode
        if status and attempt == 2:
            wrong.append(f"it does not go on: {output[-300:]!r}")
    if not status:
        end = read_checkpoint(run / "last.ckpt")
        same = all(torch.equal(value, whole[name]) for name, value in weights(end).items())
        if end["global_step"] != STEPS or not same:
            wrong.append("it does not end in the same bits")
    print(f"{'' if happened else '(over before) '}{fault}: ended after {ends:.1f} s; {sentence[:120]}", flush=True)
    return wrong


def main(count: int, seed: int) -> None:
    """Print each training, and the sum."""
    chance, wrong = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = folder / "shapes"
        ensure_scenes(scenes, train=16, val=8, test=6, seed=0, size=64, processes=1)

        def words(run: Path) -> list[str]:
            return overrides(scenes, *SETTINGS, f"run_folder={run}")

        first = start(words(folder / "whole"))
        begun = time.monotonic()
        _, output = ended(first, folder / "whole")
        seconds = time.monotonic() - begun
        if first.returncode:
            sys.exit(output[-3000:])
        whole = weights(read_checkpoint(folder / "whole" / "last.ckpt"))
        for number in range(count):
            fault, run = Fault.drawn(chance), folder / f"run{number}"
            for complaint in one(fault, words(run), run, whole, seconds):
                print(f"    WRONG: {complaint}", flush=True)
                wrong[complaint.partition(":")[0]] += 1
            shutil.rmtree(run, ignore_errors=True)
    print(f"{count} faults; not as it should be: {dict(wrong) or 'none'}")


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["100", "0"][len(sys.argv) - 1 :])))
