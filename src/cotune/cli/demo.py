"""The command ``demo``: train, compare and predict on the posts that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotune.cli.options import AsJson
from cotune.cli.show import command, is_quiet, print_json, print_next, print_rich, tell_note
from cotune.cli.stop import StoppedError
from cotune.errors import CotuneError
from cotune.report.terminal import compared_table, examples_table

if TYPE_CHECKING:
    from cotune.demo.experiment import Demo


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.", metavar="DIR")] = Path("demo-run"),
    as_json: AsJson = False,
) -> None:
    """Train on the demo posts and compare text only, image only, concatenation and joint fine-tuning.

    Needs no network: encoders and posts come with the package (pip install 'cotune\\[bundled]').
    """
    _refuse_foreign(out)
    import time

    from cotune.data.predictions import records
    from cotune.demo.experiment import NOTE, run_demo
    from cotune.progress import Progress, TerminalProgress
    from cotune.report.run_pages import run_pages
    from cotune.run import save_run

    class Bars(TerminalProgress):
        """Shows bars; the single epochs of four models would be too much to read."""

        def begin(self, stage: str) -> None:
            """Keep silent."""

        def say(self, line: str) -> None:
            """Keep silent, but for what the user must know."""
            if line.startswith("note:"):
                super().say(line)

    progress = Progress() if is_quiet() else Bars()
    started = time.perf_counter()
    tell_note("training four models on 750 demo posts (a minute or two)")

    def tell(name: str, auc: float, seconds: float) -> None:
        tell_note(f"  {name:<14} AUC {auc:.3f}  ({seconds:.0f} s)")

    try:
        found = run_demo(progress=progress, on_result=tell)
    except KeyboardInterrupt:
        raise StoppedError("stopped; nothing was saved") from None
    save_run(out, found.run, pages=run_pages(found.run, found.held_out, name=out.name))
    took = time.perf_counter() - started
    if as_json:
        print_json(
            {
                "run": out,
                "seconds": took,
                "note": NOTE,
                "models": [result.to_dict() for result in found.results],
                "examples": list(records(found.examples)),
            }
        )
        return
    models = [result.to_dict() for result in found.results]
    compared = compared_table(models, found.results[0].evaluation.n)
    print_rich("", compared, _trained(found), "", examples_table(found.examples.to_dict("records")), "", NOTE)
    print_next(
        f"Done in {took:.0f} s. The joint model is saved to {out}; its report is {out / 'report.html'}. Next:",
        command("cotune", "predict", out, "--text", "what a wonderful day"),
        command("cotune", "info", out),
    )


def _trained(found: Demo) -> str:
    return "trained: " + "; ".join(f"{result.name}: {result.trained}" for result in found.results)


def _refuse_foreign(out: Path) -> None:
    """Replace an earlier demo, and nothing else."""
    from cotune.files import read_json
    from cotune.ownership import RUN

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    metrics = read_json(out / "metrics.json") if (out / "metrics.json").is_file() else {}
    if not RUN.owns(out) or "demo" not in metrics:
        raise CotuneError(f"{out} holds something other than an earlier demo; name another folder with --out")
