"""Every mark of a page can be seen: at least 3:1 against its ground, words 4.5:1, in light and dark, by the style sheets.

WCAG 2.2, success criteria 1.4.3 and 1.4.11; a ratio is of relative luminances, each plus 0.05.
"""

from __future__ import annotations

import re

import pytest

from cotune.report.pages import style_sheet

SHEETS = ("report.css", "charts.css", "benchmark.css", "explain_set.css", "explanation.css")
#: Lines that only guide the eye, grounds, and areas whose edge is a line of its own.
GUIDES = ("svg .grid", "svg .band", "svg .halo", "svg text.halo")
GROUNDS = {"--card", "--page", "--grid", "--wash", "--rule", "--warn-wash", "--cx-card", "--cx-grid", "--cx-rule",
           "--cx-warn-wash"}  # fmt: skip
#: Marks that are not drawn as SVG, by their class, and what they lie on.
BOXES = {".bar": "--card", ".hist span": "--card", ".whisker": "--card", ".point": "--card"}
Colour = tuple[float, float, float]


def css() -> str:
    return re.sub(r"/\*.*?\*/", "", "\n".join(str(style_sheet(name)) for name in SHEETS), flags=re.S)


def variables(scheme: str) -> dict[str, Colour]:
    dark = re.compile(r"@media screen and \(prefers-color-scheme: dark\) \{\n(.*?)^\}", re.M | re.S)
    sheets = "".join(dark.findall(css())) if scheme == "dark" else dark.sub("", css())
    found = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", sheets))
    return {name: tuple(int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)) for name, value in found.items()}  # type: ignore[misc]


def luminance(colour: Colour) -> float:
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Colour, other: Colour) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(colour: Colour, ground: Colour, opacity: float) -> Colour:
    red, green, blue = (c * opacity + g * (1 - opacity) for c, g in zip(colour, ground, strict=True))
    return red, green, blue


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert contrast((0x76 / 255,) * 3, (1, 1, 1)) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_mark_of_a_chart_stands_out_from_its_card(scheme: str) -> None:
    colours, seen = variables(scheme), 0
    for selector, rules in re.findall(r"^(svg [^{]*)\{([^}]*)\}", css(), re.M):
        if selector.strip() in GUIDES:
            continue
        opacity = float((re.findall(r"opacity: ([\d.]+)", rules) or ["1"])[0])
        words = "font-size" in rules
        used = set(re.findall(r"(?:fill|stroke): var\((--[\w-]+)\)", rules)) - {"--c"} - GROUNDS
        for name in used:
            seen += 1
            shown = mixed(colours[name], colours["--card"], opacity)
            assert contrast(shown, colours["--card"]) >= (4.5 if words else 3), (selector, name)
    assert seen > 10
    for look in range(8):
        assert contrast(colours[f"--c{look}"], colours["--card"]) >= 3, look


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("selector", sorted(BOXES))
def test_marks_made_of_boxes_stand_out_too(scheme: str, selector: str) -> None:
    colours = variables(scheme)
    rules = re.findall(rf"^{re.escape(selector)} \{{([^}}]*)\}}", css(), re.M)
    grounds = [name for rule in rules for name in re.findall(r"background: var\((--[\w-]+)\)", rule)]
    assert grounds, "a mark has a colour of its own, without transparency"
    for name in grounds:
        assert contrast(colours[name], colours[BOXES[selector]]) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fills_and_signs_of_explanations_stand_out(scheme: str) -> None:
    colours = variables(scheme)
    fills = re.findall(
        r"\.cx \.cx-(?:fill-\w+|for-bar|against-bar) \{[^}]*?(?:background|gradient)\D*?.*?var\((--cx-[\w]+)\)", css()
    )
    assert len(fills) == 10
    for name in {*fills, "--cx-soft", "--cx-for", "--cx-against"}:
        assert contrast(colours[name], colours["--cx-card"]) >= 3, name
    for name in ("--ink", "--soft", "--blue", "--warn", "--bad", "--good"):
        for ground in ("--card", "--page"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    assert contrast(colours["--warn"], colours["--warn-wash"]) >= 4.5


def test_the_darkest_cell_of_a_matrix_can_be_read() -> None:
    for scheme in ("light", "dark"):
        colours = variables(scheme)
        sheets = css()
        rgb = re.findall(r"--blue-rgb: (\d+), (\d+), (\d+)", sheets)[scheme == "dark"]
        least, more = map(float, re.findall(r"calc\(([\d.]+) \+ ([\d.]+) \* var\(--share\)\)", sheets)[0])
        blue: Colour = tuple(int(part) / 255 for part in rgb)  # type: ignore[assignment]
        assert contrast(colours["--ink"], mixed(blue, colours["--card"], least + more)) >= 4.5
