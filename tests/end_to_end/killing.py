"""Trainings that are killed: `python killing.py LOG`, started by `fork_server`, forks them with everything imported.

It reads requests and writes answers, a line of JSON each. A request has `words` (of `detr-mini train`), `folder` (the
run's), and `event`, the number of the write at which the training is killed, or `seconds` until then, or neither.
With `plain` it leaves out what takes longest beside the training: pictures, intervals, and Hydra reading the same words
again. An answer has the exit `status` (-9 where it was killed), the `events` so far and the `seconds` it took.

A write is a file that is opened to be written, flushed, renamed, linked or removed, or a folder that is made. At a
flush, half of the file is cut off first, and half a line is added to a file that is appended to: as if the kill came in
the middle of it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import fork_server


def watch_writes(folder: str, kill_at: int | None, events: int) -> None:
    """From now on, tell the pipe `events` of each write below `folder`; be killed before the write `kill_at`."""
    count = 0

    def happens(what: str, path: Any, prepare: Any = None) -> None:
        nonlocal count
        if isinstance(path, int) or not os.fspath(path).startswith(folder):
            return
        count += 1
        os.write(events, f"{what} {os.path.relpath(os.fspath(path), folder)}\n".encode())
        if count == kill_at:
            if prepare is not None:
                prepare(path)
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and args[2] & (os.O_CREAT | os.O_TRUNC | os.O_APPEND):
            happens("open", args[0], _add_half_a_line if args[2] & os.O_APPEND else None)
        elif event in ("os.rename", "os.link"):
            happens(event, args[1])
        elif event == "os.mkdir" or (event == "os.remove" and os.path.exists(args[0])):
            happens(event, args[0])

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isfile(path):
            happens("flush", path, _cut_in_half if path.endswith(".tmp") else None)
        real(descriptor)

    real, os.fsync = os.fsync, fsync
    sys.addaudithook(hook)


def _cut_in_half(path: str) -> None:
    os.truncate(path, os.stat(path).st_size // 2)


def _add_half_a_line(path: str) -> None:
    if str(path).endswith(".csv"):
        descriptor = os.open(path, os.O_WRONLY)
        os.lseek(descriptor, 0, os.SEEK_END)
        os.write(descriptor, b"1,0,3.")


def train(request: dict[str, Any], log: str, events: int) -> None:
    """In the child: what `detr-mini train` does. Never returns."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [__file__, "train", *request["words"]]  # what further processes are started with
    watch_writes(request["folder"], request.get("event"), events)
    from detr_mini.cli import main

    status = 1
    try:
        if request.get("plain"):
            make_plain(request["words"])
        status = main(sys.argv[1:])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def make_plain(words: list[str]) -> None:
    """In the child: pictures become empty files, so that a training still writes as often, and intervals take
    20 resamples.

    AttributeError where the package no longer has one of these names.
    """
    from detr_mini import cli
    from detr_mini.evaluation.report import measure
    from detr_mini.training import final_scores

    changes: list[tuple[Any, str, Any]] = [(final_scores, "curves", _empty), (measure, "gallery", _empty)]
    changes += [(measure, "draw_captions", _empty)]
    changes += [(final_scores, name, partial(getattr(final_scores, name), resamples=20))
                for name in ("measure", "score_found")]  # fmt: skip
    if tuple(words) in _configs:
        changes += [(cli, "compose", lambda *_: _configs[tuple(words)])]
    for module, name, value in changes:
        getattr(module, name)
        setattr(module, name, value)


def _empty(_: Any, path: Path, *__: Any) -> None:
    """In place of what draws a picture into `path`."""
    Path(path).write_bytes(b"")


_configs: dict[tuple[str, ...], Any] = {}


