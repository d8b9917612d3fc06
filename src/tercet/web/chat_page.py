"""`tercet chat DIR --web`: stages side by side on a page, their scores, and which answer a person finds better."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tercet.feedback.chat import ChatPairs
from tercet.lm.serving.asks import Answerer
from tercet.web.guard import Refused, Tree, as_json, guarded, read_object, refusing
from tercet.web.label import person, user_name
from tercet.web.openai_api import LONGEST_REPLY, openai_routes
from tercet.web.openai_requests import LARGEST_REQUEST, turns_of
from tercet.web.server import POLICY, address, names_of, server


def serve(
    engine: Answerer,
    run: Path,
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
        server(app(engine, run, host, key=key, debug=debug), reply_seconds=LONGEST_REPLY).run([listener])


def app(engine: Answerer, run: Path, host: str, *, key: str = "", debug: bool = False) -> ASGIApp:
    """Return the page as an ASGI application; it answers by the routes of OpenAI's API."""
    pairs = ChatPairs(run)

    def page(request: Request) -> Response:
        text = (files("tercet.web") / "chat.html").read_bytes()
        return Response(text, media_type="text/html", headers={"content-security-policy": POLICY})

    def about(request: Request) -> Response:
        return as_json(
            {
                "run": run.resolve().name,
                "stages": engine.stages,
                "temperature": engine.temperature,
                "has_scores": engine.has_scores,
                "pairs": str(pairs.path),
                "num_pairs": pairs.count(),
                "who": user_name(),
            }
        )

    async def score(request: Request) -> Response:
        given = await _read(request)
        text, ended = _text(given, "text"), given.get("ended") is True
        with refusing(400, "奖励模型不能给这个回答打分"):
            scored = await asyncio.wrap_future(engine.score(turns_of(given.get("messages")), text, ended=ended))
        return as_json({"score": scored.score, "tokens": scored.tokens})

    async def prefer(request: Request) -> Response:
        given = await _read(request)
        turns, chosen = turns_of(given.get("messages")), _answer(given.get("chosen"), engine)
        others = given.get("rejected")
        rejected = [_answer(other, engine) for other in others] if isinstance(others, list) else []
        if not rejected or any(other["text"] == chosen["text"] for other in rejected):
            said = "rejected: must be answers that differ from the chosen one"
            raise Refused(400, said, "较差的回答须与选中的回答不同")
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        ids = await run_in_threadpool(pairs.add, messages, chosen, rejected, person(given))
        return as_json({"ids": ids, "num_pairs": pairs.count()})

    async def take_back(request: Request) -> Response:
        ids = (await _read(request)).get("ids")
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise Refused(400, "ids: must be those of saved pairs", "ids 须为已保存的偏好对的编号")
        await run_in_threadpool(pairs.take_back, ids)
        return as_json({"num_pairs": pairs.count()})

    routes = [Route("/", page), Route("/about", about), Route("/score", score, methods=["POST"])]
    routes += [Route("/prefer", prefer, methods=["POST"]), Route("/take-back", take_back, methods=["POST"])]
    routes += openai_routes(engine, run.resolve().name)
    return guarded(routes, names=names_of(host), debug=debug, key=key, without_key=("/",))


async def _read(request: Request) -> Tree:
    return await read_object(request, what="a request", largest=LARGEST_REQUEST)


def _text(given: Tree, name: str) -> str:
    text = given.get(name)
    if not isinstance(text, str):
        raise Refused(400, f"{name}: must be a text", f"{name} 须为文本")
    return text


def _answer(given: Any, engine: Answerer) -> Tree:  # Any: JSON
    """Read an answer of a stage."""
    if not isinstance(given, dict) or given.get("stage") not in engine.stages:
        stages = ", ".join(engine.stages)
        said = f"an answer must have a stage, one of {stages}, and a text"
        raise Refused(400, said, f"回答须有文本，并注明由哪个模型给出（{stages}）")
    if not _text(given, "text").strip():
        raise Refused(400, "text: an empty answer cannot be part of a pair", "空回答不能用于偏好对")
    if given.get("finish") not in ("stop", "length"):
        said = "finish: must be stop or length; an answer that was broken off cannot be part of a pair"
        raise Refused(400, said, "中途停止的回答不能用于偏好对")
    return {"stage": given["stage"], "text": given["text"], "ended": given["finish"] == "stop"}
