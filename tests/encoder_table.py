"""``docs/results/architectures.md``: what each architecture can do, written from what it does and compared with it in the tests.

``python tests/encoder_table.py`` writes it anew (some twenty-five minutes on one core, five with ``--no-exports``,
which leaves that column as it is, twenty with ``--only-exports``), ``python tests/encoder_table.py BERT "timm
test_vit"`` prints single rows. New versions of the libraries then show what changed.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from architectures import IMAGE, TEXT, Architecture
from matrix import COLUMNS, EXPORTED, TRAINED, WORKS, outcomes
from tiny import make_posts

DOCUMENT = Path(__file__).parent.parent / "docs" / "results" / "architectures.md"
_BEGIN, _END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
BOTH: tuple[tuple[str, tuple[Architecture, ...]], ...] = (("text", TEXT), ("image", IMAGE))


def all_rows() -> list[tuple[str, Architecture]]:
    """Return every architecture with its modality."""
    return [(modality, architecture) for modality, known in BOTH for architecture in known]


def compute(modality: str, architecture: Architecture, root: Path, columns: Sequence[str] = COLUMNS) -> dict[str, str]:
    """Return the outcome of one architecture; `root` is used for its files, and removed."""
    posts = make_posts(root / "posts", 12, gaps=False)
    try:
        return outcomes(architecture, modality, posts, root, columns)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def compute_apart(
    modality: str, architecture: Architecture, root: Path, columns: Sequence[str]
) -> dict[str, str] | None:
    """Return the outcome of one architecture, found out in a process of its own; None if that died."""
    context = multiprocessing.get_context("fork")  # torch is loaded, and has not started threads
    mine, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(compute(modality, architecture, root, columns)))
    child.start()
    theirs.close()
    try:
        found: dict[str, str] = mine.recv()
    except EOFError:
        return None
    finally:
        child.join()
    return found


def form_allows(row: dict[str, str]) -> bool:
    """Tell whether an architecture works in every way, but for a cut that its layers do not allow."""
    cut = ("made of layers", "hand on more than activations")
    return all(row[way] == WORKS or (way == "top" and any(part in row[way] for part in cut)) for way in TRAINED)


def table(found: dict[tuple[str, str], dict[str, str]]) -> str:
    """Return both tables and the lines that refuse, numbered."""
    notes: dict[str, int] = {}
    parts = []
    for modality, known in BOTH:
        here = [(a.name, found[modality, a.name]) for a in known if (modality, a.name) in found]
        whole = sum(all(row[way] == WORKS for way in TRAINED) for _, row in here)
        exported = sum(row[EXPORTED] == WORKS for _, row in here)
        parts += [
            f"## {modality.capitalize()} encoders", "",
            f"{len(here)} architectures: {whole} work in every way, {sum(form_allows(row) for _, row in here)} in every way "
            "that their form allows (the upper layers of some cannot be trained alone, since they read more of the lower "
            f"ones than activations, or have no layers that can be found); {exported} are exported.", "",
            f"| architecture | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}",
        ]  # fmt: skip
        for name, row in here:
            cells = ["yes" if row[c] == WORKS else f"no [{notes.setdefault(row[c], len(notes) + 1)}]" for c in COLUMNS]
            parts.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("")
    parts += ["The lines that refuse:", ""]
    parts += [f"{number}. {line}" for line, number in notes.items()]
    return "\n".join(parts)


def documented() -> dict[tuple[str, str], dict[str, str]]:
    """Return what the document says of each architecture."""
    text = DOCUMENT.read_text(encoding="utf-8")
    notes = dict(re.findall(r"^(\d+)\. (.*)$", text.partition(_BEGIN)[2], re.MULTILINE))
    found: dict[tuple[str, str], dict[str, str]] = {}
    modality, columns = "", [""]
    for line in text.partition(_BEGIN)[2].splitlines():
        if line.startswith("## "):
            modality = line.split()[1].lower()
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "architecture":
            columns = cells[1:]
        elif len(cells) == len(columns) + 1 and not cells[0].startswith("-"):
            row = [WORKS if cell == "yes" else notes[re.sub(r"\D", "", cell)] for cell in cells[1:]]
            found[modality, cells[0]] = dict(zip(columns, row, strict=True))
    return found


def main() -> None:
    """Write the document, or print the rows that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; all by default")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--only-exports", dest="columns", action="store_const", const=(EXPORTED,), default=COLUMNS)
    parts.add_argument("--no-exports", dest="columns", action="store_const", const=TRAINED)
    args = parser.parse_args()
    names = args.names
    found, died = {}, []
    kept = {} if args.columns == COLUMNS else documented()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COTUNE_CACHE"] = str(Path(folder) / "cache")
        for modality, architecture in all_rows():
            if not names or architecture.name in names:
                outcome = compute_apart(modality, architecture, Path(folder) / "one", args.columns)
                print(f"{architecture.name}: {'done' if outcome else 'DIED'}", file=sys.stderr, flush=True)
                if outcome is None:
                    died.append(architecture.name)
                else:
                    found[modality, architecture.name] = kept.get((modality, architecture.name), {}) | outcome
    if died:
        sys.exit(f"nothing is written: {', '.join(died)} ended in a traceback or a crash")
    text = table(found)
    if names:
        print(text)
        return
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("transformers", "timm", "torch", "peft", "onnxscript")
    )
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    DOCUMENT.write_text(f"{before}{_BEGIN}\n\nWith {versions}.\n\n{text}\n\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for slow in ("captum.attr", "peft.tuners.lora", "timm", "cotune.estimators.classifier", "cotune.explain.explainer"):
        importlib.import_module(slow)  # once, and not in every process
    importlib.import_module("torch").set_num_threads(1)
    main()
