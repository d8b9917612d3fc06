"""Checks of every request: its origin, key and size, and one JSON reply for each kind of error."""

import hmac
import ipaddress
import json
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tercet import strict_json
from tercet.errors import REPORT_IT, FailedError, InputError, first_line

LARGEST_BODY = 1 << 16
_UNABLE = "服务器未能完成请求"
Tree = dict[str, Any]  # Any: JSON, to or from the page
_ALWAYS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


class Refused(Exception):
    """A request is refused: the HTTP status and the reason in English and Chinese.

    Programs also get the field at fault and a code.
    """

    def __init__(self, status: int, reason: str, zh: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.zh, self.param, self.code = status, reason, zh, param, code

    def text(self, headers: Headers) -> str:
        """Return the reason in the language that a request prefers."""
        return self.zh if headers.get("accept-language", "").strip().lower().startswith("zh") else self.reason


def plain(refused: Refused, text: str) -> Tree:
    """Return the body of an error for a page."""
    return {"error": text} | ({"code": refused.code} if refused.code else {})


@contextmanager
def refusing(status: int, zh: str) -> Iterator[None]:
    """Refuse a request if an error of this package is raised, with `status` if the request was wrong.

    `zh` says in Chinese what it means for the person; the text of the error, with its details, follows.
    """
    try:
        yield
    except (InputError, FailedError) as error:
        raise Refused(status if isinstance(error, InputError) else 500, str(error), f"{zh}（{error}）") from error


def guarded(
    routes: Sequence[Route],
    *,
    names: Collection[str],
    debug: bool,
    key: str = "",
    without_key: Collection[str] = (),
    body: Callable[[Refused, str], Tree] = plain,
) -> ASGIApp:
    """Return an application with these routes, for requests to an IP address or one of `names`; errors are JSON.

    With a `key`, a request needs it as a bearer token, except at the paths `without_key`. `body` makes the JSON of an
    error, with its text in the language of the request.
    """

    def reply(asked: Headers, refused: Refused, headers: Mapping[str, str] | None = None) -> Response:
        return as_json(body(refused, refused.text(asked)), refused.status, headers)

    def handler(as_refused: Callable[[Request, Any], Refused]) -> Callable[[Request, Any], Response]:
        return lambda request, error: reply(
            request.headers, as_refused(request, error), getattr(error, "headers", None)
        )

    kinds: dict[Any, Any] = {  # Any: starlette's own
        Refused: lambda request, error: error,
        HTTPException: _no_route,
        FailedError: _failed,
        InputError: _failed,
        OSError: _unreadable,
        Exception: _unforeseen,
    }
    app = Starlette(routes=routes, exception_handlers={kind: handler(of) for kind, of in kinds.items()})
    app.router.redirect_slashes = False

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_ALWAYS)
            await send(message)

        headers = Headers(scope=scope)
        try:
            _check_origin(scope["method"], scope["path"], headers, names)
            if key and scope["path"] not in without_key:
                _check_key(headers, key)
            await app(scope, receive, send_with_headers)
        except Refused as refused:  # close the connection: its body has not been read
            challenge = {"www-authenticate": "Bearer"} if refused.status == 401 else {}
            await reply(headers, refused, {"connection": "close", **challenge})(scope, receive, send_with_headers)
        except ClientDisconnect:
            pass
        except Exception:  # _unforeseen has sent the reply
            if debug:
                traceback.print_exc(file=sys.stderr)

    return guard


def as_json(tree: Tree, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response; names that are not valid text, such as of a folder in another encoding, are escaped."""
    return Response(json.dumps(tree).encode(), status, headers, media_type="application/json; charset=utf-8")


async def read_object(request: Request, *, what: str = "an answer", largest: int = LARGEST_BODY) -> Tree:
    """Read the JSON object of a request; raise Refused if it is not one or is too long."""
    # a form of another site cannot send this type without a CORS preflight, which is never allowed here
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise Refused(415, f"{what} must be application/json", "请求的类型须为 application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > largest:
            raise Refused(413, f"{what} may have at most {largest} bytes", f"内容过长：最多 {largest} 字节")
    try:
        given = strict_json.loads(bytes(body))
    except ValueError as error:
        raise Refused(400, f"not JSON: {error}", f"请求不是有效的 JSON（{error}）") from error
    if not isinstance(given, dict):
        raise Refused(400, f"{what} must be an object", "请求须为一个 JSON 对象")
    return given


def _check_key(headers: Headers, key: str) -> None:
    """Refuse a request without the key."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise Refused(
            401,
            "the API key is wrong or missing; the server printed it when it started",
            "密钥错误或缺失；服务器启动时打印了密钥",
            code="invalid_api_key",
        )


def _check_origin(method: str, path: str, headers: Headers, names: Collection[str]) -> None:
    """Refuse requests that another web site makes through the browser; browsers send the origin of a request."""
    if "content-length" in headers and "transfer-encoding" in headers:
        reason = "a request must not have both Content-Length and Transfer-Encoding"
        raise Refused(400, reason, "请求不能同时含有 Content-Length 和 Transfer-Encoding")
    host = headers.get("host", "")
    if not _is_this_computer(host, names):
        raise Refused(
            403,
            f"host {host!r}: open the page at the address that the command printed, or at another IP "
            "address of that computer, such as http://192.0.2.7:8765/; unknown names are refused (DNS rebinding)",
            f"主机名 {host!r} 未知，拒绝访问（防止 DNS 重绑定）：请打开命令打印出的地址，或该计算机的其他 IP 地址，"
            "例如 http://192.0.2.7:8765/",
        )
    is_ours = all(_netloc(origin) == host for origin in headers.getlist("origin"))
    site = headers.get("sec-fetch-site", "same-origin")
    if method not in ("GET", "HEAD") and (not is_ours or site != "same-origin"):
        raise Refused(403, "answers from another site are refused", "拒绝来自其他网站的回答")
    # a page may be opened by a link; other addresses may change something, as a question is kept for who asks for it
    if path != "/" and site in ("cross-site", "same-site"):
        raise Refused(403, "requests from another site are refused", "拒绝来自其他网站的请求")


def _is_this_computer(host: str, names: Collection[str]) -> bool:
    """Return True if a Host header is an IP address or a name of this computer; others may be DNS rebinding."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in names or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _no_route(request: Request, error: HTTPException) -> Refused:
    reasons = {
        404: ("not found", "没有这个地址"),
        405: (f"{request.method} is not allowed at this address", f"此地址不接受 {request.method} 请求"),
    }
    return Refused(error.status_code, *reasons.get(error.status_code, (error.detail, f"请求无效（{error.detail}）")))


def _failed(request: Request, error: Exception) -> Refused:
    return Refused(500, str(error), f"{_UNABLE}（{error}）")


def _unreadable(request: Request, error: Exception) -> Refused:
    path, reason = getattr(error, "filename", None), getattr(error, "strerror", None) or first_line(error)
    said = f"{path}: {reason}" if path else reason
    return Refused(500, said, f"服务器无法读写文件（{said}）")


def _unforeseen(request: Request, error: Exception) -> Refused:
    reason = f"{request.method} {request.url.path}: {type(error).__name__}: {first_line(error)}"[:300]
    return Refused(
        500,
        f"{reason}; {REPORT_IT}. The command with --debug shows where it happened",
        f"{_UNABLE}（{reason}）。这可能是 Tercet 的错误：请用 --debug 重新运行命令，并报告它显示的内容",
    )
