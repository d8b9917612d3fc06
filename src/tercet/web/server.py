"""The HTTP side of `tercet label`: one page, its questions, its videos; for this computer unless told otherwise."""

import ipaddress
import json
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tercet.errors import FailedError, InputError
from tercet.web.label import Desk, Refused, Tree

LARGEST_BODY = 1 << 16
_VIDEO = re.compile(r"/videos/([^/]+)/([^/]+\.mp4)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
# nothing from elsewhere, and no other site may show the page in a frame of its own
_POLICY = (
    "default-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def serve(run: Path, *, host: str, port: int, ready: Callable[[str], None]) -> str:
    """Serve the page until Ctrl-C; `ready` is told its address. Returns a line that says what is still open."""
    desk = Desk(run)
    try:
        with opened(desk, host=host, port=port) as server:
            ready(address(server))
            with suppress(KeyboardInterrupt):
                server.serve_forever()
        state = desk.state()
        waiting = state["total"] - state["done"]
        return f"{waiting} questions are still open" if waiting else "all is answered: give the run's command again"
    finally:
        desk.close()


def opened(desk: Desk, *, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens; InputError where it cannot."""
    names = {host.lower(), "localhost", socket.gethostname().lower()}
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        kind = type("Server", (ThreadingHTTPServer,), {"address_family": family, "daemon_threads": True})
        return kind((host, port), partial(_Handler, desk, names))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host} --port {port}: cannot listen there ({reason}); give another --port") from error


def address(server: ThreadingHTTPServer) -> str:
    """Where a browser finds the page: one on this computer, or on another one if the server listens for others too."""
    host, port = str(server.server_address[0]), server.server_address[1]
    if host == "0.0.0.0":
        host = _outward(socket.AF_INET, "192.0.2.1") or "127.0.0.1"
    elif host == "::":
        host = _outward(socket.AF_INET6, "2001:db8::1") or "::1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _outward(family: socket.AddressFamily, elsewhere: str) -> str:
    """This computer's address as others see it, by the way to one that nobody has; empty without a network."""
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        try:
            one.connect((elsewhere, 9))  # sends nothing
        except OSError:
            return ""
        return one.getsockname()[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tercet", ""
    timeout = 60  # a browser that holds a connection open holds a thread

    def __init__(self, desk: Desk, names: set[str], *args: Any) -> None:  # Any: http.server's own
        self.desk, self.names = desk, names
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def log_message(self, format: str, *args: Any) -> None:  # Any: http.server's own
        """The terminal stays quiet: what goes wrong is said on the page."""

    def _get(self) -> None:
        path = urlsplit(self.path).path
        if path == "/":
            page = (files("tercet.web") / "label.html").read_bytes()
            return self._send(200, page, "text/html; charset=utf-8", {"Content-Security-Policy": _POLICY})
        if path == "/state":
            return self._send_json(200, self.desk.state())
        found = _VIDEO.fullmatch(unquote(path))
        if found is None:
            raise Refused(404, "nothing lies here")
        return self._send_video(self.desk.video(found[1], found[2]).read_bytes())

    def _post(self) -> None:
        does = {"/answer": self.desk.answer, "/undo": self.desk.undo}.get(urlsplit(self.path).path)
        if does is None:
            raise Refused(404, "nothing takes anything here")
        self._send_json(200, does(self._body()))

    def _answered(self, does: Callable[[], None]) -> None:
        try:
            self._check_who_asks()
            does()
        except Refused as refused:
            self.close_connection = True  # a body that was not read would be taken for the next request
            self._send_json(refused.status, {"error": refused.reason})
        except (FailedError, InputError, OSError) as error:
            self.close_connection = True
            if not isinstance(error, ConnectionError | TimeoutError):
                self._send_json(500, {"error": str(error)})

    def _check_who_asks(self) -> None:
        """Refuse other sites: they may guess the address, but a browser says where a request comes from."""
        host = self.headers.get("Host", "")
        if not _is_this_computer(host, self.names):
            raise Refused(
                403,
                f"host {host!r}: open the page by the address that tercet label printed, or by another one of that "
                "computer in numbers, as http://192.0.2.7:8765/: a name may lead here by deceit",
            )
        origin = self.headers.get("Origin", f"http://{host}")
        if self.command == "POST" and (
            urlsplit(origin).netloc != host or self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin"
        ):
            raise Refused(403, "answers from another site are refused")

    def _body(self) -> Tree:
        # a form of another site cannot send this type without asking first, and here nothing says yes
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "an answer must be application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(411, "an answer must say its length")
        if int(length) > LARGEST_BODY:
            raise Refused(413, f"an answer may have {LARGEST_BODY} bytes")
        try:
            given = json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise Refused(400, f"not JSON: {error}") from error
        if not isinstance(given, dict):
            raise Refused(400, "an answer must be an object")
        return given

    def _send_video(self, data: bytes) -> None:
        """All of it or the part that is asked for: some browsers play nothing that does not come in parts."""
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        headers = {"Accept-Ranges": "bytes"}
        if found is None or found.groups() == ("", ""):
            return self._send(200, data, "video/mp4", headers)
        first = int(found[1]) if found[1] else max(0, len(data) - int(found[2]))
        last = min(int(found[2]), len(data) - 1) if found[1] and found[2] else len(data) - 1
        if first > last:
            return self._send(416, b"", "video/mp4", {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self._send(206, data[first : last + 1], "video/mp4", headers)

    def _send_json(self, status: int, tree: Tree) -> None:
        self._send(status, json.dumps(tree, ensure_ascii=False).encode(), "application/json; charset=utf-8", {})

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        always = {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store"}
        always |= {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
        for name, value in (always | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _is_this_computer(host: str, names: set[str]) -> bool:
    """Whether a Host header names an address, or this computer by name; another name may lead here by deceit."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in names or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
