"""The server around the application: its socket, slow clients, signals, and a check of itself."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import secrets
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType

import h11
import uvicorn
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol

from cotune.errors import ConfigError, CotuneError
from cotune.serve import logs
from cotune.serve.app import Serving, make_app
from cotune.serve.guard import SECURITY_HEADERS, Keys
from cotune.serve.model import ServedModel

_HEADER_SECONDS = 10
_MOST_CONNECTIONS = 1000


class _Protocol(H11Protocol):
    """HTTP for clients that may mean harm: the headers of a request have to arrive within some seconds."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._stop_waiting()
        super().on_response_complete()

    def _wait_for_headers(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        body = json.dumps({"error": {"code": "invalid_http", "message": "no HTTP request", "request_id": ""}}).encode()
        headers = {**SECURITY_HEADERS, "Content-Type": "application/json", "Content-Length": str(len(body)),
                   "Connection": "close"}  # fmt: skip
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
            for event in (h11.Response(status_code=400, headers=pairs), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """A server that ends by itself when it is asked to: what was accepted is answered, and the exit code is 0.

    Parameters
    ----------
    config : uvicorn.Config
        How it runs.
    image_pixels : int
        Pixels of an image, of which Pillow takes care itself where an image holds another one.
    """

    def __init__(self, config: uvicorn.Config, image_pixels: int) -> None:
        super().__init__(config)
        self.image_pixels = image_pixels

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max(1, self.image_pixels // 2)  # it warns from there on, and refuses twice as many
        try:
            super().run(sockets)
        finally:
            Image.MAX_IMAGE_PIXELS = before

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        else:
            logs.log("stopping", signal=signal.Signals(sig).name)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, before anything is loaded.

    Raises
    ------
    CotuneError
        If the port is taken or not allowed, or the host is none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise CotuneError(f"port {port} of {host} is taken; choose another with --port") from error
        if isinstance(error, PermissionError):
            raise CotuneError(f"port {port} may not be used; choose one above 1023 with --port") from error
        raise ConfigError(f"{host} is no address of this machine; give another with --host") from error
    return bound


def address_of(bound: socket.socket) -> str:
    """Return the URL of a socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(models: Sequence[ServedModel], serving: Serving, bound: socket.socket, *, grace: int = 30) -> None:
    """Serve until SIGTERM or Ctrl-C, and then until all that was accepted is answered.

    Parameters
    ----------
    models : sequence of ServedModel
        What is served.
    serving : Serving
        How.
    bound : socket
        Where, as :func:`listen` returned it.
    grace : int
        For how many seconds requests under way are waited for at the end.
    """
    logs.configure()
    server = make_server(models, serving, grace)
    logs.log("serving", url=address_of(bound), models=[model.name for model in models])
    server.run(sockets=[bound])
    logs.log("stopped")


def make_server(models: Sequence[ServedModel], serving: Serving, grace: int = 30) -> uvicorn.Server:
    """Return the server, which does not run yet; see :func:`serve`."""
    return _Server(
        uvicorn.Config(
            make_app(models, serving),
            http=_Protocol,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=grace,
        ),
        serving.limits.image_pixels,
    )


def check(models: Sequence[ServedModel], serving: Serving) -> None:
    """Serve, for a moment and to this process alone, and ask each model for a prediction.

    It asks with a key of its own, as those of the environment are known by their hashes only.

    Raises
    ------
    CotuneError
        If it is not answered as it should be.
    """
    logs.configure()
    bound = listen("127.0.0.1", 0)
    key = secrets.token_hex(16)
    server = make_server(models, replace(serving, keys=Keys([key])))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        for model in models:
            _ask(bound.getsockname()[1], model, key)
    finally:
        server.should_exit = True
        thread.join(60)


def _ask(port: int, model: ServedModel, key: str) -> None:
    post = {"model": model.name, "posts": [{"id": "check", "fields": model.sample()}]}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        _once_up(connection)
        connection.request("POST", "/v1/predict", json.dumps(post), headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CotuneError(f"the service does not answer ({type(error).__name__})") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise CotuneError(f"the service answers {answer.status}: {found['error']['message']}")
    if found["predictions"][0]["label"] is None:
        raise CotuneError(f"the model {model.name} gives no prediction: {found['predictions'][0]['error']}")


def _once_up(connection: http.client.HTTPConnection, seconds: float = 30) -> None:
    """Connect as soon as the server listens."""
    until = time.monotonic() + seconds
    while True:
        try:
            return connection.connect()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
