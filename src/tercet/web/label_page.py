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

from tercet.web.guard import Tree, as_json, guarded, read_object
from tercet.web.label import Desk
from tercet.web.server import address, listening, names_of, server

_RANGE = re.compile(r"bytes=([0-9]{1,15})?-([0-9]{1,15})?")
# nothing from elsewhere, and no other site may show the page in a frame of its own
_POLICY = (
    "default-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def serve(run: Path, *, host: str, port: int, debug: bool, ready: Callable[[str], None]) -> str:
    """Serve the page until Ctrl-C; call `ready` with its address. Return a line that says what is still open."""
    desk = Desk(run)
    try:
        with listening(host, port) as listener, suppress(KeyboardInterrupt):
            ready(address(listener))
            server(app(desk, host, debug=debug)).run([listener])
        state = desk.state()
        waiting = state["total"] - state["done"]
        return f"{waiting} questions are still open" if waiting else "all is answered: give the run's command again"
    finally:
        desk.close()


def app(desk: Desk, host: str, *, debug: bool = False) -> ASGIApp:
    """Return the page of a desk as an ASGI application."""

    def page(request: Request) -> Response:
        text = (files("tercet.web") / "label.html").read_bytes()
        return Response(text, media_type="text/html", headers={"content-security-policy": _POLICY})

    def state(request: Request) -> Response:
        return as_json(desk.state())

    def video(request: Request) -> Response:
        asked = request.path_params
        return _Video(desk.video(asked["sheet"], f"{asked['name']}.mp4"), media_type="video/mp4")

    routes = [Route("/", page), Route("/state", state), Route("/videos/{sheet}/{name}.mp4", video)]
    routes += [Route(f"/{does.__name__}", _taking(does), methods=["POST"]) for does in (desk.answer, desk.undo)]
    return guarded(routes, names=names_of(host), debug=debug)


def _taking(does: Callable[[Tree], Tree]) -> Callable[[Request], object]:
    async def take(request: Request) -> Response:
        return as_json(await run_in_threadpool(does, await read_object(request)))

    return take


class _Video(FileResponse):
    """A file response with byte ranges, which some browsers need to play videos."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _RANGE.fullmatch(Request(scope).headers.get("range", ""))
        if found and found[1] and found[2] and int(found[1]) > int(found[2]):
            size = Path(self.path).stat().st_size
            return await Response(status_code=416, headers={"content-range": f"bytes */{size}"})(scope, receive, send)
        if not found or not any(found.groups()):  # of a kind that is not known here: then all of it is right
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}
        return await super().__call__(scope, receive, send)
