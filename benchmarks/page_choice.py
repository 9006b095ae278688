"""Gradio mounted on the application, or the templates and plain JavaScript of `cotune serve`: what each costs.

    pip install gradio playwright && python benchmarks/page_choice.py --repeats 5

Both pages do the same (a text and an image in; probabilities, shares, words and overlay out) for a model that answers
at once with fixed values, on FastAPI, each in processes of its own, in alternating order. Measured are the seconds
from the start of the process to the first answer of `GET /`, its memory then, the bytes that pip installs for the
page beyond what cotune and its API need, and in Chromium with an empty cache: bytes, requests, other hosts, seconds
until the form is drawn, and from filling it in until an answer shows. Last, whether the page works, and how much of
it is refused, where the Content-Security-Policy allows no inline script or style.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PAGES = ("templates", "gradio")
#: What the API needs without any page.
API = ("fastapi", "uvicorn", "python-multipart")
TEXT = "what a lovely day"
_PAGE = Path(__file__).resolve().parent.parent / "src" / "cotune" / "serve" / "page"


def main() -> None:
    """Measure and print, or serve one of the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", choices=PAGES, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--strict", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.port, strict=args.strict)
    found: dict[str, list[dict[str, Any]]] = {page: [] for page in PAGES}
    for repeat in range(args.repeats):
        for page in sorted(PAGES, reverse=repeat % 2 == 0):
            with started(page) as (address, seconds, memory):
                seen = {"import to first GET /, s": seconds, "memory then, MB": memory, **visit(address)}
                found[page].append(seen)
    report(found)
    for page in PAGES:
        packages, size = installed(page)
        print(f"{page}: {packages} further packages, {size / 1e6:,.2f} MB installed; {strict(page)}")
    print({
        "repeats": args.repeats, "processor": processor(), "cores": os.cpu_count(), "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("gradio", "fastapi", "starlette", "uvicorn", "playwright")},
    })  # fmt: skip
    return None


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print medians, ranges, and the ratio gradio / templates of the pairs."""
    print(f"{'median (range)':34}{'templates':>26}{'gradio':>26}{'gradio / templates':>28}")
    for name in found["templates"][0]:
        values = {page: [seen[name] for seen in found[page]] for page in PAGES}
        if isinstance(values["gradio"][0], list):
            cells = [", ".join(sorted({host for hosts in values[page] for host in hosts})) or "none" for page in PAGES]
            print(f"{name:34}{cells[0]:>26}{cells[1]:>26}")
            continue
        cells = [f"{_short(statistics.median(v))} ({_short(min(v))} to {_short(max(v))})" for v in values.values()]
        ratios = [b / a for a, b in zip(values["templates"], values["gradio"], strict=True)]
        ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        print(f"{name:34}{cells[0]:>26}{cells[1]:>26}{ratio:>28}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


# ---- the two pages ---------------------------------------------------------------------------------------


def serve(page: str, port: int, *, strict: bool) -> None:
    """Serve one of the pages for a model with fixed answers."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None)
    app = _gradio(app) if page == "gradio" else _templates(app)
    if strict:
        from cotune.serve.guard import SECURITY_HEADERS

        @app.middleware("http")
        async def policy(request: Any, call: Any) -> Any:
            response = await call(request)
            response.headers["Content-Security-Policy"] = SECURITY_HEADERS["Content-Security-Policy"]
            return response

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def _templates(app: Any) -> Any:
    from cotune.serve.page.routes import page_routes

    prediction = {
        "id": "1", "label": "positive", "probabilities": {"negative": 0.17, "positive": 0.83}, "value": None,
        "shares": {"text": 0.7, "image": 0.3}, "error": None,
    }  # fmt: skip
    fields = [{"name": name, "kind": name, "columns": []} for name in ("text", "image")]
    model = {"name": "fixed", "task": "single-label", "labels": ["negative", "positive"], "thresholds": None,
             "fields": fields, "run": "fixed", "engine": "none", "explains": True}  # fmt: skip
    limits = {"body_bytes": 10**7, "image_pixels": 10**7, "batch": 32}
    source = {"model": "fixed", "run": "fixed", "request_id": "1"}

    @app.get("/v1/model")
    def about() -> dict[str, Any]:
        return {"models": [model], "default": "fixed", "limits": limits}

    @app.post("/v1/predict")
    def predict() -> dict[str, Any]:
        return {**source, "predictions": [prediction]}

    @app.post("/v1/explain")
    def explain() -> dict[str, Any]:
        return {
            **source, "prediction": prediction, "explained": "positive", "contributions": {"text": 1.1, "image": -0.4},
            "words": {"text": [{"word": w, "start": at, "end": end, "value": 0.5} for w, at, end in _words()]},
            "overlays": {"image": "data:image/png;base64," + base64.b64encode(_png()).decode()},
        }  # fmt: skip

    app.router.routes += page_routes(examples=True)
    return app


