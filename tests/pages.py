"""What every HTML page has to hold to."""

from __future__ import annotations

import html.parser
import re


class Balanced(html.parser.HTMLParser):
    """Notes tags that are not closed in their order."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def check_page(page: str) -> None:
    """Check that a page is well-formed, needs nothing else, and suits dark rooms and small screens."""
    parser = Balanced()
    parser.feed(page)
    assert not parser.faults
    assert not parser.open
    assert not re.search(r"""(?:src|href|url)\s*[=(]|@import|<script|<link|http""", page), "the page needs nothing else"
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
