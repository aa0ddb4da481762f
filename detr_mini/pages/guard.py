"""Who may use the page: this machine's own browser, or who has the token. And what the page itself may do."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOCAL = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Door:
    """Where the page is served, and the token that requests need; None on this machine alone."""

    host: str
    port: int
    token: str | None = None

    def admits(self, headers: Headers, path: str) -> str | None:
        """Why a request is refused; None where it is not.

        A page elsewhere whose name is rebound to this machine sends its own name as Host, and its own Origin.
        """
        host = headers.get("host", "")
        if not self._is_own(host):
            return f"this page is not served under the name '{host[:100]}'; open the address that the terminal shows"
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return "this request comes from another page; open the address that the terminal shows"
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "this request comes from another page; open the address that the terminal shows"
        given = headers.get("x-token", "").encode("utf-8", "replace")
        if self.token is not None and path.startswith("/api/") and not hmac.compare_digest(given, self.token.encode()):
            return "the token is missing or wrong; open the whole address that the terminal shows"
        return None

    def _is_own(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if (80 if port is None else port) != self.port:
            return False
        own = (*LOCAL, in_address(self.host).lower())
        if is_local(self.host):
            return in_address(name) in own
        return in_address(name) in (*own, socket.gethostname().lower()) or _is_address(name)


def in_address(host: str) -> str:
    """A host as it stands in an address of the web: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def is_local(host: str) -> bool:
    """Whether an address reaches only this machine."""
    return host.lower() in ("localhost", "::1") or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Refuses what `Door` does not admit, and gives every answer the page's headers."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self.door.admits(Headers(scope=scope), scope["path"])
        if refusal is None:
            await self.app(scope, receive, with_headers)
        else:
            await JSONResponse({"error": refusal}, 403)(scope, receive, with_headers)
