"""Make the figures of README.md and docs/, the README's table of five posts, and the tutorial's outputs.

    python scripts/make_figures.py                    # trains the demo's models first: some minutes
    python scripts/make_figures.py --run demo-run     # with a run that `cotune demo` has made
    python scripts/make_figures.py --only architecture benchmark

``architecture.svg`` and ``benchmark.svg`` (from benchmarks/results/main) are drawn here. ``explained-light.png`` and
``explained-dark.png`` are photographs, by playwright and Chromium, of the page that `cotune explain` makes of a demo
post; they need the extra ``explain``. ``sample`` writes what `cotune predict` says of examples/posts.csv to README.md.
``tutorial`` executes docs/tutorial.ipynb. No image of a data set with a research licence is used: texts and images are
those of the demo posts (src/cotune/demo/data/LICENSES.md).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from PIL import Image

from cotune.demo import demo_posts_path
from cotune.files import atomic_path, write_text

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
POSTS = ROOT / "examples" / "posts.csv"
EXPLAINED = 0  # the row of POSTS whose explanation is shown
BEGIN, END = "<!-- sample: begin -->", "<!-- sample: end -->"
CHROMIUM = "/usr/bin/chromium"
# What is photographed of a page is its gist: the tables of all values would be a page of their own.
_GIST = """
header, details, .cx > section { display: none !important; } main { max-width: none; padding: 0; margin: 0; }
.cx { display: grid; grid-template: auto 1fr / 9fr 11fr; gap: 12px; padding: 12px; background: inherit; }
.cx > section:has(.cx-answer, .cx-words, .cx-pictures) { display: block !important; margin: 0; }
.cx > section:has(.cx-pictures) { grid-column: 2; grid-row: 1 / span 2; }
.cx-pictures { display: grid !important; grid-template-columns: 1fr 1fr !important; }
.cx-pictures ~ *, .cx-words ~ .cx-scroll ~ *, .cx-words ~ .cx-scroll tr:nth-child(n + 4) { display: none !important; }
"""

# Drawn on a ground of their own, so that they can be read wherever a host puts them.
_STYLE = """
:root { --ground: #fff; --edge: #d5d9e0; --ink: #1d1f23; --soft: #555b65; --grid: #e3e6eb; --blue: #0072b2;
  --off: #eef0f4; --on: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181d; --edge: #3a3f49; --ink: #eceef1; --soft: #a9b0bb; --grid: #2c313a; --blue: #56b4e9;
    --off: #242830; --on: #10222f; }
}
text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); }
.ground { fill: var(--ground); stroke: var(--edge); } .grid { stroke: var(--grid); } .strong { font-weight: 650; }
.soft { fill: var(--soft); font-size: 12.5px; } .mid { text-anchor: middle; } .end { text-anchor: end; }
.frozen { fill: var(--off); stroke: var(--edge); } .trained { fill: var(--blue); }
.on { fill: var(--on); font-weight: 650; }
.adapters { fill: var(--ground); stroke: var(--blue); stroke-width: 2; stroke-dasharray: 5 3; }
.arrow { stroke: var(--soft); stroke-width: 1.6; fill: none; } .tip { fill: var(--soft); }
.whisk { stroke: var(--soft); stroke-width: 2.4; } .point { fill: var(--soft); }
.whisk.first { stroke: var(--blue); } .point.first { fill: var(--blue); }
"""


def drawing(width: int, height: int, title: str, parts: list[Markup]) -> str:
    """Return an SVG file."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    ground = f'<rect class="ground" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="10"/>'
    head = f"<title>{escape(title)}</title><style>{_STYLE}</style>{ground}\n"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{head}' + "\n".join(parts) + "</svg>\n"


def text(x: float, y: float, words: str, style: str = "") -> Markup:
    """Write words."""
    return Markup('<text x="{:g}" y="{:g}" class="{}">{}</text>').format(x, y, style, words)


def box(x: float, y: float, width: float, height: float, words: list[str], style: str = "frozen") -> Markup:
    """Draw a box with lines of words in its middle, the first stressed."""
    shape = Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="6" class="{}"/>')
    drawn = [shape.format(x, y, width, height, style)]
    for n, line in enumerate(words):
        look = "mid soft" if n else "mid on" if style == "trained" else "mid strong"
        drawn.append(text(x + width / 2, y + height / 2 + 5 + 18 * (n - (len(words) - 1) / 2), line, look))
    return Markup("").join(drawn)


