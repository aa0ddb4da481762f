"""The demo's own server, as a process: hostile uploads are refused within a second, and leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from hostile_uploads import HOSTILE, picture

pytest.importorskip("starlette")
SECONDS, MEGABYTES = 1.0, 1500


def asked(address: str, content: bytes) -> tuple[int, str, float]:
    """The status, the error, and how long the answer took."""
    began = time.monotonic()
    connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
    with closing(connection):
        with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before everything is sent
            connection.request("POST", "/api/detect", content)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()).get("error", ""), time.monotonic() - began


@pytest.mark.slow
def test_sixty_hostile_uploads_are_refused_in_a_second_each_and_leave_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "temporary"
    empty.mkdir()
    command = [sys.executable, "-m", "detr_mini", "demo", "port=0"]
    environment = {**os.environ, "TMPDIR": str(empty)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=empty, env=environment) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[1]
        status, _, _ = asked(address, picture())
        assert status == 200, "a picture is answered"
        uploads = {**HOSTILE, "100 MB": bytes(100_000_000)}
        assert len(uploads) >= 60
        slowest, largest = 0.0, 0.0
        for name, content in uploads.items():
            status, sentence, seconds = asked(address, content)
            assert status == (413 if name == "100 MB" else 400), (name, status)
            assert 10 < len(sentence) < 300 and "Traceback" not in sentence, name
            assert seconds < SECONDS, (name, seconds)
            slowest = max(slowest, seconds)
            largest = max(largest, psutil.Process(server.pid).memory_info().rss / 2**20)
        assert largest < MEGABYTES
        status, _, _ = asked(address, picture())
        assert status == 200, "and so is one afterwards"
        assert not list(empty.iterdir())
        server.terminate()
    print(f"{len(uploads)} uploads; the slowest took {slowest:.2f} s; {largest:.0f} MB")
