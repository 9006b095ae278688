"""Nothing in the package runs what a file says: no pickle, no evaluated text, no code that comes with a model."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "cotune").rglob("*.py"))
#: Where pickles travel between processes of one job, and are never read from a file or a client.
BETWEEN_PROCESSES = {"scale/work.py"}
#: Modules whose files run code when they are opened.
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
#: Openers of transformers: each has to be told that no code of the model's is to be run.
OPENERS = {"from_pretrained", "from_config"}
#: What of ruff has to be switched on, in `make lint`: pickle, marshal, exec, eval, yaml.load, shells, torch.load.
RULES = ("S102", "S301", "S302", "S307", "S506", "S602", "S604", "S605", "S614", "S701")


def called(node: ast.Call) -> str:
    """Return the dotted name of what is called."""
    return ast.unparse(node.func)


def problems(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and reason of everything that is not wanted, but for what ruff finds as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            for module in modules:
                if module.split(".")[0] in UNSAFE_MODULES:
                    yield node.lineno, f"imports {module}"
        if not isinstance(node, ast.Call):
            continue
        name, keywords = called(node), {word.arg: word.value for word in node.keywords}
        short = name.rpartition(".")[2]
        for word, allowed in (("trust_remote_code", False), ("allow_pickle", False), ("shell", False)):
            value = keywords.get(word)
            if value is not None and not (isinstance(value, ast.Constant) and value.value is allowed):
                yield node.lineno, f"{name}({word}=...)"
        if name == "torch.load" and not (
            isinstance(keywords.get("weights_only"), ast.Constant) and keywords["weights_only"].value is True  # type: ignore[attr-defined]
        ):
            yield node.lineno, "torch.load without weights_only=True"
        if short == "read_pickle" or name in ("eval", "exec", "compile", "__import__"):
            yield node.lineno, name
        if short in OPENERS:
            told = "trust_remote_code" in keywords or any(
                word.arg is None and ast.unparse(word.value).startswith("reading(") for word in node.keywords
            )
            if not told:
                yield node.lineno, f"{name} without trust_remote_code=False"


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "import dill as d", "torch.load(path)", "torch.load(p, weights_only=False)",
     "np.load(path, allow_pickle=True)", "AutoModel.from_pretrained(name, trust_remote_code=True)", "pd.read_pickle(p)",
     "AutoModel.from_pretrained(name)", "AutoModel.from_config(config)", "eval(text)", "exec(text)",
     "subprocess.run(line, shell=True)", "AutoConfig.from_pretrained(name, trust_remote_code=chosen)"],
)  # fmt: skip
def test_what_is_not_wanted_is_found(line: str) -> None:
    assert list(problems(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    ["model.eval()", "torch.load(path, weights_only=True)", "AutoConfig.from_pretrained(name, **reading(local))",
     "AutoModel.from_config(config, trust_remote_code=False)", "re.compile(text)", "np.load(path, allow_pickle=False)"],
)  # fmt: skip
def test_what_is_fine_is_not(line: str) -> None:
    assert not list(problems(ast.parse(line)))


def test_the_package_runs_nothing_that_a_file_says() -> None:
    found = []
    for path in SOURCES:
        name = path.relative_to(ROOT / "src" / "cotune").as_posix()
        for line, reason in problems(ast.parse(path.read_text(encoding="utf-8"))):
            if not (name in BETWEEN_PROCESSES and reason == "imports pickle"):
                found.append(f"{name}:{line} {reason}")
    assert len(SOURCES) > 100
    assert not found


def test_the_linter_looks_for_unsafe_calls_too() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not [rule for rule in RULES if any(rule.startswith(ignored) for ignored in lint["ignore"])]
    for files, ignored in lint["per-file-ignores"].items():
        if files.startswith("src"):
            assert not set(RULES) & set(ignored)