def arrow(x: float, y: float, to_x: float, to_y: float) -> Markup:
    """Draw an arrow that ends to the right."""
    return Markup(
        '<path class="arrow" d="M{0:g} {1:g}C{4:g} {1:g} {4:g} {3:g} {5:g} {3:g}"/>'
        '<path class="tip" d="M{2:g} {3:g}l-8 -4.5v9z"/>'
    ).format(x, y, to_x, to_y, (x + to_x) / 2, to_x - 7)


def architecture() -> str:
    """Draw two encoders, their projections and the head, and below them what each way of training trains."""
    parts = []
    lower, upper, projection, head, out = 150, 322, 494, 636, 790
    for y, name, words, width in ((30, "Text", "“what a day”", 384), (124, "Image", "photo.jpg", 1280)):
        parts.append(box(20, y, 92, 70, [name, words]))
        parts.append(box(lower, y, 150, 70, ["Lower layers", f"{name.lower()} encoder"]))
        parts.append(box(upper, y, 150, 70, ["Upper layers", f"{name.lower()} encoder"]))
        parts.append(box(projection, y, 112, 70, ["Projection", f"{width:,} to 128"]))
        for start, end in ((112, lower), (lower + 150, upper), (upper + 150, projection)):
            parts.append(arrow(start, y + 35, end, y + 35))
        parts.append(arrow(projection + 112, y + 35, head, 112 + (y - 77) * 0.34))
    parts.append(box(head, 57, 112, 110, ["Attention", "one token", "for each field"]))
    parts += [arrow(head + 112, 112, out, 112), box(out, 77, 112, 70, ["Labels", "probabilities"])]
    rows = (
        ("Probe", "--tune frozen", "frozen", "frozen", "embeddings computed once"),
        ("top", "the default", "frozen", "trained", "lower activations computed once"),
        ("joint", "--tune joint", "trained", "trained", "one loss through everything"),
        ("lora", "--tune lora", "adapters", "adapters", "merged at the end"),
    )
    for y, (name, how, below, above, note) in zip(range(226, 400, 48), rows, strict=True):
        parts += [text(20, y + 16, name, "strong"), text(20, y + 33, how, "soft")]
        parts += [box(lower, y, 150, 36, [below], below), box(upper, y, 150, 36, [above], above)]
        parts += [box(projection, y, 254, 36, ["trained"], "trained"), text(out - 24, y + 23, note, "soft")]
    title = (
        "How cotune is built: text and image each pass the lower and upper layers of an encoder and a projection; "
        "attention over one token for each field gives the labels. The probe trains projections and head, top also "
        "the upper layers, joint everything, lora adapters in all layers."
    )
    return drawing(990, 432, title, parts)


def benchmark() -> str:
    """Draw the AUC of the main table as a forest plot, sorted, joint fine-tuning marked as the reference."""
    from cotune.benchmark import METHODS
    from cotune.report.drawing import Scale, digits, nice_ticks

    found = json.loads((ROOT / "benchmarks" / "results" / "main" / "summary.json").read_text())
    rows = sorted(found["rows"], key=lambda row: -row["scores"]["auc"]["value"])
    names = [METHODS[row["method"]].title for row in rows]
    spans = [row["scores"]["auc"] for row in rows]
    ticks = nice_ticks(min(s["low"] for s in spans), max(s["high"] for s in spans))
    x = Scale(ticks[0], ticks[-1], 330, 720)
    bottom = 62 + 34 * len(rows)
    line = Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>')
    parts = [
        text(20, 30, f"AUC on {found['posts']:,} posts of MVSA-Single, out of fold, with 95 % intervals", "strong")
    ]
    for tick in ticks:
        parts.append(line.format("grid", x(tick), x(tick), 46, bottom))
        parts.append(text(x(tick), bottom + 20, f"{tick:.{digits(ticks)}f}"[1:], "mid soft"))
    for n, (row, name, span) in enumerate(zip(rows, names, spans, strict=True)):
        y, at, first = 68 + 34 * n, x(span["value"]), row["method"] == "joint"
        parts.append(text(20, y + 5, name, "strong" if first else ""))
        parts.append(line.format("whisk first" if first else "whisk", x(span["low"]), x(span["high"]), y, y))
        square = Markup('<rect class="point first" x="{:.1f}" y="{}" width="12" height="12"/>').format(at - 6, y - 6)
        parts.append(square if first else Markup('<circle class="point" cx="{:.1f}" cy="{}" r="5"/>').format(at, y))
        parts.append(text(800, y + 5, f"{span['value']:.3f}"[1:], "end strong" if first else "end"))
    values = ", ".join(f"{name} {span['value']:.3f}" for name, span in zip(names, spans, strict=True))
    return drawing(820, bottom + 36, f"AUC of {len(rows)} methods with 95 % intervals, best first: {values}", parts)


