from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Both are read once, when torch and the hub's client are imported.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# A run is not exported by each test that predicts; those of exports say which engine they want.
os.environ["COTUNE_ENGINE"] = "torch"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from network_guard import NetworkGuard

if TYPE_CHECKING:
    from tiny import PostsMaker, Zoo


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[NetworkGuard]:
    """Fail a test that reaches out, unless it has said that it expects to (``network.expected = True``)."""
    guard = NetworkGuard()
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded(method: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                guard.check(address[0])
            return method(self, address)

        return call

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        guard.check(host)
        return lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)
    yield guard
    if guard.attempts and not guard.expected:
        pytest.fail(f"the test tried to reach {', '.join(guard.attempts)}")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give each test a cache folder and settings of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("COTUNE_CACHE", str(folder))
    # Neither do they see what the user's own imports have noted, nor note anything there.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder.with_name(f"{folder.name}-config")))
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser. One for a module: while playwright runs, no other test of its thread may start an event loop."""
    from browser import chromium_browser

    with chromium_browser() as found:
        yield found


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    """Return what opens pages; see :func:`browser.visits`."""
    from browser import Visit, visits

    with visits(chromium, Visit) as make:
        yield make


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Tiny random encoders of the real classes; see :class:`tiny.Zoo`."""
    from tiny import Zoo

    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def tiny_export(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a run of two classes that was never trained."""
    from cotune.export.export_run import export_run
    from explained import random_run
    from tiny import make_posts

    folder = tmp_path_factory.mktemp("tiny-export") / "export"
    export_run(random_run(zoo, classes=2), folder, make_posts(folder.parent / "images", 8, gaps=False))
    return folder


@pytest.fixture
def new_posts(tmp_path: Path) -> PostsMaker:
    """Return a maker of small posts tables with pictures; see :func:`tiny.make_posts`."""
    from tiny import make_posts

    def make(n: int = 12, **settings: Any) -> Any:
        return make_posts(tmp_path / f"posts-{n}-{len(settings)}-{settings.get('seed', 0)}", n, **settings)

    return make
