"""Python processes that start at once: each is forked from a process that has imported torch and Lightning already.

    process = start(["process_parts.py", "train", *words], environment())

does what `subprocess.Popen([sys.executable, "process_parts.py", "train", *words], ...)` does, without the imports,
which take five to seven seconds of a core. The process that forks, the server, starts at the first call and ends with
this process; each worker of pytest has one.

Three differences remain from a process that starts cold. Python's hashes have one seed in all forked processes.
Libraries have read their variables already: the number of threads and Lightning's rank are set again, others are not.
And /proc/PID/cmdline and /proc/PID/environ are those of the server. Processes that a training starts itself are cold.

A forked process has none of its parent's threads, and waits forever for a lock that one of them held. The server
therefore computes nothing and has a single thread; it refuses to run with more.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from multiprocessing import connection
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve()
IMPORTS = ("detr_mini.cli", "detr_mini.training.run", "detr_mini.captions.datamodule",
           "hydra.core.override_parser.overrides_parser", "matplotlib.figure")  # fmt: skip
"""What a training imports, and what these import in turn."""
LONGEST = 1 << 20
"""Bytes of a message, at most."""


class Process:
    """A forked process, with those methods of `subprocess.Popen` that tests use."""

    def __init__(self, words: Sequence[str], pid: int, stdin: TextIO | None, stdout: TextIO) -> None:
        self.args, self.pid, self.stdin, self.stdout = words, pid, stdin, stdout
        self.returncode: int | None = None
        self._output = b""

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = _server().ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if _left(until) == 0:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.01)
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All output, once every process that writes to the same pipe has ended. It may be called again."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self.stdout.closed:
            if not connection.wait([self.stdout], _left(until)):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            part = os.read(self.stdout.fileno(), 1 << 16)
            self._output += part
            if not part:
                self.stdout.close()
        self.wait(_left(until))
        return self._output.decode(), None

    def send_signal(self, number: int) -> None:
        """No effect once it has ended. Until `poll` has seen the end, its pid belongs to no other process."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


def start(
    words: Sequence[str], env: Mapping[str, str], cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL, stderr: int | None = subprocess.STDOUT,
) -> Process:  # fmt: skip
    """Start `python WORDS`, where WORDS begin with a file, or with -m and a module. Its output goes to a pipe.

    `stdin` is DEVNULL or PIPE. `stderr` is STDOUT, or None for the standard error of this process.
    """
    request = {"words": [str(word) for word in words], "env": dict(env), "cwd": str(cwd or Path.cwd())}
    server = _server()
    read, write = os.pipe()
    theirs, ours = os.pipe() if stdin == subprocess.PIPE else (os.open(os.devnull, os.O_RDONLY), None)
    try:
        pid = server.ask(request, (theirs, write, 2 if stderr is None else write))
    finally:
        os.close(theirs)
        os.close(write)
    return Process(words, pid, None if ours is None else os.fdopen(ours, "w"), os.fdopen(read))


class Server:
    """The process that forks, as this process sees it."""

    def __init__(self) -> None:
        self._asked = 0
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        paths = [str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE), str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )  # fmt: skip
        atexit.register(self.close)

    def ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> Any:
        """The answer of `serve` to a request."""
        self._asked += 1
        number, result = 0, None
        try:
            text = json.dumps({**request, "number": self._asked}).encode()
            socket.send_fds(self._connection, [text], descriptors)
            while number != self._asked:  # a request that was interrupted has left its answer behind
                number, result = json.loads(self._connection.recv(LONGEST))
        except (ConnectionError, ValueError):  # where it has ended, it sends nothing
            status = self._process.wait(60)
            why = f"{HERE.name}: the server ended with status {status}; its standard error says why"
            raise RuntimeError(why) from None
        return result

    def close(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)  # forked processes of this one may hold it open
        self._connection.close()
        self._process.wait(60)


@cache
def _server() -> Server:
    return Server()


def serve(client: socket.socket) -> dict[str, Any] | None:
    """Answer requests until the other side is gone. In each forked process, return what it is to run.

    A request is answered at once: with the pid of the process that was forked for it, or, to "poll", with an exit
    status or null. Any number of processes run at the same time, and none waits for another.
    """
    running: set[int] = set()
    while True:
        try:
            text, given, *_ = socket.recv_fds(client, LONGEST, 3)
        except ConnectionError:  # the other side was killed before it had read an answer
            break
        if not text:
            break
        request: dict[str, Any] = json.loads(text)
        answer: int | None
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            running.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                client.close()
                for number, descriptor in enumerate(given):  # standard input, output and error
                    os.dup2(descriptor, number)
            for descriptor in given:
                os.close(descriptor)
            if answer == 0:
                return request
            running.add(answer)
        with suppress(ConnectionError):  # the next request is the end
            client.send(json.dumps([request["number"], answer]).encode())
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return None


def run(request: dict[str, Any], imported: Mapping[str, str]) -> None:
    """Do in this forked process what `python WORDS` does. `imported`: the variables that imports have set."""
    import numpy
    import torch
    from lightning_fabric.utilities.rank_zero import _get_rank, rank_zero_only

    os.environ.clear()
    os.environ.update({**imported, **request["env"]})
    os.chdir(request["cwd"])
    # new ones: those of the server know whether its own files can be sought in
    sys.stdin = open(0, encoding=sys.stdin.encoding, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, sys.stderr.encoding, "backslashreplace", closefd=False)  # noqa: SIM115
    numpy.random.seed()  # noqa: NPY002  # chance that nobody seeds must differ from process to process
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    rank_zero_only.rank = _get_rank() or 0
    first, *rest = request["words"]
    if first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    before = dict(os.environ)
    for name in IMPORTS:
        import_module(name)
    threads = [Path(task.path, "comm").read_text().strip() for task in os.scandir("/proc/self/task")]
    if len(threads) > 1:
        sys.exit(f"{HERE.name}: a process that forks must have one thread, and these imports start more: {threads}")
    sys.stdout.flush()
    sys.stderr.flush()
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        run(asked, {name: value for name, value in os.environ.items() if before.get(name) != value})
