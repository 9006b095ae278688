"""Pages in Chromium, by playwright: how one is opened, and what none may do. The fixtures are in ``conftest.py``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest


@dataclass
class Visit:
    """A page in a browser, and what went wrong on it."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


Kind = TypeVar("Kind", bound=Visit)


@contextmanager
def chromium_browser() -> Iterator[Any]:
    """Start Chromium, or skip the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-background-networking"])
        yield browser
        browser.close()


@contextmanager
def visits(browser: Any, kind: type[Kind]) -> Iterator[Callable[..., Kind]]:
    """Open pages of some width and scheme; at the end none may have complained, or asked another host for anything."""
    made: list[tuple[Any, Kind]] = []

    def make(width: int = 1280, scheme: str = "light") -> Kind:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        context.set_default_timeout(15_000)
        found = kind(context.new_page())
        found.page.on("request", lambda request: found.hosts.add(urlsplit(request.url).hostname or ""))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("console", lambda line: found.complaints.append(line.text) if line.type != "log" else None)
        made.append((context, found))
        return found

    yield make
    for context, found in made:
        context.close()
        # An answer that is no success is noted by the browser too; the tests look at what the page says of it.
        assert [text for text in found.complaints if "Failed to load resource" not in text] == []
        assert found.hosts <= {"127.0.0.1", ""}


def check_fits(page: Any) -> None:
    """Check that the page is no wider than its window."""
    width, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= window, "the page scrolls sideways"