def answer(request: dict[str, Any], log: str) -> dict[str, Any]:
    """Fork a training, kill it where that is asked for, and wait for its end."""
    words = request["words"]
    if request.get("plain") and not words[0].startswith("resume=") and tuple(words) not in _configs:
        from detr_mini.config.compose import compose

        _configs[tuple(words)] = compose("train", words)
    reader, writer = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        train(request, log, writer)
    os.close(writer)
    os.set_inheritable(reader, False)
    done = 0
    while done == 0:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done == 0 and request.get("seconds") is not None and time.monotonic() - began > request["seconds"]:
            _kill(child, request.get("victim", "first"))
            request["seconds"] = None
        time.sleep(0.01)
    seconds = time.monotonic() - began
    if request.get("victim", "first") != "first" or os.WIFSIGNALED(status):
        with suppress(ProcessLookupError):  # the other processes of a training go with it
            os.killpg(child, signal.SIGKILL)
    with os.fdopen(reader) as stream:
        events = stream.read().splitlines()
    return {"status": os.waitstatus_to_exitcode(status), "events": events, "seconds": seconds, "cpu": used.ru_utime}


def _kill(child: int, victim: str) -> None:
    if victim == "second":
        found = subprocess.run(["pgrep", "-P", str(child)], capture_output=True, text=True).stdout.split()
        for process in found:
            os.kill(int(process), signal.SIGKILL)
        if found:
            return
    os.kill(child, signal.SIGKILL)


def go_on(words: list[str], folder: Path) -> list[str]:
    """The words for `detr-mini train` that a user has after a kill: resume, or the same once more."""
    begun = any((folder / name).is_file() for name in ("config.yaml", ".start.yaml"))
    return [f"resume={folder}"] if begun else [*words, f"run_folder={folder}"]


class Trainings:
    """The other side: a context in which `killing.py` runs, and trainings can be asked for."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "trainings.log"
        self.kills = 0

    def __enter__(self) -> Trainings:
        tests = Path(__file__).parents[1]
        paths = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        self._server = fork_server.start([__file__, str(self.log)], env, stdin=subprocess.PIPE, stderr=None)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def ask(self, words: list[str], folder: Path, **more: Any) -> dict[str, Any]:
        """Train; how it ended."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"words": words, "folder": str(folder), **more}) + "\n")
        self._server.stdin.flush()
        reply = json.loads(self._server.stdout.readline())
        self.kills += reply["status"] == -signal.SIGKILL
        return reply

    def finish(self, words: list[str], folder: Path, **more: Any) -> dict[str, Any]:
        """Train to the end: from where the folder stands, from the start where there is nothing to go on with."""
        reply = self.ask(go_on(words, folder), folder, **more)
        assert reply["status"] == 0, self.log.read_text()[-3000:]
        return reply

    def killed_at_random(self, words: list[str], folder: Path, chance: random.Random, seconds: float, kills: int,
                         victims: tuple[str, ...] = ("first",)) -> None:  # fmt: skip
        """Train to the end, killed once to `kills` times on the way, each time within so many `seconds`.

        A training that was over before its first kill is begun again, and given less time.
        """
        killed = 0
        for _ in range(kills):
            victim = chance.choice(victims)
            moment = chance.uniform(0, seconds)
            reply = self.ask(go_on(words, folder), folder, seconds=moment, victim=victim, plain=True)
            assert reply["status"] in (0, -signal.SIGKILL, 2 if victim == "second" else 0), self.log.read_text()[-3000:]
            self.kills += reply["status"] == 2  # the first process ended by itself when the second one was killed
            killed += reply["status"] != 0
            seconds *= 1 if reply["status"] else 0.7
        if killed:
            self.finish(words, folder, plain=True)
        else:
            shutil.rmtree(folder)
            self.killed_at_random(words, folder, chance, seconds, kills, victims)


if __name__ == "__main__":
    if "LOCAL_RANK" in os.environ:  # one of the further processes of a training
        from detr_mini.cli import main

        sys.exit(main(sys.argv[1:]))
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), sys.argv[1])), flush=True)
