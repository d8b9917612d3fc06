"""The HTTP server: its address and time limits. By default only this computer can connect."""

import asyncio
import ipaddress
import logging
import socket
from functools import partial
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from tercet.errors import InputError

MOST_CONNECTIONS = 64
SECONDS = 60.0  # limit for a request, and for its reply unless that is computed, so that slow clients cannot block us
# of every page: load nothing from other sites, and let no other site show the page in a frame
POLICY = (
    "default-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def listening(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise InputError if that fails."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen()
        except OSError:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({reason}); give another --host or --port"
        ) from error


def names_of(host: str) -> set[str]:
    """Return the host names under which a browser may address this computer."""
    return {host.lower(), "localhost", socket.gethostname().lower()}


def address(listener: socket.socket, key: str = "") -> str:
    """Return the URL of the page, for other computers if the server listens for them.

    The key is in the part that a browser sends to nobody.
    """
    host, port = listener.getsockname()[:2]
    if host == "0.0.0.0":
        host = _outward(socket.AF_INET, "192.0.2.1") or "127.0.0.1"
    elif host == "::":
        host = _outward(socket.AF_INET6, "2001:db8::1") or "::1"
    page = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    return page + (f"#key={quote(key, safe='')}" if key else "")


def is_loopback(host: str) -> bool:
    """Return True if only this computer can connect to the host."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def server(app: ASGIApp, *, reply_seconds: float | None = None) -> uvicorn.Server:
    """Return a server; its `run([listener])` serves until Ctrl-C and prints nothing.

    A reply may take `reply_seconds` if they are given, such as one that a model writes.
    """
    for name in ("uvicorn.error", "asyncio"):  # the page shows errors
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    config = uvicorn.Config(
        app,
        http=partial(_Connection, reply_seconds=reply_seconds),  # pyright: ignore[reportArgumentType]  # uvicorn calls it
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=1 << 14,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


class _Connection(H11Protocol):
    """Limit the number and the duration of connections, so that slow or many clients cannot block the server."""

    _deadline: asyncio.TimerHandle | None = None
    _answered: object = None  # the request whose reply has its own limit

    def __init__(self, *args: Any, reply_seconds: float | None, **options: Any) -> None:  # Any: those of H11Protocol
        super().__init__(*args, **options)
        self._reply_seconds = reply_seconds

    def handle_events(self) -> None:
        """Give the reply its own limit when the whole request is there."""
        super().handle_events()
        cycle = self.cycle
        if self._reply_seconds and cycle and cycle is not self._answered and not cycle.more_body:
            self._answered = cycle
            if not cycle.response_complete:
                self._wait(self.transport, self._reply_seconds)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in H11Protocol
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.write(_FULL)
            transport.close()
        else:
            self._wait(transport)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # as in asyncio.Protocol
        """Answer a client that has closed its sending side and still reads, as `nc` does."""
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            return None  # closes the connection
        self.cycle.keep_alive = False
        return True

    def on_response_complete(self) -> None:
        self._wait(self.transport)  # for the next request
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _wait(self, transport: asyncio.Transport, seconds: float | None = None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds or SECONDS, transport.abort)


def _outward(family: socket.AddressFamily, elsewhere: str) -> str:
    """Return this computer's address in its network, from the route to an address for documentation; else ''."""
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        try:
            one.connect((elsewhere, 9))  # sends nothing
        except OSError:
            return ""
        return one.getsockname()[0]
