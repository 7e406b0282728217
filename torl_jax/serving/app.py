"""The routes: /v1/chat/completions, /v1/completions, /v1/models, /health.

A request becomes an order for the batch, and what the batch delivers becomes one answer or
a stream of server-sent events. A caller who hangs up gives the slots back.
"""

import asyncio
import hmac
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sandbox.front import GONE, Front, Gone, read_body, unless_gone
from sandbox.gate import Bodies
from sandbox.gate import Full as Held
from sandbox.orders import BadRequest
from torl_jax.protocols.text import Tokenizer
from torl_jax.sampler.sampling import Settings
from torl_jax.serving import answers, fields
from torl_jax.serving.answers import Choice, Letterhead
from torl_jax.serving.batch import Batch, Broken, Dead, Done, Ending, Full, Order, Piece
from torl_jax.serving.dialogue import Dialect, Opening
from torl_jax.serving.fields import Ask, Refused

PLAIN_TOKENS = 16  # of a plain completion that names no max_tokens, as OpenAI has it
MOST_BODY = 16 << 20
BODIES = 16  # of the greatest length that may be held at a time
BODY_SECONDS = 30.0
RETRY = {"retry-after": "1"}

log = logging.getLogger("torl_jax.serve")


@dataclass(frozen=True)
class Served:
    """What this server offers: the model's name, its context in tokens, how it converses.

    `level`: of the sandbox, "off" without one. `executes`: whether calls can be carried out;
    `tools`: the names of those that a ToolRL policy may have carried out; `markup`: the recipe's.
    """

    name: str
    context: int
    tokenizer: Tokenizer
    dialect: Dialect
    level: str
    executes: bool
    markup: str
    tools: tuple[str, ...] = ()


class Failed(Exception):
    """The batch could not answer."""

    def __init__(self, broken: Broken) -> None:
        super().__init__(broken.error)
        self.status = 503 if broken.ending else 500


