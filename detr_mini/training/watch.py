"""If one process of a training fails or dies, all others end within a minute, and one sentence says which and why.

Each process holds a connection to the first one. The system closes it when the process ends, however that happens, and
when its machine does not answer for 35 seconds, so no clock of ours decides that a process which computes is dead.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detr_mini.training.launch import Launch

GRACE = 1.5
"""Seconds in which the first process may report the same failure as another one by itself."""
VERDICT = 10.0
"""Seconds to wait for the reason why a collective failed."""
LONGEST = 1 << 16
"""Bytes of a message, at most."""
LOST = "another process of this training has ended or cannot be reached; its message is above"
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class Watch:
    """One process's view of the others: `serve` in the first, `connect` in all others.

    `folder` is the run's, once it is known. `at_end` is called with the sentence before a process is ended from
    outside its main thread, which may wait in a collective that nothing interrupts.
    """

    def __init__(self, launch: Launch | None = None) -> None:
        self.launch = launch or Launch()
        self.processes: list[subprocess.Popen[bytes]] = []
        """Those that this process has started."""
        self.folder: Path | None = None
        self.at_end: list[Callable[[str], None]] = []
        self._over, self._failing = threading.Event(), threading.Event()
        self._connections: dict[socket.socket, dict[str, Any]] = {}
        self._finished: set[int] = set()
        self._to_first: socket.socket | None = None
        self._sending = threading.Lock()

    # In the first process

    def serve(self, token: str) -> int:
        """Listen for the others, on a free port, which is returned. A connection without `token` is closed.

        Processes that a launcher has started reach this one by the machine's name, even on the same machine.
        """
        alone = self.launch.by is None and self.launch.local_world == self.launch.world
        server = socket.create_server(("127.0.0.1" if alone else "", 0), backlog=max(16, self.launch.world))
        threading.Thread(target=self._watch_all, args=(server, token), name="peer watch", daemon=True).start()
        return int(server.getsockname()[1])

    def _watch_all(self, server: socket.socket, token: str) -> None:
        selector = selectors.DefaultSelector()
        selector.register(server, selectors.EVENT_READ)
        while not self._over.is_set():
            for key, _ in selector.select(0.2):
                if key.fileobj is server:
                    connection, _ = server.accept()
                    _keep_alive(connection)
                    hello = _receive(connection, 10.0)
                    if hello is None or hello.get("token") != token:
                        connection.close()
                        continue
                    self._connections[connection] = hello
                    selector.register(connection, selectors.EVENT_READ)
                else:
                    connection = key.fileobj  # type: ignore[assignment]
                    message = _receive(connection, 10.0)
                    if message is None or "done" in message:
                        selector.unregister(connection)
                    who = self._connections[connection]
                    if message is not None and "done" in message:
                        self._finished.add(who["rank"])
                    elif message is None and not self._over.is_set():
                        self._end(*self._lost(who))
                    elif message is not None and "failed" in message:
                        where = f"process {who['rank']} of this training (pid {who['pid']} on {who['host']})"
                        self._end(f"{where} failed: {message['failed']}", message["status"])
            dead = self.dead()
            if dead is not None:
                self._end(dead, 2)

    def _lost(self, who: dict[str, Any]) -> tuple[str, int]:
        deadline = time.monotonic() + 1.0
        while self.dead() is None and self.processes and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.dead() or (
            f"process {who['rank']} of this training (pid {who['pid']} on {who['host']}) ended without a message, "
            "usually because memory ran out or its machine is lost"
        ), 2

    # In the others

    def watch_starter(self, pid: int) -> None:
        """Until `connect`: end this process when `pid`, which has started it, is gone. Nobody else would say so."""
        threading.Thread(target=self._watch_starter, args=(pid,), name="starter watch", daemon=True).start()

    def _watch_starter(self, pid: int) -> None:
        child = os.getppid() == pid  # not where a wrapper stands between them
        while self._to_first is None and not self._over.is_set():
            if (child and os.getppid() != pid) or not _exists(pid):
                if self.launch.local_rank == 1:
                    self._say(f"process {self.launch.rank - 1} of this training ended before the others had joined it, "
                              "usually because memory ran out")  # fmt: skip
                self._leave(2)
            time.sleep(0.5)

    def connect(self, address: str, port: int, token: str) -> None:
        """Hold a connection to the first process from now on."""
        self._to_first = socket.create_connection((address, port), timeout=60)
        _keep_alive(self._to_first)
        me = {"token": token, "rank": self.launch.rank, "pid": os.getpid(), "host": socket.gethostname()}
        self._send(self._to_first, me)
        threading.Thread(target=self._watch_first, args=(self._to_first,), name="peer watch", daemon=True).start()

    def _watch_first(self, connection: socket.socket) -> None:
        message = _receive(connection, None)
        if self._over.is_set():
            return
        if message is None:
            # the first that is left on each machine says it
            if self.launch.rank == 1 or (self.launch.node > 0 and self.launch.first_of_machine):
                self._say("process 0 of this training ended without a message, usually because memory ran out or "
                          "its machine is lost")  # fmt: skip
            self._leave(2)
        elif "end" in message:
            self._leave(int(message["end"]))

    # In all

    def dead(self) -> str | None:
        """Which process that this one has started ended too early, and how; None if none has."""
        for number, process in enumerate(self.processes, 1):
            code = process.poll()
            if code and self.launch.rank + number not in self._finished:
                how = f"ended with exit code {code}; its message is above"
                if code < 0:
                    name = signal.Signals(-code).name
                    how = f"was ended by {name}" + (", usually because memory ran out" if name == "SIGKILL" else "")
                return f"process {self.launch.rank + number} of this training (pid {process.pid}) {how}"
        return None

    def report(self, sentence: str, status: int) -> bool:
        """Tell all others that this process fails. False where it reaches nobody: this process must report it then."""
        self._failing.set()
        if self._to_first is not None:
            return self._send(self._to_first, {"failed": sentence, "status": status})
        self._end_others(status)
        return False

    def wait_for_verdict(self) -> None:
        """After a collective failed: wait until the watch ends this process with the reason."""
        time.sleep(VERDICT)

    def wait_for_others(self) -> None:
        """At the end: wait for the processes that this one has started."""
        for process in self.processes:
            try:
                process.wait(60.0)
            except subprocess.TimeoutExpired:
                process.kill()

    def done(self) -> None:
        """This process has finished its part: its end is no failure, and neither is that of the others."""
        self._over.set()
        for connection in [self._to_first, *self._connections]:
            if connection is not None:
                self._send(connection, {"done": True})

    def _end(self, sentence: str, status: int) -> None:
        """End the training because another process failed."""
        if self._failing.wait(GRACE):  # for a reason of its own, which it prints
            return
        self._say(sentence)
        self._leave(status)

    def _leave(self, status: int) -> None:
        self._end_others(status)
        sys.stdout.flush()
        os._exit(status)  # nothing interrupts a main thread that waits in a collective

    def _end_others(self, status: int) -> None:
        for connection in list(self._connections):
            self._send(connection, {"end": status})
        deadline = time.monotonic() + 2.0
        while any(process.poll() is None for process in self.processes) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in self.processes:
            process.kill()

    def _say(self, sentence: str) -> None:
        more = "" if self.folder is None else f"; {how_to_continue(self.folder)}"
        for call in self.at_end:
            call(sentence)
        print(f"detr-mini: {sentence}{more}", file=sys.stderr, flush=True)

    def _send(self, connection: socket.socket, message: dict[str, Any]) -> bool:
        try:
            with self._sending:
                connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True


def _receive(connection: socket.socket, seconds: float | None) -> dict[str, Any] | None:
    """The next line, at most one message at a time; None at the end of the connection.

    None, too, where the whole line has not come within `seconds` (None: no limit), or is longer than a message.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    text = bytearray()
    try:
        while not text.endswith(b"\n"):
            connection.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-3))
            part = connection.recv(1)
            if not part or len(text) == LONGEST or (deadline is not None and time.monotonic() > deadline):
                return None
            text += part
        message = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _exists(pid: int) -> bool:
    """Whether a process runs. One that has ended, but whose end nobody has asked for yet, does not."""
    if os.name == "nt":  # signal 0 is Ctrl-C there
        return True
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]  # not on every system
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return state not in (b"Z", b"X")


def failed_collective(error: BaseException) -> bool:
    """Whether an error says that another process is gone, and not what is wrong with this one."""
    marks = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)
    )


def lost_peer(error: BaseException, watch: Watch) -> str | None:
    """The sentence for a collective that failed because another process is gone; None for any other error."""
    return (watch.dead() or LOST) if failed_collective(error) else None


def how_to_continue(folder: Path) -> str:
    """The end of a sentence about a training that was interrupted."""
    return f"the training was interrupted; continue with resume={folder}"
