"""What `kills.py` kills: small inputs, and commands on them that end after seconds."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the tiny encoders of the tests

#: Those that can be resumed, and the service.
COMMANDS = ("fit", "bench", "predict", "explain", "tune", "serve")
#: Further ones, which are simply called again.
OTHERS = ("evaluate", "export", "check", "drift")


@dataclass(frozen=True)
class Case:
    """A command with its options.

    Attributes
    ----------
    command : str
        The command's name.
    name : str
        What is special about the case.
    words : tuple of str
        The command line; ``out`` is where its result goes, and is named within the folder of a series.
    out : str
        Name of the result.
    again : callable
        Takes the folder of a series, and returns what is added to the command line to go on.
    first : tuple of str
        What is added to the command line when it is started for the first time.
    before : callable
        Makes what lies in the folder of a series before the command is started.
    workers : bool
        Whether it has further processes.
    slow : bool
        Whether it takes its turn less often.
    """

    command: str
    name: str
    words: tuple[str, ...]
    out: str = "out"
    again: Callable[[Path], list[str]] = field(default=lambda folder: ["--resume"])
    first: tuple[str, ...] = ()
    before: Callable[[Path], object] = field(default=lambda folder: None)
    workers: bool = False
    slow: bool = False

    @property
    def title(self) -> str:
        """Command and name."""
        return f"{self.command}, {self.name}"


def make_inputs(folder: Path, export: bool = True) -> None:
    """Write encoders, posts, a run and perhaps an export of it."""
    from cotune.cli import main
    from runs import write_table
    from tiny import make_posts, save_encoder

    folder.mkdir(parents=True, exist_ok=True)
    save_encoder("distilbert", folder / "text")
    save_encoder("timm-resnet", folder / "image")
    write_table(make_posts(folder / "images", 36, gaps=False), folder / "posts.csv")
    head, *rows = (folder / "posts.csv").read_text().splitlines()
    (folder / "many.csv").write_text("\n".join([head, *(f"{i}{row}" for i in range(8) for row in rows)]) + "\n")
    (folder / "space.yaml").write_text("probe-lr: {low: 0.0001, high: 0.1, log: true}\nwidth: [16, 32]\n")
    if main(["fit", str(folder / "posts.csv"), "--out", str(folder / "run"), *_settings(folder, "frozen")]):
        raise SystemExit("fit failed; run it by hand")
    if export and main(
        ["export", str(folder / "run"), "--out", str(folder / "export"), "--posts", str(folder / "posts.csv")]
    ):
        raise SystemExit("export failed; run it by hand")


def _settings(inputs: Path, tune: str, **more: str) -> list[str]:
    settings = {"width": "16", "probe-epochs": "3", "epochs": "3", "min-epochs": "2", "batch-size": "8",
                "device": "cpu", "folds-group": "none", **more}  # fmt: skip
    encoders = ["--text-encoder", str(inputs / "text"), "--image-encoder", str(inputs / "image"), "--tune", tune]
    return [*encoders, *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]


def cases(inputs: Path) -> list[Case]:
    """Return all cases, by command."""
    posts, many = str(inputs / "posts.csv"), str(inputs / "many.csv")
    run, export = str(inputs / "run"), str(inputs / "export")

    def fit(name: str, tune: str, *more: str, **how: object) -> Case:
        return Case("fit", name, ("fit", posts, "--out", "out", *more, *_settings(inputs, tune)), **how)  # type: ignore[arg-type]

    def bench(name: str, jobs: int, *more: str, **how: object) -> Case:
        methods = ("--methods", "joint" if more else "text,image,joint,ensemble", "--folds", "2", "--protocol", "paper")
        words = ("bench", posts, "--out", "out", *methods, "--bootstrap", "50", "--jobs", str(jobs), *more)
        return Case("bench", name, (*words, *_settings(inputs, "top")), **how)  # type: ignore[arg-type]

    def predict(name: str, model: str, out: str, *more: str, slow: bool = False) -> Case:
        words = ("predict", model, many, "--out", out, "--chunk-size", "24", *more)
        return Case("predict", name, words, out, slow=slow)

    def tune(name: str, jobs: int, **how: object) -> Case:
        words = ("tune", posts, "--out", "out", "--trials", "3", "--space", str(inputs / "space.yaml"))
        words = (*words, "--bootstrap", "50", "--seeds", "1", "--jobs", str(jobs))
        return Case("tune", name, (*words, *_settings(inputs, "top")), **how)  # type: ignore[arg-type]

    def other(*words: str, name: str = "as it is", before: Callable[[Path], object] = lambda folder: None) -> Case:
        return Case(words[0], name, (*words, "--out", "out"), again=lambda folder: [], before=before)

    explain = ("explain", run, posts, "--out", "out", "--chunk-size", "6", "--device", "cpu")
    served = ("serve", run, "--port", "0", "--device", "cpu")
    return [
        fit("top, validation", "top", "--validation", "0.25"),
        fit("joint", "joint"),
        fit("two members, distilled", "joint", "--validation", "0.25", "--members", "2", "--distill"),
        fit(
            "in the place of a run",
            "top",
            first=("--overwrite",),
            before=lambda folder: shutil.copytree(inputs / "run", folder / "out"),
            again=_overwrite_again,
        ),
        bench("one process", 1),
        bench("two workers", 2, workers=True, slow=True),
        bench("EMAP, shots", 1, "--emap", "8", "--shots", "4,all", "--draws", "1", "--tables-format", "csv"),
        predict("torch, csv", run, "out.csv", "--engine", "torch"),
        predict("export, parquet", export, "out.parquet"),
        predict("export, jsonl.gz", export, "out.jsonl.gz"),
        predict("export, xlsx", export, "out.xlsx"),
        predict("exported on the way, json", run, "out.json", "--engine", "onnx", slow=True),
        Case("explain", "words, pixels, EMAP", (*explain, "--limit", "2", "--emap", "8"), again=lambda folder: []),
        Case("explain", "a list", (*explain, "--find", "conflicts", "--no-pixels"), again=lambda folder: []),
        tune("one process", 1),
        tune("two workers", 2, workers=True, slow=True),
        Case("serve", "torch", (*served, "--engine", "torch")),
        Case("serve", "exported on the way", (*served, "--engine", "onnx"), slow=True),
        Case("serve", "an export", ("serve", export, "--port", "0")),
        other("evaluate", run, posts, "--device", "cpu"),
        other("export", run, "--posts", posts, "--openvino"),
        other("check", posts),
        other("drift", run, posts),
    ]  # fmt: skip


def _overwrite_again(folder: Path) -> list[str]:
    """Go on where there is something to go on from, or begin to replace the run that is still there."""
    begun = any((folder / "out" / "checkpoint").glob("**/state.json"))
    there = (folder / "out" / "config.json").is_file()
    return ["--resume"] if begun or not there else ["--overwrite"]
