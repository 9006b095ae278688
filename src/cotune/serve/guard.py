"""What goes for every request: its id, who may ask, headers, the log, and that nothing raised reaches a client."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections.abc import Iterable, Sequence
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cotune.errors import ConfigError
from cotune.serve.limits import RefusedError
from cotune.serve.logs import log, log_error
from cotune.serve.metrics import Metrics

KEYS = "COTUNE_API_KEYS"
_LEAST_KEY = 16
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLOSE = {"Connection": "close"}  # the body of a refused request is not read
_PLAIN = ("/", "/openapi.json")
_GUARDED = ("/v1/", "/metrics")

#: Scripts, styles and calls of the service's own page; nothing from anywhere else, and in no frame.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Keys:
    """The keys of which a request has to bring one; any request may come if there are none.

    Parameters
    ----------
    keys : iterable of str
        Each of 16 characters at least.

    Raises
    ------
    ConfigError
        If one is too short to keep anybody out.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        given = [key.strip() for key in keys if key.strip()]
        if any(len(key) < _LEAST_KEY for key in given):
            raise ConfigError(f"a key in {KEYS} has fewer than {_LEAST_KEY} characters; make a longer one")
        self._digests = [_digest(key) for key in given]

    @classmethod
    def of_environment(cls) -> Keys:
        """Return those in ``COTUNE_API_KEYS``, separated by commas."""
        return cls(os.environ.get(KEYS, "").split(","))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def refuse_stranger(self, headers: Headers) -> None:
        """Refuse a request without a key; how long that takes tells nothing of the keys.

        Raises
        ------
        RefusedError
            With status 401.
        """
        if not self._digests:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = _digest(token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", ""))
        if sum(hmac.compare_digest(given, digest) for digest in self._digests) == 0:
            raise RefusedError(
                401,
                "no_key",
                "this service needs a key: send the header `Authorization: Bearer KEY`",
                {"WWW-Authenticate": "Bearer", **_CLOSE},
            )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Guard:
    """The outermost layer of the application.

    Parameters
    ----------
    app : ASGI application
        What answers.
    keys : Keys
        Who may ask.
    hosts : sequence of str
        Names by which the service may be called; any, if there are none. Web pages of others that have a name of
        their own point to this machine are kept out by it.
    metrics : Metrics
        Counts answers.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, hosts: Sequence[str], metrics: Metrics) -> None:
        self.app, self.keys, self.metrics = app, keys, metrics
        self.hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        state = scope.setdefault("state", {})
        state["request_id"] = given if _ID.fullmatch(given) else uuid4().hex
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = MutableHeaders(scope=message)
                own["X-Request-ID"] = state["request_id"]
                for name, value in SECURITY_HEADERS.items():
                    own[name] = value
                own.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            try:
                self._admit(scope, headers)
                await self.app(scope, receive, answer)
            except RefusedError as refused:
                await error_response(refused, state["request_id"])(scope, receive, answer)
            except ClientDisconnect:
                status = 499  # nobody is there to read an answer
            except Exception as error:
                log_error(error, request_id=state["request_id"])
                if status:
                    raise
                problem = RefusedError(500, "internal", "something went wrong here; the log has it under this id")
                await error_response(problem, state["request_id"])(scope, receive, answer)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        host = re.sub(r":\d+$", "", headers.get("host", "")).lower()
        if self.hosts and host not in self.hosts:
            raise RefusedError(
                403, "unknown_host", "the service is not known by this name; start it with --allow-host NAME", _CLOSE
            )
        foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if foreign and not (scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"):
            raise RefusedError(403, "other_site", "web pages of others may not use this service", _CLOSE)
        if scope["path"].startswith(_GUARDED):
            self.keys.refuse_stranger(headers)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        path = _template(scope)
        self.metrics.request(scope["method"], path, status, seconds)
        state = scope["state"]
        method = scope["method"] if scope["method"].isalpha() and len(scope["method"]) < 10 else "other"
        log(
            "request", method=method, path=path, status=status, ms=round(1000 * seconds, 1),
            request_id=state["request_id"], model=state.get("model"),
        )  # fmt: skip


def _template(scope: Scope) -> str | None:
    """Return the address as the application knows it; None for one that it does not know."""
    if scope["path"].startswith("/static/"):
        return "/static"
    return getattr(scope.get("route"), "path", scope["path"] if scope["path"] in _PLAIN else None)


def error_response(error: RefusedError, request_id: str) -> JSONResponse:
    """Return the answer to a request that is refused."""
    content = {"error": {"code": error.code, "message": error.message, "request_id": request_id}}
    return JSONResponse(content, error.status, error.headers)
