"""`tercet inspect DIR`: one update of PPO action by action, on a page whose numbers the server recomputes."""

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.resources import files
from typing import Any, Protocol, runtime_checkable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tercet.web.docs import docs_paths, docs_routes
from tercet.web.guard import Refused, Tree, as_json, guarded, read_object, refusing
from tercet.web.server import POLICY, address, names_of, server

# the values that the page's sliders may ask for
_LIMITS = {
    "gamma": (0.0, 1.0),
    "lam": (0.0, 1.0),
    "kl_coef": (0.0, 1e6),
    "clip_range": (0.0, 1e6),
    "value_clip_range": (0.0, 1e6),
}


class Explainer(Protocol):
    """Who recomputes the updates of a run (`lm/explain.py::Inspection`, `arm/explain.py::Inspection`)."""

    def about(self) -> Tree:
        """Return the updates and the settings of the run."""
        ...

    def update(self, name: str, epoch: int | None, settings: Mapping[str, float]) -> Tree:
        """Return the numbers of an update; raise InputError if there is no such update."""
        ...


@runtime_checkable
class Filmed(Explainer, Protocol):
    """One whose rows can also be seen."""

    def pictures(self, name: str, row: int) -> list[str]:
        """Return a picture after each step of a row, as data URLs; raise InputError if there is no such row."""
        ...


def serve(
    explainer: Explainer | Filmed,
    listener: socket.socket,
    host: str,
    *,
    key: str,
    debug: bool,
    ready: Callable[[str], None],
) -> None:
    """Serve the page until Ctrl-C; call `ready` with its address, which has the key."""
    with suppress(KeyboardInterrupt):
        ready(address(listener, key))
        server(app(explainer, host, key=key, debug=debug)).run([listener])


def app(explainer: Explainer | Filmed, host: str, *, key: str = "", debug: bool = False) -> ASGIApp:
    """Return the page as an ASGI application."""

    def page(request: Request) -> Response:
        text = (files("tercet.web") / "inspect.html").read_bytes()
        return Response(text, media_type="text/html", headers={"content-security-policy": POLICY})

    def about(request: Request) -> Response:
        return as_json(explainer.about())

    async def update(request: Request) -> Response:
        given = await read_object(request, what="a request")
        name, epoch, settings = given.get("update"), given.get("epoch"), given.get("settings", {})
        if not isinstance(name, str) or not (epoch is None or type(epoch) is int) or not _are_settings(settings):
            said = f"needs an update, an epoch or null, and settings among {', '.join(_LIMITS)}"
            raise Refused(400, said, "请求须有更新的名称、epoch（或 null）和有效的设置")
        numbers = {setting: float(value) for setting, value in settings.items()}
        with refusing(404, "无法显示这次更新"):
            return as_json(await run_in_threadpool(explainer.update, name, epoch, numbers))

    async def pictures(request: Request) -> Response:
        given = await read_object(request, what="a request")
        name, row = given.get("update"), given.get("row")
        if not isinstance(name, str) or type(row) is not int or not isinstance(explainer, Filmed):
            raise Refused(
                400, "needs an update and a row of an arm's run", "只有机械臂的运行才有图像，并且须指明更新和回合"
            )
        with refusing(404, "无法显示这个回合的图像"):
            return as_json({"pictures": await run_in_threadpool(explainer.pictures, name, row)})

    routes = [Route("/", page), Route("/about", about), Route("/update", update, methods=["POST"])]
    routes += [Route("/pictures", pictures, methods=["POST"]), *docs_routes()]
    return guarded(routes, names=names_of(host), debug=debug, key=key, without_key=("/", *docs_paths()))


def _are_settings(given: Any) -> bool:  # Any: JSON
    return isinstance(given, dict) and all(
        name in _LIMITS and _fits(value, *_LIMITS[name]) for name, value in given.items()
    )


def _fits(value: Any, least: float, most: float) -> bool:  # Any: JSON
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and least <= value <= most
