"""The front door: README.md is short, shows what there is, and its figures and table are those that the script makes."""

from __future__ import annotations

import csv
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "make_figures.py"))


def sample() -> list[list[str]]:
    """Return the cells of the README's table of posts."""
    block = README.partition("<!-- sample: begin -->\n")[2].partition("\n<!-- sample: end -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]


def test_it_is_short_and_names_what_a_newcomer_runs() -> None:
    assert len(README.split()) < 600
    for command in ("make demo", "make test", "make docs", "cotune predict demo-run examples/posts.csv"):
        assert command in README


def test_what_the_readme_installs_is_enough_for_what_it_runs() -> None:
    installed = re.search(r"pip install -e '\.\[([\w,]+)\]'", README)
    assert installed is not None
    extras = installed[1]
    assert f"-e '.[{extras}]'" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(extras.split(",")) == {"bundled", "explain"}, "`cotune explain` needs captum"


def test_its_images_are_there_small_and_described() -> None:
    named = set(re.findall(r'(?:src|srcset)="([^"]+)"|!\[[^\]]+\]\(([^)]+)\)', README))
    paths = {ROOT / (one or other) for one, other in named}
    assert {path.name for path in paths} >= {"explained-light.png", "explained-dark.png", "benchmark.svg"}
    for path in paths:
        assert path.stat().st_size < 150_000, path
    assert not re.search(r"<img(?![^>]*alt=\"[^\"]+\")|!\[\]", README)
    for scheme in ("light", "dark"):
        with Image.open(IMAGES / f"explained-{scheme}.png") as image:
            assert image.width >= 1000


@pytest.mark.parametrize("name", ["architecture", "benchmark"])
def test_the_drawings_are_those_of_the_script(script: dict[str, Any], name: str) -> None:
    drawn = script[name]()
    assert (IMAGES / f"{name}.svg").read_text(encoding="utf-8") == drawn, "run: python scripts/make_figures.py"
    assert "prefers-color-scheme: dark" in drawn
    assert not re.search(r"href|url\(|@import|<script|<image", drawn)
    assert len(re.search("<title>([^<]+)</title>", drawn)[1].split()) > 20  # type: ignore[index]


def test_the_table_has_the_posts_that_the_command_reads() -> None:
    with (ROOT / "examples" / "posts.csv").open(encoding="utf-8") as file:
        posts = list(csv.DictReader(file))
    rows = sample()
    assert [(row[0], row[2]) for row in rows] == [(post["text"], post["label"]) for post in posts]
    assert len(rows) == 5
    for row, post in zip(rows, posts, strict=True):
        assert (ROOT / "examples" / post["image"]).is_file()
        assert Path(post["image"]).name in row[1]
        label, sure = row[3].split()
        assert label in ("negative", "positive")
        assert 0.5 <= float(sure) <= 1
        assert sum(int(share.rstrip("%")) for share in row[4].split(", ")) in (99, 100, 101)


@pytest.mark.slow
@pytest.mark.real
def test_the_table_is_what_the_command_prints(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    script["_cotune"]("demo", "--out", str(tmp_path / "run"))
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in script["sample"](tmp_path / "run").splitlines()
    ]
    for printed, written in zip(found[2:], sample(), strict=True):
        assert printed[:3] == written[:3]
        (label, sure), (label_then, sure_then) = printed[3].split(), written[3].split()
        assert label == label_then
        # Other processors add up in another order, and training amplifies that.
        assert float(sure) == pytest.approx(float(sure_then), abs=0.1)


def test_the_newcomers_clock_types_what_the_readme_says() -> None:
    typed = runpy.run_path(str(ROOT / "benchmarks" / "newcomer.py"))["commands"](README)
    assert typed == [
        "git clone REPOSITORY cotune && cd cotune", "make demo", "cotune predict demo-run examples/posts.csv --out -",
    ]  # fmt: skip