def _gradio(app: Any) -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from cotune.demo.posts import demo_posts_path
    from cotune.serve.page.routes import EXAMPLES

    def predict(text: str, image: Any) -> Any:
        marked = [(word, 0.5) for word, _, _ in _words()]
        return {"negative": 0.17, "positive": 0.83}, {"text": 0.7, "image": 0.3}, marked, image

    picture = str(next(demo_posts_path().with_name("images").glob("*.webp")))
    with gr.Blocks(analytics_enabled=False) as blocks:
        text, image = gr.Textbox(label="Text"), gr.Image(label="Image", type="pil")
        button = gr.Button("Predict")
        outputs = [gr.Label(label="Prediction"), gr.Label(label="Share"), gr.HighlightedText(label="Words"), gr.Image()]
        gr.Examples([[TEXT, picture]] * len(EXAMPLES), [text, image])
        button.click(predict, [text, image], outputs)
    return gr.mount_gradio_app(app, blocks, path="/")


def _words() -> list[tuple[str, int, int]]:
    return [(found[0], *found.span()) for found in re.finditer(r"\w+", TEXT)]


def _png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "#88aacc").save(buffer, "PNG")
    return buffer.getvalue()


# ---- measuring -------------------------------------------------------------------------------------------


@contextmanager
def started(page: str, *, strict: bool = False) -> Any:
    """Yield address, seconds until the first answer, and memory in MB of a process that serves a page."""
    import psutil

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--serve", page, "--port", str(port), *(["--strict"] if strict else [])]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        _wait_for(address, process)
        seconds = time.perf_counter() - begin
        yield address, seconds, psutil.Process(process.pid).memory_info().rss / 1e6
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    while True:
        if process.poll() is not None:
            raise SystemExit(f"the server for {address} ended with code {process.returncode}")
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                answer.read()
            return
        except urllib.error.URLError:
            time.sleep(0.01)


def visit(address: str) -> dict[str, Any]:
    """Return what Chromium sees of a page on a first visit: a text goes in, an answer comes out."""
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    sizes: list[float] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.route(lambda url: urlsplit(url).hostname != "127.0.0.1", lambda route: route.abort())
        page.on("request", lambda request: asked.append(request.url))
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        begin = time.perf_counter()
        page.goto(address)
        box = page.locator("textarea").first
        box.wait_for()
        drawn = time.perf_counter() - begin
        _settle(page, sizes)
        loaded, requests = sum(sizes), len([url for url in asked if url.startswith("http")])
        begin = time.perf_counter()
        _ask(page)
        answered = time.perf_counter() - begin
        browser.close()
    hosts = sorted({urlsplit(url).hostname or "" for url in asked if url.startswith("http")} - {"127.0.0.1"})
    return {
        "form drawn, s": drawn, "filled in to first answer, s": answered, "transferred, kB": loaded / 1e3,
        "requests": float(requests), "other hosts": hosts,
    }  # fmt: skip


def _settle(page: Any, sizes: list[float]) -> None:
    """Wait until a second passes in which nothing arrives."""
    n = -1
    while n != len(sizes):
        n = len(sizes)
        page.wait_for_timeout(1000)


def _ask(page: Any, timeout: float = 30_000) -> None:
    page.locator("textarea").first.fill(TEXT)
    page.get_by_role("button", name="Predict").first.click()
    page.get_by_text("83%").first.wait_for(timeout=timeout)


def strict(page: str) -> str:
    """Return whether a page works without inline scripts and styles."""
    from playwright.sync_api import Error, sync_playwright

    refused: list[str] = []
    with started(page, strict=True) as (address, _, _), sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("console", lambda line: refused.append(line.text) if "Content Security Policy" in line.text else None)
        try:
            tab.goto(address)
            _ask(tab, timeout=8000)
            works = "works"
        except Error:
            works = "does not work"
        browser.close()
    return f"{works} under the strict Content-Security-Policy ({len(refused)} refusals)"


def installed(page: str) -> tuple[int, int]:
    """Return how many packages, and bytes, a page adds to those that cotune and its API need."""
    if page == "templates":
        return 0, sum(path.stat().st_size for path in _PAGE.iterdir() if path.is_file())
    without = _needs(["cotune", *API])
    added = _needs(["gradio"]) - without
    return len(added), sum(_size(metadata.distribution(name)) for name in added)


def _needs(names: list[str]) -> set[str]:
    """Return the packages, themselves included, that some packages need without extras."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    coming = [str(canonicalize_name(name)) for name in names]
    while coming:
        name = coming.pop()
        if name in found:
            continue
        try:
            wanted = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        needs = [Requirement(text) for text in wanted]
        coming += [canonicalize_name(n.name) for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    return found


def _size(package: metadata.Distribution) -> int:
    paths = [Path(str(file.locate())) for file in package.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file())


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
