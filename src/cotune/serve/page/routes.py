"""Routes of the page and its static files.

Nothing comes from another host and nothing is inline, as the Content-Security-Policy of all answers
(:data:`cotune.serve.guard.SECURITY_HEADERS`) demands; scripts set styles through the DOM.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Mapping
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cotune.demo.posts import demo_posts_path
from cotune.report.pages import render_source, style_sheet

#: Demo posts to try: text and image agree, they disagree, and both are negative.
EXAMPLES = ("tweet-2109", "tweet-538", "tweet-3864")
#: Kept by browsers, but asked about each time: 304 unless cotune was updated.
_HEADERS = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
_SCRIPTS = ("page.js", "api.js", "dom.js", "fields.js", "answer.js", "post.js", "table.js", "csv.js")


class StaticFile:
    """A file that is answered from memory, compressed where that helps.

    Parameters
    ----------
    body : bytes
        What it holds.
    kind : str
        Its media type.
    """

    def __init__(self, body: bytes, kind: str) -> None:
        self.body, self.kind = body, kind
        self.tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        self.zipped = None if kind == "image/webp" else gzip.compress(body, mtime=0)

    def answer(self, request: Request) -> Response:
        """Return the file, or that the browser's copy of it is still good."""
        headers = {**_HEADERS, "ETag": self.tag}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if self.zipped is None or "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self.body, headers=headers, media_type=self.kind)
        return Response(self.zipped, headers={**headers, "Content-Encoding": "gzip"}, media_type=self.kind)


def page_routes(*, examples: bool) -> list[Route]:
    """Return the routes of ``GET /`` and ``GET /static/...``.

    Parameters
    ----------
    examples : bool
        Whether to offer demo posts to try, which suits a model of the default fields ``text`` and ``image`` alone.
    """
    tried = _examples() if examples else {}
    texts = [{"text": text, "image": name} for name, (text, _) in tried.items()]
    page = StaticFile(render_source(_read("page.html"), examples=texts).encode(), "text/html")
    static = _static_files() | {name: image for name, (_, image) in tried.items()}
    if examples:
        static["examples/LICENSES.md"] = StaticFile(
            demo_posts_path().with_name("LICENSES.md").read_bytes(), "text/plain"
        )

    def answer_page(request: Request) -> Response:
        return page.answer(request)

    def answer_static(request: Request) -> Response:
        found = static.get(request.path_params["name"])
        return Response("not found", 404, _HEADERS, "text/plain") if found is None else found.answer(request)

    return [Route("/", answer_page), Route("/static/{name:path}", answer_static)]


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _static_files() -> dict[str, StaticFile]:
    style = "\n".join((style_sheet("report.css"), style_sheet("explanation.css"), _read("page.css")))
    return {
        "page.css": StaticFile(style.encode(), "text/css"),
        "icon.svg": StaticFile(_read("icon.svg").encode(), "image/svg+xml"),
        **{name: StaticFile(_read(name).encode(), "text/javascript") for name in _SCRIPTS},
    }


def _examples() -> Mapping[str, tuple[str, StaticFile]]:
    """Return text and image of each example, by the name of its image."""
    path = demo_posts_path()
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file) if row["id"] in EXAMPLES}
    return {
        f"examples/{name}.webp": (
            rows[name]["text"],
            StaticFile((path.parent / rows[name]["image"]).read_bytes(), "image/webp"),
        )
        for name in EXAMPLES
    }