class App:
    """The application. To be made inside the event loop that serves it."""

    def __init__(self, served: Served, batch: Batch, token: str | None) -> None:
        self._served, self._batch = served, batch
        self._token = None if token is None else token.encode()
        self._loop = asyncio.get_running_loop()
        self._bodies = Bodies(BODIES * MOST_BODY)
        self._created = time.time()
        text = served.tokenizer
        self._longest = max(len(text.bytes_of(token)) for token in range(len(text)))
        routes = [
            Route("/health", self._health, methods=["GET"]),
            Route("/v1/models", self._guarded(self._models), methods=["GET"]),
            Route("/v1/models/{name:path}", self._guarded(self._model), methods=["GET"]),
            Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._completion), methods=["POST"]),
        ]
        kinds = (Refused, Failed, Full, Ending, Dead, Held, BadRequest, HTTPException, Gone)
        handlers: dict[Any, Any] = dict.fromkeys((*kinds, Exception), _refuse)
        app = Starlette(routes=routes, exception_handlers=handlers)
        self.front = Front(app, None, lambda status: None, _turn_away)

    def _guarded(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def checked(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            right = self._token is None or (
                scheme.lower() == "bearer"
                and hmac.compare_digest(token.strip().encode(), self._token)
            )
            if not right:
                raise Refused(
                    "token is missing or wrong, expected Authorization: Bearer TOKEN", status=401
                )
            return await handler(request)

        return checked

    async def _health(self, request: Request) -> Response:
        running, waiting = self._batch.load
        dead = self._batch.failure
        body = {
            "status": "failed" if dead else "ok",
            "model": self._served.name,
            "context": self._served.context,
            "slots": self._batch.slots,
            "running": running,
            "waiting": waiting,
            "sandbox_level": self._served.level,
            "executes_tools": self._served.executes,
            "tools": self._served.tools,
        }
        return _json(body | ({"error": dead} if dead else {}), 503 if dead else 200)

    async def _models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self._named(request.path_params["name"])
        return _json(self._card())

    def _card(self) -> answers.Object:
        return answers.model(self._served.name, self._created, self._served.context)

    def _named(self, name: str) -> None:
        if name != self._served.name:
            raise Refused(
                f"model {name!r} is not served here, only {self._served.name!r} is",
                "model",
                status=404,
                code="model_not_found",
            )

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, fields.chat)

    async def _completion(self, request: Request) -> Response:
        return await self._answer(request, fields.completion)

    async def _answer(self, request: Request, check: Callable[[fields.Body], Ask]) -> Response:
        with self._bodies.hold() as take:
            data = await read_body(request, MOST_BODY, BODY_SECONDS, take)
            # Templates and tokenizers take their time with a long conversation.
            ask, order, opening = await asyncio.to_thread(self._prepare, data, check)
        hearing = Hearing(self._batch, order, self._loop)
        head = Letterhead.of(ask, time.time())
        prompt = sum(map(len, order.prompts))
        if ask.stream:
            events = self._stream(hearing, ask, head, opening, prompt)
            return Stream(events, hearing.leave)
        try:
            choices, tokens = await unless_gone(request, _gather(hearing, opening))
        finally:
            hearing.leave()
        return _json(head.whole(choices, answers.usage(prompt, tokens)))

    def _prepare(
        self, data: bytes, check: Callable[[fields.Body], Ask]
    ) -> tuple[Ask, Order, Opening]:
        """The order that a body asks for. Raises Refused."""
        ask = check(fields.read(data))
        self._named(ask.model)
        if ask.execute and not self._served.executes:
            raise Refused("execute_tools: this server carries out no tools", "execute_tools")
        openings = [Opening(prompt) for prompt in ask.prompts]
        if ask.kind == "chat":
            openings = [self._served.dialect(ask)]
        self._bound(ask, [opening.prompt for opening in openings])
        prompts = tuple(tuple(self._served.tokenizer.encode(o.prompt)) for o in openings)
        budget = self._budget(ask, prompts)
        settings = Settings.of(ask.temperature, ask.top_k, ask.top_p)
        seed = int.from_bytes(os.urandom(8)) if ask.seed is None else ask.seed
        stops = tuple(dict.fromkeys((*ask.stops, *openings[0].stops)))
        order = Order(prompts, ask.n, budget, settings, seed, stops, ask.execute)
        return ask, order, openings[0]

    def _bound(self, ask: Ask, prompts: Sequence[str]) -> None:
        """Refuses by its bytes what cannot fit.

        To count the tokens of megabytes takes seconds, in which the interpreter is held.
        """
        least = -(-max(len(prompt.encode()) for prompt in prompts) // self._longest)
        if least >= self._served.context:
            raise self._too_long(ask, f"at least {least}")

    def _too_long(self, ask: Ask, tokens: object) -> Refused:
        wanted = "the answer needs 1 more"
        if ask.max_tokens is not None:
            wanted = f"max_tokens is {ask.max_tokens}"
        return Refused(
            f"the context is {self._served.context} tokens; the prompt has {tokens} and {wanted}",
            _param(ask),
            code="context_length_exceeded",
        )

    def _budget(self, ask: Ask, prompts: tuple[tuple[int, ...], ...]) -> int:
        longest, context = max(map(len, prompts)), self._served.context
        if not min(map(len, prompts)):
            raise Refused("the prompt has no tokens, expected at least one", _param(ask))
        wanted = 1 if ask.max_tokens is None else ask.max_tokens
        if longest + wanted > context:
            raise self._too_long(ask, longest)
        if ask.max_tokens is not None:
            return ask.max_tokens
        return context - longest if ask.kind == "chat" else min(PLAIN_TOKENS, context - longest)

    async def _stream(
        self, hearing: "Hearing", ask: Ask, head: Letterhead, opening: Opening, prompt: int
    ) -> AsyncIterator[str]:
        """Server-sent events. An answer that is read in parts is sent when it is whole."""
        tokens, texts = 0, {}
        try:
            for index in range(hearing.choices):
                if (first := head.opening(index)) is not None:
                    yield _event(first)
            async for event in hearing.events():
                if isinstance(event, Piece):
                    if opening.parts is None:
                        yield _event(head.text(event.index, event.text))
                    else:
                        texts.setdefault(event.index, []).append(event.text)
                    continue
                tokens += event.tokens
                choice = _choice(event, "".join(texts.get(event.index, ())), opening)
                if choice.reply is not None:
                    yield _event(head.parts(event.index, choice.reply))
                yield _event(head.closing(event.index, choice))
            if ask.include_usage:
                yield _event(head.usage(answers.usage(prompt, tokens)))
        except Failed as failed:
            yield _event(answers.error(str(failed), failed.status))
        yield "data: [DONE]\n\n"


class Stream(StreamingResponse):
    """Server-sent events; `leave` is called when they are over or their reader has gone."""

    def __init__(self, events: AsyncIterator[str], leave: Callable[[], None]) -> None:
        headers = {"cache-control": "no-cache"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the generator: one that was never begun is never ended either.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


class Hearing:
    """One request as its caller's side hears it. Raises what `Batch.submit` raises."""

    def __init__(self, batch: Batch, order: Order, loop: asyncio.AbstractEventLoop) -> None:
        self._events: asyncio.Queue[Piece | Done | Broken] = asyncio.Queue()
        self.choices = len(order.prompts) * order.n
        self._batch = batch
        put = self._events.put_nowait
        self._job = batch.submit(order, lambda event: loop.call_soon_threadsafe(put, event))

    async def events(self) -> AsyncIterator[Piece | Done]:
        """All that is said, until every choice has ended. Raises Failed."""
        missing = self.choices
        while missing:
            event = await self._events.get()
            if isinstance(event, Broken):
                raise Failed(event)
            missing -= isinstance(event, Done)
            yield event

    def leave(self) -> None:
        """Nobody listens any more."""
        self._batch.cancel(self._job)


async def _gather(hearing: Hearing, opening: Opening) -> tuple[list[Choice], int]:
    """The whole answers in order, and how many tokens they have."""
    texts: list[list[str]] = [[] for _ in range(hearing.choices)]
    ended: dict[int, Done] = {}
    async for event in hearing.events():
        if isinstance(event, Piece):
            texts[event.index].append(event.text)
        else:
            ended[event.index] = event
    choices = [_choice(ended[i], "".join(texts[i]), opening) for i in range(hearing.choices)]
    return choices, sum(done.tokens for done in ended.values())


def _param(ask: Ask) -> str:
    return "messages" if ask.kind == "chat" else "prompt"


def _choice(done: Done, text: str, opening: Opening) -> Choice:
    reply = None if opening.parts is None else opening.parts(text)
    return Choice(text, done.reason, done.stop, reply)


def _event(body: answers.Object) -> str:
    return f"data: {json.dumps(body)}\n\n"


def _json(
    body: answers.Object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    data = json.dumps(body).encode()
    return Response(data, status, headers, "application/json")


STATUSES: dict[type[Exception], int] = {Full: 429, Held: 429, Ending: 503, Dead: 500}


def _turn_away(message: str, status: int) -> Response:
    """What is refused before it has a route, in OpenAI's shape."""
    return _json(answers.error(message, status), status, RETRY if status == 503 else {})


async def _refuse(request: Request, error: Exception) -> Response:
    """Any refusal or failure in OpenAI's shape."""
    if isinstance(error, Gone):
        return Response(status_code=GONE)
    if isinstance(error, HTTPException):
        words = f"{request.method} {request.url.path}: {error.detail}"
        return _json(answers.error(words, error.status_code), error.status_code)
    status = getattr(error, "status", None) or STATUSES.get(type(error), 500)
    body = answers.error(
        str(error) or "the server failed; its log says how",
        status,
        getattr(error, "param", None),
        getattr(error, "code", None),
    )
    challenge = {"www-authenticate": "Bearer"} if status == 401 else {}
    return _json(body, status, RETRY if status in (429, 503) else challenge)
