"""A head, a source, a task, a kind of field and a benchmark method that live in another package."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cotune.errors import ConfigError
from cotune.plugins import load_plugins
from cotune.registry import Registry
from tiny import Zoo, make_posts

PACKAGE = Path(__file__).parent / "plugin_package"


SEVERAL = """
import json, sys
from cotune.cli import main
for words in json.loads(sys.argv[1]):
    if code := main(words):
        sys.exit(code)
"""


def run_cotune(folder: Path, *arguments: Any, plugins: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with the package installed or not."""
    return _run(folder, "-m", "cotune", *arguments, plugins=plugins)


def run_several(folder: Path, *commands: tuple[Any, ...]) -> subprocess.CompletedProcess[str]:
    """Run commands one after another in one process that has the package, as long as they succeed."""
    return _run(folder, "-c", SEVERAL, json.dumps([[str(word) for word in words] for words in commands]))


def _run(folder: Path, *arguments: Any, plugins: bool = True) -> subprocess.CompletedProcess[str]:
    source = Path(importlib.import_module("cotune").__file__ or "").parent.parent
    path = [str(source), *([str(PACKAGE)] if plugins else [])]
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=folder, check=False,
        env={"PYTHONPATH": ":".join(path), "COTUNE_CACHE": str(folder / "cache"), "HOME": str(folder),
             "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("posts")
    make_posts(folder, 16, gaps=False).drop(columns=["row", "group"]).to_csv(folder / "posts.csv", index=False)
    return folder / "posts.csv"


@pytest.fixture(scope="module")
def run(zoo: Zoo, posts: Path) -> Path:
    """A run with a head and an image encoder of the package, made by the command line."""
    out = posts.parent / "run"
    done = run_cotune(
        posts.parent, "fit", posts, "--out", out, "--text-encoder", zoo("distilbert"), "--image-encoder", "colours:3",
        "--fusion", "sum", "--tune", "joint", "--epochs", 1, "--set", "width=8", "--set", "heads=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_an_installed_package_needs_no_flag(run: Path, posts: Path) -> None:
    done = run_cotune(posts.parent, "predict", run, posts, "--out", "predictions.csv")
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(posts.parent / "predictions.csv")
    assert found["error"].isna().all()
    assert found["p_class0"].between(0, 1).all()
    assert np.ptp(found["p_class0"]) > 1e-6
    done = run_cotune(
        posts.parent, "explain", run, posts, "--out", "explained", "--limit", 1, "--word-posts", 0, "--emap", 0
    )
    assert done.returncode == 0, done.stderr
    assert (posts.parent / "explained" / "index.html").is_file()


@pytest.fixture(scope="module")
def ordinal(zoo: Zoo, posts: Path) -> Path:
    """A run with a task, a kind of field and a head of the package, whose own setting is given."""
    folder = posts.parent
    table = pd.read_csv(posts)
    table["tags"] = [f"#class{i % 3} #x" for i in range(len(table))]
    table.assign(label=[i % 3 for i in range(len(table))]).to_csv(folder / "ordinal.csv", index=False)
    (folder / "ordinal.yaml").write_text(
        "task: ordinal\nfusion: sum\nhead_options: {slope: 0.1}\ntune: frozen\nprobe_epochs: 80\nprobe_lr: 0.01\n"
        "fields: {text: {kind: text}, image: {kind: image}, tags: {kind: hashtags}}\n"
    )
    done = run_cotune(
        folder, "fit", "ordinal.csv", "--out", "ordinal", "--config", "ordinal.yaml", "--text-encoder",
        zoo("distilbert"), "--image-encoder", zoo("timm-resnet"), "--width", 8, "--set", "heads=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "ordinal"


def test_a_task_and_a_kind_of_field_of_the_package(ordinal: Path) -> None:
    folder = ordinal.parent
    done = run_several(
        folder,
        ("predict", ordinal, "ordinal.csv", "--out", "ranks.csv"),
        ("evaluate", ordinal, "ordinal.csv"),
        ("explain", ordinal, "ordinal.csv", "--out", "ranks", "--limit", 1, "--word-posts", 2, "--emap", 0),
        ("bench", "ordinal.csv", "--out", "ordinal_bench", "--config", "ordinal.yaml", "--methods", "prior,probe",
         "--folds", 2, "--protocol", "paper", "--bootstrap", 20),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, given = pd.read_csv(folder / "ranks.csv"), pd.read_csv(folder / "ordinal.csv")
    assert (found["label"] == given["label"]).mean() > 0.9
    assert found["tags_share"].mean() > found[["text_share", "image_share"]].mean().max()
    settings = json.loads((ordinal / "config.json").read_text())
    assert settings["head"]["settings"]["slope"] == 0.1
    assert {part["package"] for part in settings["needs"].values()} == {"cotune-extra"}
    assert len(settings["needs"]) == 4


def test_a_setting_that_the_head_does_not_have(posts: Path, zoo: Zoo) -> None:
    done = run_cotune(
        posts.parent, "fit", posts, "--out", "none", "--text-encoder", zoo("distilbert"), "--image-encoder",
        zoo("timm-resnet"), "--fusion", "sum", "--set", "head-options={slop: 1}",
    )  # fmt: skip
    assert done.returncode == 2
    assert "the fusion head 'sum' has no setting 'slop' (did you mean 'slope'?)" in done.stderr
    assert not (posts.parent / "none").exists()


def test_a_run_without_its_package_names_it(run: Path, posts: Path) -> None:
    done = run_cotune(posts.parent, "predict", run, posts, "--out", "nothing.csv", plugins=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert (
        "needs the fusion head 'sum', which is not available; pip install cotune-extra, or name its module"
        in done.stderr
    )
    assert not (posts.parent / "nothing.csv").exists()


def test_a_method_of_the_package_in_a_benchmark(zoo: Zoo, posts: Path) -> None:
    out = posts.parent / "bench"
    done = run_cotune(
        posts.parent, "bench", posts, "--out", out, "--methods", "prior", "--folds", 2, "--text-encoder",
        zoo("distilbert"), "--image-encoder", zoo("timm-resnet"), "--protocol", "paper", "--emap", 0, "--bootstrap", 20,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Class frequencies" in done.stdout


def test_an_entry_point_that_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken_heads-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-heads\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cotune.test_parts]\nmine = nowhere_at_all:Head\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    parts: Registry[str] = Registry("part", "cotune.test_parts")
    with pytest.raises(ConfigError, match=r"the package broken-heads offers the part 'mine', but .* cannot be loaded"):
        parts["mine"]


def test_packages_are_asked_only_for_names_that_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: Registry[int] = Registry("part", "cotune.test_parts")
    parts.add("own", 1)
    monkeypatch.setattr("cotune.registry.metadata.entry_points", lambda **_: pytest.fail("asked"))
    assert parts["own"] == 1
    assert "own" in parts


def test_a_module_that_raises_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising_plugin.py").write_text("raise ValueError('no luck')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="--plugin raising_plugin cannot be imported: ValueError: no luck"):
        load_plugins(["raising_plugin"])
    with pytest.raises(ConfigError, match="--plugin not_there_at_all cannot be imported"):
        load_plugins(["not_there_at_all"])


@pytest.mark.parametrize("name", ["../x", "plugin.py", "a/b", "", "a-b"])
def test_what_is_no_name_of_a_module_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a module"):
        load_plugins([name])


FAULTY = """
import sys
sys.path.insert(0, PACKAGE)
from cotune.data.kinds import FIELD_KINDS
from cotune.encoders.sources import SOURCES
from cotune.heads import HEADS, FusionHead
from cotune.tasks import TASKS
from cotune.tasks.single_label import SingleLabel
from cotune_extra.head import SumHead
from cotune_extra.kind import Hashtags, TagEncoder, TagSource


@HEADS.register("raises")
class Raises(SumHead):
    def fuse(self, embeddings):
        raise KeyError("not there")


@HEADS.register("shape")
class Shape(SumHead):
    def fuse(self, embeddings):
        return super().fuse(embeddings)[:1]


@HEADS.register("pair")
class Pair(SumHead):
    def fuse(self, embeddings):
        return super().fuse(embeddings), 1


@HEADS.register("signature")
class Signature(FusionHead):
    def __init__(self, size):
        super().__init__({}, size)

    def fuse(self, embeddings):
        return None


@HEADS.register("settings")
class Settings(SumHead):
    def settings(self):
        return {"width": object()}


@TASKS.register("one-answer")
class OneAnswer(SingleLabel):
    name = "one-answer"

    def decode(self, predictions):
        return ["x"]


@TASKS.register("narrow")
class Narrow(SingleLabel):
    name = "narrow"

    def predictions(self, outputs):
        return outputs[:, :1]


@TASKS.register("old-loss")
class OldLoss(SingleLabel):
    name = "old-loss"

    def loss(self, config):
        return None


class Words(Hashtags):
    def read(self, cells, base):
        (cell,) = cells.values()
        return tuple(cell.split()) or None


class WordEncoder(TagEncoder):
    modality = "words"

    def describe(self):
        return {**super().describe(), "kind": "words", "modality": "words"}


class Short(WordEncoder):
    modality = "short"

    def prepare(self, values, options):
        return super().prepare(values[:-1], options)


class Source(TagSource):
    kinds = frozenset({"words"})

    def open(self, name, wanted):
        return WordEncoder() if wanted.modality == "words" else Short()

    def load(self, folder, saved):
        return WordEncoder(saved["dim"])


for kind in ("words", "short"):
    FIELD_KINDS.add(kind, Words())
    SOURCES.add(kind, Source())
"""


@pytest.fixture(scope="module")
def faulty(posts: Path) -> Path:
    """A folder with a plugin of which every part is faulty, and a table with odd cells for its kind of field."""
    (posts.parent / "faulty.py").write_text(FAULTY.replace("PACKAGE", repr(str(PACKAGE))))
    table = pd.read_csv(posts).astype(object)
    table["tags"] = "#a b"
    table.to_csv(posts.parent / "words.csv", index=False)
    rows = [{key: value for key, value in row.items() if value == value} for row in table.to_dict("records")]  # no NaN
    rows[1]["tags"], rows[2]["tags"], rows[3]["tags"] = ["#a"], 3, None
    (posts.parent / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return posts.parent


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--fusion raises", "error: KeyError: 'not there' (in the plugin faulty, line "),
        ("--fusion shape", "fuse() of the fusion head Shape returned a tensor of shape (1, 2), expected a tensor of"),
        ("--fusion pair", "fuse() of the fusion head Pair returned tuple"),
        ("--fusion signature", "the fusion head 'signature' cannot be built from"),
        ("--fusion settings", "settings() of the fusion head 'settings' returned cannot be written into a run"),
        ("--task one-answer", "decode() of the task 'one-answer' (faulty) returned 1 labels for 4 posts"),
        ("--task narrow", "predictions() of the task 'narrow' (faulty) returned (4, 1)"),
        ("--task old-loss", "loss() of the task 'old-loss' (faulty) raised TypeError"),
        ("--config short.yaml", "prepare() of the encoder of the field 'tags' (Short) returned 15 posts"),
    ],
)
def test_a_faulty_part_is_one_line_that_names_it(faulty: Path, zoo: Zoo, words: str, problem: str) -> None:
    _settings(faulty, "short")
    done = run_cotune(
        faulty, "fit", "words.csv", "--out", "out", "--plugin", "faulty", "--text-encoder", zoo("distilbert"),
        "--image-encoder", zoo("timm-resnet"), "--tune", "frozen", "--set", "probe-epochs=1", "--set", "heads=2",
        "--no-estimate", *words.split(),
    )  # fmt: skip
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1, done.stderr
    assert problem in errors[0]
    assert "bug of cotune" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not (faulty / "out" / "config.json").exists()


def _settings(folder: Path, kind: str) -> None:
    fields = f"fields: {{text: {{kind: text}}, image: {{kind: image}}, tags: {{kind: {kind}}}}}\n"
    (folder / f"{kind}.yaml").write_text(fields)


def test_odd_cells_of_a_kind_of_a_plugin_cost_their_rows(faulty: Path, zoo: Zoo) -> None:
    _settings(faulty, "words")
    done = run_cotune(
        faulty, "fit", "words.csv", "--out", "words", "--config", "words.yaml", "--plugin", "faulty",
        "--text-encoder", zoo("distilbert"), "--image-encoder", zoo("timm-resnet"), "--tune", "frozen",
        "--set", "probe-epochs=1", "--set", "heads=2", "--no-estimate",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run_cotune(faulty, "predict", "words", "odd.jsonl", "--out", "odd.csv", "--plugin", "faulty")
    assert done.returncode == 0, done.stderr
    errors = pd.read_csv(faulty / "odd.csv")["error"]
    assert errors[1] == "tags: ['#a'] cannot be read (AttributeError: 'list' object has no attribute 'split')"
    assert errors.notna().tolist() == [False, True, True, True, *[False] * (len(errors) - 4)]
    for command in (("predict", "words", "words.csv", "--out", "odd.csv"), ("evaluate", "words", "words.csv"),
                    ("export", "words", "--posts", "words.csv", "--out", "graph")):  # fmt: skip
        done = run_cotune(faulty, *command)
        assert done.returncode == 2
        assert (
            "words needs the kind of field 'words', which is not available; name its module with --plugin faulty"
            in (done.stderr)
        )


def test_a_plugin_that_exits_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving_plugin.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="--plugin leaving_plugin cannot be imported: SystemExit: 3"):
        load_plugins(["leaving_plugin"])
