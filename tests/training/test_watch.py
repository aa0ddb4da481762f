"""The watch over the processes of a training, and who else may connect to it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from detr_mini.training.launch import Launch
from detr_mini.training.watch import LONGEST, Watch, _receive


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_a_message_comes_whole_and_one_at_a_time(pair: tuple[socket.socket, socket.socket]) -> None:
    there, here = pair
    there.sendall(b'{"done": true}\n{"end": 2}\n')
    assert _receive(here, 1.0) == {"done": True}
    assert _receive(here, None) == {"end": 2}
    there.close()
    assert _receive(here, 1.0) is None


def test_a_line_that_drips_is_given_up_at_its_one_deadline(pair: tuple[socket.socket, socket.socket]) -> None:
    there, here = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            there.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    begun = time.monotonic()
    try:
        assert _receive(here, 0.3) is None
        assert time.monotonic() - begun < 2
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("text", [b"x" * (LONGEST + 1), b"[" * (LONGEST - 1) + b"\n", b"\xff\n", b"[1]\n"])
def test_what_is_no_message_ends_the_connection_and_not_the_watch(
    pair: tuple[socket.socket, socket.socket], text: bytes
) -> None:
    there, here = pair
    sender = threading.Thread(target=there.sendall, args=(text,))  # a line may be longer than the system's buffer
    sender.start()
    assert _receive(here, 5.0) is None
    here.close()
    there.close()
    sender.join()


def test_a_stray_connection_is_closed_and_a_process_of_the_training_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(Launch(world=2, local_world=2))
    ended: list[str] = []
    monkeypatch.setattr(watch, "_end", lambda sentence, status: ended.append(sentence))
    port = watch.serve("token")
    with socket.create_connection(("127.0.0.1", port)) as stray:
        stray.sendall(b"[" * 5000 + b"\n")
        stray.settimeout(10)
        assert stray.recv(1) == b""
    with socket.create_connection(("127.0.0.1", port)) as process:
        hello = {"token": "token", "rank": 1, "pid": 7, "host": "there"}
        for message in (hello, {"failed": "no room", "status": 2}):
            process.sendall(json.dumps(message).encode() + b"\n")
        deadline = time.monotonic() + 10
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
        watch._over.set()
    assert ended[0] == "process 1 of this training (pid 7 on there) failed: no room"
