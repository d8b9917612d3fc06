"""The HTTP routes of `tercet label DIR`: the page, questions, videos and answers."""

import re
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tercet.web.guard import Tree, as_json, guarded, read_object, refusing
from tercet.web.label import Desk, user_name
from tercet.web.server import POLICY, address, listening, names_of, server

_POLICY = f"{POLICY}; media-src 'self' blob:"  # blob: a video that the page has fetched with the key
_DAMAGED = "问卷或回答的文件已损坏、更改或移走；请恢复原样"
_RANGE = re.compile(r"bytes=([0-9]{1,15})?-([0-9]{1,15})?")


def serve(desk: Desk, *, host: str, port: int, key: str, debug: bool, ready: Callable[[str], None]) -> int:
    """Serve the page of a desk until Ctrl-C; call `ready` with its address, which has the key.

    Return the number of open questions.
    """
    try:
        with listening(host, port) as listener, suppress(KeyboardInterrupt):
            ready(address(listener, key))
            server(app(desk, host, key=key, debug=debug)).run([listener])
        return desk.num_open()
    finally:
        desk.close()


def app(desk: Desk, host: str, *, key: str = "", debug: bool = False) -> ASGIApp:
    """Return the page of a desk as an ASGI application."""

    def page(request: Request) -> Response:
        text = (files("tercet.web") / "label.html").read_bytes()
        return Response(text, media_type="text/html", headers={"content-security-policy": _POLICY})

    def state(request: Request) -> Response:
        asked = request.query_params
        with refusing(500, _DAMAGED):
            return as_json(desk.state(asked.get("who") or user_name(), asked.get("page", "")))

    def video(request: Request) -> Response:
        names = request.path_params
        return _Video(desk.video(names["sheet"], f"{names['name']}.mp4"), media_type="video/mp4")

    routes = [Route("/", page), Route("/state", state), Route("/videos/{sheet}/{name}.mp4", video)]
    routes += [
        Route(f"/{action.__name__}", _post(action), methods=["POST"]) for action in (desk.answer, desk.keep, desk.undo)
    ]
    return guarded(routes, names=names_of(host), debug=debug, key=key, without_key=("/",))


def _post(action: Callable[[Tree], Tree]) -> Callable[[Request], object]:
    async def reply(request: Request) -> Response:
        given = await read_object(request)
        with refusing(500, _DAMAGED):
            return as_json(await run_in_threadpool(action, given))

    return reply


class _Video(FileResponse):
    """A file response with byte ranges, which some browsers need to play videos."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        byte_range = _RANGE.fullmatch(Request(scope).headers.get("range", ""))
        if byte_range and byte_range[1] and byte_range[2] and int(byte_range[1]) > int(byte_range[2]):
            size = Path(self.path).stat().st_size
            return await Response(status_code=416, headers={"content-range": f"bytes */{size}"})(scope, receive, send)
        if not byte_range or not any(byte_range.groups()):  # ignore a range in another format, as RFC 9110 allows
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}
        return await super().__call__(scope, receive, send)