def explained(run: Path) -> dict[str, Image.Image]:
    """Photograph the explanation of a demo post, in light and dark."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one.csv"
        rows = list(csv.DictReader(POSTS.open(encoding="utf-8")))[EXPLAINED : EXPLAINED + 1]
        rows[0]["image"] = str((POSTS.parent / rows[0]["image"]).resolve())
        with one.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        _cotune("explain", str(run), str(one), "--out", f"{folder}/pages")
        (page_file,) = Path(folder, "pages", "posts").glob("*.html")
        shots = {}
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": 1000, "height": 600}, device_scale_factor=1.5, color_scheme=scheme
                )
                page.goto(page_file.as_uri())
                page.add_style_tag(content=_GIST)
                shots[scheme] = Image.open(io.BytesIO(page.locator(".cx").screenshot()))
                shots[scheme].load()
            browser.close()
    return shots


def sample(run: Path) -> str:
    """Return the README's table: five posts, and what ``cotune predict`` prints of them."""
    printed = _cotune("predict", str(run), str(POSTS.relative_to(ROOT)), "--out", "-")
    found = {row["id"]: row for row in csv.DictReader(io.StringIO(printed))}
    names = {Path(row["image"]).name: row["group"] for row in csv.DictReader(demo_posts_path().open(encoding="utf-8"))}
    lines = ["| text | image | label | predicted | share of text, image |", "|---|---|---|---|---|"]
    for post in csv.DictReader(POSTS.open(encoding="utf-8")):
        row = found[post["id"]]
        image = os.path.normpath(Path("examples") / post["image"])
        sure, shares = float(row[f"p_{row['label']}"]), (float(row[f"{field}_share"]) for field in ("text", "image"))
        lines.append(
            f'| {post["text"]} | <img src="{image}" width="36" alt="{names[Path(image).name]}"> | {post["label"]} '
            f"| {row['label']} {sure:.2f} | {', '.join(f'{share:.0%}' for share in shares)} |"
        )
    return "\n".join(lines)


def tutorial() -> None:
    """Execute the notebook where it lies; warnings, and text beside a rendering, are left out of its outputs."""
    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "docs" / "tutorial.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "text/html" in output.get("data", {}):
                    output["data"].pop("text/plain", None)
    write_text(path, nbformat.writes(notebook) + "\n")


def _cotune(*words: str) -> str:
    call = [sys.executable, "-m", "cotune", *words]
    return subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def put_into_readme(table: str) -> None:
    """Replace the table of README.md."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    write_text(readme, f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    """Make the figures that are asked for."""
    names = ("architecture", "benchmark", "explained", "sample", "tutorial")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run that `cotune demo` has made; by default one is made")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    drawn: dict[str, Any] = {"architecture": architecture, "benchmark": benchmark}
    for name in drawn.keys() & set(args.only):
        write_text(IMAGES / f"{name}.svg", drawn[name]())
    if "tutorial" in args.only:
        tutorial()
    with tempfile.TemporaryDirectory() as folder:
        run = (args.run or Path(folder) / "demo-run").resolve()
        if {"explained", "sample"} & set(args.only) and args.run is None:
            _cotune("demo", "--out", str(run))
        if "explained" in args.only:
            for scheme, shot in explained(run).items():
                with atomic_path(IMAGES / f"explained-{scheme}.png") as path:
                    shot.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)
        if "sample" in args.only:
            put_into_readme(sample(run))


if __name__ == "__main__":
    main()
