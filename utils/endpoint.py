"""Chat models behind an HTTP endpoint like OpenAI's: vLLM, SGLang, llama.cpp's server, a vendor's."""

from __future__ import annotations

import base64
import json
import logging
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, TypeVar

logger = logging.getLogger("omnivast")
KEY_VARIABLE = "OMNIVAST_ENDPOINT_KEY"
"""The environment variable with the endpoint's key, unless another is named; without it none is sent."""
PAUSE = 1.0
"""Seconds before the second try of a request; each further one waits twice as long, within a half and three halves of it."""
LONGEST = 300.0
"""Seconds that a server may ask to wait; more is an error."""
PASSING = (408, 409, 425, 429)
"""Answers of HTTP, beside those from 500 on, after which the same request may succeed."""
OF_THE_REQUEST = (400, 413, 422)
"""Answers that blame the one request."""
Part = dict[str, Any]
"""A part of a message: see :func:`text_part` and :func:`image_part`."""
Given = TypeVar("Given")
Made = TypeVar("Made")


class EndpointError(RuntimeError):
    """An endpoint that does not answer, or not as one; the message says which, why and what would do. ``reason``: the why alone."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the endpoint {url} does not answer: {reason}")
        self.reason = reason


class BadRequestError(EndpointError):
    """It refuses this one request, too long for the model for instance; others may succeed."""


class BudgetError(EndpointError):
    """As much was asked as was allowed. What was answered before counts."""


@dataclass(frozen=True)
class Limits:
    """Of one :class:`Endpoint`, whatever the number of threads that ask it."""

    per_minute: float | None = None
    """Requests a minute."""
    requests: int | None = None
    """In all, tries that failed among them."""
    tokens: int | None = None
    """In all, prompts and replies together, as the endpoint counts them (a quarter of the characters where it does not)."""


@dataclass(frozen=True)
class Reply:
    """What the model said."""

    text: str
    """Empty where it said nothing, or where the endpoint filtered it."""
    model: str
    """Which model it says that it is."""
    finish: str
    """``stop``; ``length`` where it was cut off; ``content_filter``."""
    tokens: int
    """Of prompt and reply."""


def text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def image_part(image: bytes, kind: str = "image/jpeg") -> Part:
    """A picture, as the bytes of a file of that kind."""
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(image).decode()}"}}


class Endpoint:
    """A model behind an endpoint: ``url`` is what stands before ``/chat/completions``. Threads may share it."""

    def __init__(self, url: str, model: str, *, key_variable: str = KEY_VARIABLE, seconds: float = 120.0, tries: int = 6,
                 limits: Limits = Limits()) -> None:
        """``seconds``: that a reply may take. ``tries``: of a request that fails for a reason that may pass."""
        self.base = url.rstrip("/").removesuffix("/chat/completions")
        self.url, self.model, self.seconds, self.tries, self.limits = f"{self.base}/chat/completions", model, seconds, tries, limits
        self.requests = self.tokens = 0
        """Asked so far."""
        self._key_variable = key_variable
        self._lock = threading.Lock()
        self._next = 0.0
        self._opener = urllib.request.build_opener(_NoRedirects)

    def check(self) -> None:
        """One short request, before hours of work depend on it. Raises EndpointError."""
        try:
            self.ask("Say yes.", max_tokens=1)
        except BadRequestError as error:
            logger.debug("%s answers, if not to so short a request: %s", self.url, error.reason)

    def ask(self, content: str | Sequence[Part] | Sequence[Mapping[str, Any]], **options: Any) -> Reply:
        """The reply to what a user says: a text, parts of a message, or whole messages (with ``role``). ``options``: ``temperature``,
        ``seed``, ``max_tokens`` and whatever else the endpoint knows. Raises EndpointError, BadRequestError, BudgetError."""
        whole = not isinstance(content, str) and all("role" in part for part in content)
        messages = content if whole else [{"role": "user", "content": content}]
        body = json.dumps({"model": self.model, **options, "messages": messages}).encode()
        for number in range(self.tries):
            self._wait_for_my_turn()
            try:
                reply = self._read(self._open(self.url, body), len(body))
            except _Passing as error:
                if number == self.tries - 1:
                    raise EndpointError(self.url, f"{error} ({self.tries} tries)") from None
                self._wait_before_the_next(number, error.wait)
            else:
                with self._lock:
                    self.tokens += reply.tokens
                return reply
        raise AssertionError("a request ends or is tried again")

    def ask_all(self, given: Iterable[Given], ask: Callable[[Given], Made], concurrency: int) -> Iterator[Made]:
        """``ask`` of each, so many at once, in the order given. What ``ask`` raises comes from here; then no more is begun."""
        waiting: deque[Future[Made]] = deque()
        with ThreadPoolExecutor(concurrency) as pool:
            try:
                for one in given:
                    if len(waiting) == concurrency:
                        yield waiting.popleft().result()
                    waiting.append(pool.submit(ask, one))
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _wait_for_my_turn(self) -> None:
        with self._lock:
            for name in ("requests", "tokens"):
                allowed = getattr(self.limits, name)
                if allowed is not None and getattr(self, name) >= allowed:
                    raise BudgetError(self.url, f"the budget of {allowed} {name} is spent")
            self.requests += 1
            start = max(time.monotonic(), self._next)
            if self.limits.per_minute:
                self._next = start + 60.0 / self.limits.per_minute
        time.sleep(max(0.0, start - time.monotonic()))

    def _wait_before_the_next(self, number: int, asked: float | None) -> None:
        """``asked``: seconds that the server wants to be left alone, by all."""
        if asked is None:
            time.sleep(PAUSE * 2**number * (0.5 + random.random()))
            return
        if asked > LONGEST:
            raise EndpointError(self.url, f"it asks to wait for {asked:.0f} s; the same command goes on later")
        with self._lock:
            self._next = max(self._next, time.monotonic() + asked)

    def _open(self, url: str, body: bytes | None) -> Any:
        """The content of an answer. Raises _Passing, EndpointError."""
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self._key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            with self._opener.open(urllib.request.Request(url, body, headers), timeout=self.seconds) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            said = _message(error, key)
            reason = f"HTTP {error.code} {error.reason}{': ' + said if said else ''}"
            if error.code in PASSING or error.code >= 500:
                raise _Passing(reason, _seconds(error.headers.get("Retry-After"))) from None
            if error.code in OF_THE_REQUEST:
                raise BadRequestError(url, reason) from None
            raise EndpointError(url, reason + self._advice(error, url, said)) from None
        except (OSError, HTTPException) as error:
            raise _Passing(f"{getattr(error, 'reason', None) or error or type(error).__name__}; is it running, and is the address "
                           "right?") from None
        except ValueError:  # a page of HTML, or a connection that was cut off
            raise _Passing("what it answers is no JSON; expected an address that ends before /chat/completions, often in /v1") from None

    def _read(self, content: Any, sent: int) -> Reply:
        try:
            choice = content["choices"][0]
            text = choice["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            raise EndpointError(self.url, "the reply has no choices[0].message.content") from None
        usage = content.get("usage") or {}
        counted = usage.get("total_tokens") or (sent + len(text)) // 4
        return Reply(str(text), str(content.get("model") or self.model), str(choice.get("finish_reason") or "stop"), int(counted))

    def _advice(self, error: urllib.error.HTTPError, url: str, said: str) -> str:
        """What would do, behind an error that stays."""
        if error.code in (401, 403):
            name = self._key_variable
            return f"; it refuses the key in {name}" if os.environ.get(name) else f"; it wants a key, in the environment variable {name}"
        if 300 <= error.code < 400:
            return f"; it has moved to {error.headers.get('Location')}: give that address"
        if error.code in (404, 405) and url == self.url:
            names = self._models()
            if names:
                return f"; its models are {', '.join(names[:20])}; asked for was {self.model}"
            return "" if "model" in said else "; expected an address that ends before /chat/completions, often in /v1"
        return ""

    def _models(self) -> list[str]:
        try:
            return [str(model["id"]) for model in self._open(f"{self.base}/models", None)["data"]]
        except (_Passing, EndpointError, KeyError, TypeError):  # it has no such list
            return []


class _Passing(Exception):  # noqa: N818 (never seen by others)
    """A failure that may pass; ``wait``: seconds that the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Following one would take the key to another host, and turn the request into one without content."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _message(error: urllib.error.HTTPError, key: str | None) -> str:
    """What the answer says of the error, without the key, which some repeat."""
    try:
        text = error.read(4096).decode(errors="replace")
        content = json.loads(text)
        inner = content.get("error", content)
        text = str(inner.get("message") or inner.get("detail") or "" if isinstance(inner, dict) else inner)
    except (OSError, HTTPException, ValueError, AttributeError):
        return ""
    text = " ".join(text.split())
    return (text.replace(key, "…") if key else text)[:300]


def _seconds(value: str | None) -> float | None:
    """Of Retry-After: a number, or a date."""
    if not value:
        return None
    try:
        return float(value) if value.replace(".", "", 1).isdecimal() else max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
