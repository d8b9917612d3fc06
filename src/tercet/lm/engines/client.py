"""Requests to a vLLM server."""

import json
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from tercet.errors import FailedError

SECONDS = 3600.0  # limit for one request: long responses of a busy server take minutes

# a proxy of the environment is for the internet, not for a server of this run
_OPENER = build_opener(ProxyHandler({}))

Json = dict[str, Any]  # Any: JSON of another program, checked where it is read


class NoReplyError(FailedError):
    """The server did not reply: it is not running, or has ended."""


class RefusedError(FailedError):
    """The server replied with an error."""


@dataclass(frozen=True)
class Client:
    """A vLLM server at `url`, such as http://127.0.0.1:8000."""

    url: str

    def get(self, path: str, *, seconds: float = SECONDS) -> Json:
        """Return the JSON at a path."""
        return self._reply(Request(f"{self.url}{path}"), seconds)

    def post(self, path: str, body: Json | None = None, *, query: Json | None = None) -> Json:
        """Send JSON to a path and return the reply; NoReplyError without one, RefusedError if it is an error."""
        where = f"{self.url}{path}{'?' + urlencode(query) if query else ''}"
        data = json.dumps(body if body is not None else {}).encode()
        return self._reply(Request(where, data, {"Content-Type": "application/json"}), SECONDS)

    def _reply(self, request: Request, seconds: float) -> Json:
        try:
            with _OPENER.open(request, timeout=seconds) as reply:
                data = reply.read()
        except HTTPError as error:
            raise RefusedError(f"{request.full_url}: {_reason(error)}") from error
        except (OSError, HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", None) or error
            raise NoReplyError(f"{self.url}: no reply ({reason or type(error).__name__})") from error
        try:
            found = json.loads(data) if data.strip() else {}
        except ValueError:
            found = {}  # /health and the routes of adapters reply with text
        return found if isinstance(found, dict) else {}


def _reason(error: HTTPError) -> str:
    """Return the status of an error and the server's own message."""
    text = error.read().decode(errors="replace")
    try:
        found = json.loads(text)
        text = found.get("error", {}).get("message") or found.get("detail") or text
    except (ValueError, AttributeError):
        pass
    return f"{error.code} {error.reason}: {' '.join(str(text).split())[:300]}"
