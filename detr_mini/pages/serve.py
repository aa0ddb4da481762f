"""Serves the page of `detr-mini demo`: the port is taken before anything is said, and the address is printed."""

from __future__ import annotations

import errno
import secrets
import socket

import uvicorn

from detr_mini.errors import UserError
from detr_mini.pages.demo import Demo, make_app
from detr_mini.pages.guard import Door, in_address, is_local


def serve(demo: Demo, host: str, port: int) -> None:
    """Serve until Ctrl-C. UserError where the address cannot be used."""
    listener = bound(host, port)
    token = None if is_local(host) else secrets.token_urlsafe(24)
    door = Door(host, listener.getsockname()[1], token)
    print("\n".join(greeting(door)), flush=True)
    config = uvicorn.Config(make_app(demo, door), log_level="warning", access_log=False, server_header=False,
                            timeout_graceful_shutdown=3)  # fmt: skip
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def bound(host: str, port: int) -> socket.socket:
    """A socket that holds the port (0: a free one). UserError in one sentence where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"host={host} is no address of this machine; use host=127.0.0.1") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use, perhaps by another demo; choose another with port=... "
                            "(port=0 takes a free one)") from error  # fmt: skip
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}); choose another host or port") from error
    return listener


def greeting(door: Door) -> list[str]:
    """What the terminal says: the address, and who can reach it."""
    host = in_address(door.host)
    if door.token is None:
        return [f"open http://{host}:{door.port}/ in your browser; Ctrl-C stops it. Only this machine can reach it."]
    shown = socket.gethostname() if door.host in ("0.0.0.0", "::") else host
    return [
        f"open http://{shown}:{door.port}/#token={door.token} in your browser; Ctrl-C stops it.",
        "warning: every machine that reaches this one can connect. Pictures travel unencrypted, and whoever has the "
        "token can use the page; leave out host=... to keep it to this machine.",
    ]
