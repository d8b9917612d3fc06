"""The HTTP routes of OpenAI's API: models, chat completions and completions, whole or streamed."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tercet.errors import REPORT_IT, FailedError, InputError, first_line
from tercet.lm.serving.asks import Answerer, Event, Piece, Started, WindowError
from tercet.web.guard import Refused, Tree, as_json, guarded, read_object
from tercet.web.openai_replies import Reply, error_body, model, model_list
from tercet.web.openai_requests import LARGEST_REQUEST, Wanted, chat_request, no_model, text_request
from tercet.web.server import address, names_of, server

LONGEST_REPLY = 3600.0  # seconds


def openai_routes(engine: Answerer, run: str) -> list[Route]:
    """Return the routes; `run` is the name of the run that owns the stages."""
    created = int(time.time())

    def models(request: Request) -> Response:
        return as_json(model_list(engine.stages, run, created))

    def one_model(request: Request) -> Response:
        stage = request.path_params["stage"]
        if stage not in engine.stages:
            raise no_model(stage, engine.stages)
        return as_json(model(stage, run, created))

    def completions(read: Callable[[Tree, Sequence[str]], Wanted], *, is_chat: bool) -> Callable[[Request], object]:
        async def reply(request: Request) -> Response:
            given = await read_object(request, what="a request", largest=LARGEST_REQUEST)
            return await _answer(engine, request, read(given, engine.stages), is_chat=is_chat)

        return reply

    return [
        Route("/v1/models", models),
        Route("/v1/models/{stage}", one_model),
        Route("/v1/chat/completions", completions(chat_request, is_chat=True), methods=["POST"]),
        Route("/v1/completions", completions(text_request, is_chat=False), methods=["POST"]),
    ]


def serve(
    engine: Answerer,
    run: str,
    listener: socket.socket,
    host: str,
    *,
    key: str,
    debug: bool,
    ready: Callable[[str], None],
) -> None:
    """Serve the API until Ctrl-C; call `ready` with its address."""
    routes = openai_routes(engine, run)
    app = guarded(routes, names=names_of(host), debug=debug, key=key, body=error_body)
    with suppress(KeyboardInterrupt):
        ready(f"{address(listener)}v1")
        server(app, reply_seconds=LONGEST_REPLY).run([listener])


async def _answer(engine: Answerer, request: Request, wanted: Wanted, *, is_chat: bool) -> Response:
    """Start to answer, and reply when every prompt has been read, so that a prompt that is refused gets its status."""
    answering = _Answering(engine, wanted)
    reply = Reply(wanted.stage, is_chat=is_chat, with_logprobs=wanted.asks[0].num_likely is not None)
    try:
        reply.num_prompt_tokens = await answering.started()
        if wanted.stream:
            # the stream cancels the responses when it ends or when the client goes
            chunks = _chunks(answering, reply, wanted, request.headers, is_chat=is_chat)
            return StreamingResponse(chunks, media_type="text/event-stream")
        return await _whole(answering, reply, request)
    except BaseException:
        answering.cancel()
        raise


async def _whole(answering: "_Answering", reply: Reply, request: Request) -> Response:
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        pieces = answering.pieces()
        while True:
            next_piece = asyncio.ensure_future(anext(pieces))
            await asyncio.wait([next_piece, gone], return_when=asyncio.FIRST_COMPLETED)
            if not next_piece.done():  # the client has gone
                next_piece.cancel()
                answering.cancel()
                return Response(status_code=499)
            try:
                reply.add(*next_piece.result())
            except StopAsyncIteration:
                return as_json(reply.whole())
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)


async def _chunks(
    answering: "_Answering", reply: Reply, wanted: Wanted, headers: Headers, *, is_chat: bool
) -> AsyncIterator[bytes]:
    try:
        for index in range(answering.num_choices) if is_chat else ():
            yield _event(reply.first_chunk(index))
        async for index, piece in answering.pieces():
            yield _event(reply.chunk(index, piece))
        if wanted.with_usage:
            yield _event(reply.last_chunk())
        yield b"data: [DONE]\n\n"
    except Exception as error:  # the status has been sent: the error is an event
        refused = _refused(error)
        yield _event(error_body(refused, refused.text(headers)))
    finally:
        answering.cancel()


def _event(tree: Tree) -> bytes:
    return b"data: " + json.dumps(tree).encode() + b"\n\n"


class _Answering:
    """The events of the prompts of one request, in the order in which they come."""

    def __init__(self, engine: Answerer, wanted: Wanted) -> None:
        self._num_prompts, self._per_prompt = len(wanted.asks), wanted.asks[0].num_choices
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver_to(number: int) -> Callable[[Event], None]:
            def deliver(event: Event) -> None:
                with suppress(RuntimeError):  # the server has ended
                    loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

            return deliver

        self._cancels = [engine.submit(ask, deliver_to(number)) for number, ask in enumerate(wanted.asks)]
        self._early: list[tuple[int, Event]] = []  # pieces of a prompt that came before another prompt was read

    @property
    def num_choices(self) -> int:
        """Number of responses to all prompts."""
        return self._num_prompts * self._per_prompt

    def cancel(self) -> None:
        """Tell the engine that nobody waits any longer."""
        for cancel in self._cancels:
            cancel()

    async def started(self) -> int:
        """Wait until all prompts have been read; return their number of tokens, or raise what went wrong."""
        num_read, num_tokens = 0, 0
        while num_read < self._num_prompts:
            number, event = await self._events.get()
            if isinstance(event, Exception):
                raise _refused(event)
            if isinstance(event, Started):
                num_read, num_tokens = num_read + 1, num_tokens + event.num_prompt_tokens
            else:
                self._early.append((number, event))
        return num_tokens

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield the pieces with the number of their choice, until all are finished."""
        num_open = self.num_choices
        while num_open:
            number, event = self._early.pop(0) if self._early else await self._events.get()
            if isinstance(event, Exception):
                raise _refused(event)
            if isinstance(event, Piece):
                yield number * self._per_prompt + event.choice, event
                num_open -= bool(event.finish)


def _refused(error: Exception) -> Refused:
    """Return an error of the engine as a refusal."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, InputError):
        if isinstance(error, WindowError):
            zh, code = "对话和回答超出模型的上下文窗口；请缩短消息，或减小回答的最大词元数", "context_length_exceeded"
        else:
            zh, code = "模型不能回答这条消息", None
        return Refused(400, str(error), f"{zh}（{error}）", param="messages", code=code)
    told = str(error) if isinstance(error, FailedError) else f"{type(error).__name__}: {first_line(error)}; {REPORT_IT}"
    return Refused(500, told, f"服务器未能写出回答（{told}）")
