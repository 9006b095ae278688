"""The documentation as a site: built offline without a warning, no link astray, nothing asked of another host."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from filelock import FileLock

from axe import barriers

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """Notes what a page has, links to and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("search", "canonical"):
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning is an error, and so is a request (see the fixture ``network``)."""
    pytest.importorskip("myst_nb", reason="the extra docs is not installed")
    from sphinx.cmd.build import build_main

    # Built once for all worker processes.
    own = tmp_path_factory.getbasetemp()
    out = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "site"
    with FileLock(f"{out}.lock"):
        if not (out / "built").exists():
            settings = ["-q", "-E", "-W", "--keep-going", "-b", "html", "-d", str(out / "trees")]
            assert build_main([*settings, str(ROOT / "docs"), str(out / "html")]) == 0
            (out / "built").touch()
    return out / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_document_is_a_page(pages: dict[Path, Page], site: Path) -> None:
    docs = ROOT / "docs"
    written = {path.relative_to(docs).with_suffix(".html") for kind in ("*.md", "*.ipynb") for path in docs.rglob(kind)
               if "_build" not in path.parts and ".ipynb_checkpoints" not in path.parts}  # fmt: skip
    assert written <= {path.relative_to(site) for path in pages}
    assert len(written) > 30


def test_every_link_leads_somewhere(pages: dict[Path, Page], site: Path) -> None:
    astray = []
    for path, page in pages.items():
        for link in page.links:
            name, _, place = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            to = (path.parent / unquote(name)).resolve() if name else path
            if not to.is_file() or (place and to in pages and unquote(place) not in pages[to].ids):
                astray.append(f"{path.relative_to(site)}: {link}")
    assert not astray


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page], site: Path) -> None:
    loads = {load for page in pages.values() for load in page.loads if not load.startswith("data:")}
    assert loads
    assert not [load for load in loads if "//" in load]
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"""@import|url\(\s*['"]?(?:https?:)?//""", text), sheet


def test_the_reference_of_python_and_the_search_know_the_classes(site: Path) -> None:
    api = (site / "api.html").read_text(encoding="utf-8")
    for name in (
        "cotune.JointClassifier.explain",
        "cotune.read_posts",
        "cotune.benchmark.run_plan",
        "cotune.heads.FusionHead.fuse",
    ):
        assert f'id="{name}"' in api or f'id="{name.replace("heads.", "heads.base.")}"' in api, name
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert '"tutorial"' in index
    assert "occlus" in index


@pytest.mark.browser
@pytest.mark.parametrize("name", ["index", "tutorial", "results/index"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_page_in_a_browser(site: Path, chromium: Any, name: str, width: int, scheme: str) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((site / f"{name}.html").as_uri())
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    assert not wrong
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not barriers(page)
    page.close()


@pytest.mark.browser
def test_searching_without_a_server(site: Path, chromium: Any) -> None:
    page = chromium.new_page()
    page.goto((site / "search.html").as_uri() + "?q=JointClassifier")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    assert page.locator("#search-results li a").count() > 2
    page.close()
