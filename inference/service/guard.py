"""Who may ask: what stands before every route. It also notes each request in the metrics."""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omnivast.inference.service.metrics import Metrics

COOKIE = "omnivast_token"
OPEN = re.compile(r"/api/health|/token|/page/[\w.]+")
"""What needs no token: whether the service lives, and what the page is made of."""
HEADERS = {
    "content-security-policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' blob: data:; object-src 'none'; "
                               "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}

def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware. ``token``: what a client must know; None: it need not. ``loopback``: the service can only be reached from this
    machine, so that a request by another name is a web page's that has had its own name lead here."""

    def __init__(self, app: ASGIApp, token: str | None, loopback: bool, metrics: Metrics, ask: Callable[[bool], str]) -> None:
        self.app, self.token, self.loopback, self.metrics, self.ask = app, token, loopback, metrics, ask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            answer = await self._refusal(scope, receive) or self.app
            await answer(scope, receive, told)
        finally:
            self.metrics.note(_route(scope), status, time.monotonic() - began)

    async def _refusal(self, scope: Scope, receive: Receive) -> Response | None:
        """The answer to a request that goes no further."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.loopback and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return _fault(421, "this service answers to localhost only; start it with --host to be reached by other names")
        origin = headers.get("origin")
        if origin not in (None, "null") and urlsplit(origin).netloc != host or origin == "null" and scope["method"] != "GET":
            return _fault(403, "a page of another site asks")
        if self.token is None:
            return RedirectResponse("/", 303) if scope["path"] == "/token" else None
        request = Request(scope, receive)
        if scope["path"] == "/token" and scope["method"] == "POST":
            return await self._take(request)
        if OPEN.fullmatch(scope["path"]) or self._knows(request):
            return None
        if scope["path"] == "/" and scope["method"] == "GET":
            return HTMLResponse(self.ask(False), 401)
        return _fault(401, "a token is needed: Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})

    def _knows(self, request: Request) -> bool:
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        return self._is(value.strip()) if kind.lower() == "bearer" else self._is(request.cookies.get(COOKIE, ""))

    def _is(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), (self.token or "").encode())

    async def _take(self, request: Request) -> Response:
        """The form in which a person gives the token. It is kept in a cookie that only this service sees."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > 4096:
                return _fault(413, "a token is shorter")
        found = re.fullmatch(rb"token=([\w.~-]*)", body)
        if found is None or not self._is(found[1].decode("ascii", "replace")):
            return HTMLResponse(self.ask(True), 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, self.token or "", max_age=30 * 86_400, httponly=True, samesite="strict",
                          secure=request.url.scheme == "https")
        return answer


def _fault(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"field": None, "error": message}, status, headers)


def _route(scope: Scope) -> str:
    """The route as the metrics name it: not by what clients write."""
    route = scope.get("route")
    return getattr(route, "path", "other")
