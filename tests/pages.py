"""What every HTML page has to hold to."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re

#: What a script reads; browsers run none of it.
DATA = r"""<script type="application/json".*?</script>"""


class Balanced(html.parser.HTMLParser):
    """Notes tags that are not closed in their order."""

    VOID = ("meta", "br", "img", "input")

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
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    addresses = r"""(?:src|href)="(?:data:|#|[a-z_]+[/.#][^":]*")"""
    inside = re.sub(f"<script>.*?</script>|{DATA}|{addresses}", "", page, flags=re.S)
    assert not re.search(r"""(?:src|href|url)\s*[=(]|@import|<script|<link|https?:""", inside), (
        "the page needs nothing else"
    )
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in page, "the page runs its own script alone"
    assert "Content-Security-Policy" in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
