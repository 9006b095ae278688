"""The site of the documentation: ``make docs`` builds it into docs/_build, without a network."""

import re
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent

project = "cotune"
author = "the cotune authors"
version = release = version_of("cotune")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
highlight_language = "none"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
myst_fence_as_directive = []
nb_execution_mode = "off"  # the notebook is shown as it was committed; the tests run it

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"cotune {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = html_show_copyright = False
# Pages ask no other host for anything: neither scripts nor fonts; tests/repository/test_site.py reads and opens them.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True


def name_what_is_not_on_the_site(app: Sphinx, docname: str, source: list[str]) -> None:
    """Turn links to folders and Markdown files elsewhere in the repository into their names: the site lacks them."""

    def replace(link: re.Match[str]) -> str:
        words, path = link["words"], (HERE / docname).parent / link["path"]
        path = path.resolve()
        if path.is_relative_to(HERE) or not (path.is_dir() or path.suffix == ".md"):
            return link[0]
        name = path.relative_to(HERE.parent).as_posix()
        return f"`{name}`" if words.strip("`") in name else f"{words} (`{name}`)"

    source[0] = re.sub(r"\[(?P<words>[^\]\n]*)\]\((?P<path>\.\.?/[^)#\s]+)[^)]*\)", replace, source[0])


# What the theme's pages lack for keyboards and screen readers: names, levels, a focus for what scrolls sideways.
_ACCESSIBLE = {
    r'role="heading">': 'role="heading" aria-level="2">',
    r"<pre(?! tabindex)": '<pre tabindex="0"',
    r'<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '<div class="cx-scroll">': '<div class="cx-scroll" tabindex="0">',
    r'<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
    r'<aside class="toc-drawer([^"]*)">': r'<aside class="toc-drawer\1" aria-label="This page">',
    r"<th(?: class=\"head[^\"]*\")?>(?:<p></p>)?</th>": "<td></td>",
}


def make_accessible(app: Sphinx, error: Exception | None) -> None:
    """Fix the finished pages."""
    if error is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            for found, better in _ACCESSIBLE.items():
                text = re.sub(found, better, text)
            page.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Register what this project adds to Sphinx."""
    app.connect("source-read", name_what_is_not_on_the_site)
    app.connect("build-finished", make_accessible)
