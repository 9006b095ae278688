"""The command line as users meet it: what it prints, what it writes, how it leaves."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cotune.cli
from cotune.cli import main
from cotune.data.predictions import TEXTS
from cotune.errors import CotuneError
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Answer]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("COTUNE_DEBUG", raising=False)

    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capfd.readouterr())

    return run


def flags(zoo: Zoo, cache: Path, **more: Any) -> list[str]:
    """Return the tiny settings as flags, the less common ones through --set."""
    common = {"text_encoder", "image_encoder", "cache", "folds_group", "width", "epochs", "device", "tune", "fusion"}
    given = tiny_settings(zoo, cache, **{"tune": "frozen", **more})
    words: list[str] = []
    for key, value in given.items():
        name = key.replace("_", "-")
        words += [f"--{name}", str(value)] if key in common else ["--set", f"{name}={value}"]
    return words


@pytest.fixture(scope="module")
def home(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train.csv, test.csv and the finished run `run`."""
    home = tmp_path_factory.mktemp("home")
    write_table(make_posts(home / "train", 30, classes=3), home / "train.csv")
    write_table(make_posts(home / "test", 12, gaps=False, classes=3, seed=2), home / "test.csv")
    code = main(["fit", str(home / "train.csv"), "--out", str(home / "run"), "--validation", "0.3",
                 *flags(zoo, home / "cache")])  # fmt: skip
    assert code == 0
    return home


def in_process(*arguments: object, **more: Any) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "cotune.cli", *map(str, arguments)]
    # A background job passes its deafness to Ctrl-C on to its children; a user's terminal does not.
    hear = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear, **more)


# ---- the frame ---------------------------------------------------------------------------------------


def test_help_and_version_load_nothing_heavy() -> None:
    heavy = ["torch", "pandas", "numpy", "sklearn", "transformers", "timm", "pydantic", "PIL", "pyarrow", "lightning"]
    code = (
        "import sys; from cotune.cli import main\n"
        f"code = main(sys.argv[1:]); print([m for m in {heavy} if m in sys.modules], code)"
    )
    for words in (["--help"], ["--version"]):
        found = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert found.stdout.splitlines()[-1] == "[] 0", words


def test_help_is_fast() -> None:
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "cotune.cli", "--help"], capture_output=True, check=True)
        after = os.times()
        # Time of the processor: a busy machine must not fail the test.
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(times) < 0.5


def test_every_command_has_help(cli: Cli) -> None:
    for name in ("fit", "evaluate", "predict", "info", "encoders", "demo", "check", "import", "explain", "bench"):
        answer = cli(name, "--help")
        assert answer.code == 0
        assert "Usage" in answer.out
    assert "[default: top]" in cli("fit", "--help").out
    assert "[default: 0.5]" in cli("fit", "--help").out


def test_version(cli: Cli) -> None:
    assert cli("--version").out.strip() == f"cotune {cotune.__version__}"


@pytest.mark.parametrize(
    "words",
    [
        ["fitt"],
        ["fit"],
        ["fit", "p.csv"],
        ["predict", "run", "--chunk-size", "0"],
        ["fit", "p", "--out", "r", "--tune", "all"],
    ],
)
def test_wrong_usage_exits_with_2(cli: Cli, words: list[str]) -> None:
    answer = cli(*words)
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert answer.err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (CotuneError("the file\nis odd"), 2, "error: the file is odd"),
        (RuntimeError("oops\nmore"), 1, "error: RuntimeError: oops (this is a bug of cotune"),
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 1, "error: the memory is used up"),
    ],
)
def test_faults_are_one_line_and_debug_shows_the_traceback(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    def fail(_: Path) -> None:
        raise error

    monkeypatch.setattr("cotune.run_settings.read_settings", fail)
    answer = cli("info", "run")
    assert answer.code == code
    assert answer.err.startswith(words)
    assert answer.err.count("\n") == 1
    if code != 130:
        assert "Traceback" in cli("--debug", "info", "run").err
        monkeypatch.setenv("COTUNE_DEBUG", "1")
        assert "Traceback" in cli("info", "run").err


def test_debug_is_of_one_call_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "none")
    assert main(["--debug", "info", missing]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["info", missing]) == 2
    assert "Traceback" not in capsys.readouterr().err


# ---- fit ---------------------------------------------------------------------------------------------


def test_fit_leaves_a_whole_run(home: Path) -> None:
    names = {path.name for path in (home / "run").iterdir()}
    assert names == {"README.md", "config.json", "environment.json", "image_encoder", "labels.json", "log.csv",
                     "metrics.json", "model.safetensors", "posts.html", "posts_summary.safetensors", "report.html",
                     "seen.safetensors",
                     "text_encoder"}  # fmt: skip
    log = pd.read_csv(home / "run" / "log.csv")
    assert log["stage"].tolist() == ["probe"] * 3
    assert json.loads((home / "run" / "metrics.json").read_text())["status"] == "finished"


def test_fit_prints_scores_and_the_next_command(cli: Cli, zoo: Zoo, home: Path, tmp_path: Path) -> None:
    answer = cli("fit", home / "train.csv", "--out", tmp_path / "run", "--validation", home / "test.csv",
                 *flags(zoo, home / "cache", tune="joint"))  # fmt: skip
    assert answer.code == 0, answer.err
    assert "Scores on 12 held-out posts" in answer.out
    assert f"cotune explain {tmp_path / 'run'} {home / 'test.csv'}" in answer.out
    assert "joint  epoch  2" in answer.err


def test_fit_as_json_with_a_file_of_settings(cli: Cli, zoo: Zoo, home: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("probe-epochs: 1\nepochs: 1\nlr-head: 1e-3\n")
    given = flags(zoo, home / "cache", tune="joint", epochs=2)
    at = given.index("probe-epochs=3")
    answer = cli("fit", home / "train.csv", "--out", tmp_path / "run", "--config", tmp_path / "s.yaml", "--json",
                 *given[: at - 1], *given[at + 1 :])  # fmt: skip
    assert answer.code == 0, answer.err
    stages = [row["stage"] for row in answer.json["history"]]
    assert stages == ["probe", "joint", "joint"], "the file sets the probe, the flag wins over the file"
    fitted = json.loads((tmp_path / "run" / "config.json").read_text())["fit"]
    assert fitted["lr_head"] == 1e-3


def test_fit_refuses_to_harm_what_is_there(cli: Cli, zoo: Zoo, home: Path, tmp_path: Path) -> None:
    given = flags(zoo, home / "cache")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for words, expected in (
        ([home / "run"], "holds a run; choose another folder"),
        ([home / "run", "--resume", "--overwrite"], "give one of them"),
        ([mine], "is not empty and holds no run"),
        ([mine, "--overwrite"], "holds no run"),
        ([home / "train.csv"], "is a file"),
    ):
        answer = cli("fit", home / "train.csv", *given, "--out", *words)
        assert answer.code == 2
        assert expected in answer.err, answer.err
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_resuming_a_finished_run_has_nothing_to_do(cli: Cli, zoo: Zoo, home: Path, tmp_path: Path) -> None:
    given = flags(zoo, home / "cache")
    words = ("fit", home / "train.csv", "--out", tmp_path / "run")
    assert cli(*words, *given).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    answer = cli(*words, *given, "--resume")
    assert answer.code == 0, answer.err
    assert "run is finished: there is nothing to resume" in " ".join(answer.out.split())
    assert cli(*words, *given, "--resume", "--json").json["status"] == "finished"
    (tmp_path / "few.csv").write_text("".join((home / "train.csv").read_text().splitlines(keepends=True)[:-1]))
    for other, problem in (
        ((*words, *given, "--resume", "--seed", 5), "made with other seed (42, now 5)"),
        (("fit", tmp_path / "few.csv", "--allow-outside", *words[2:], *given, "--resume"), "made with other posts"),
        ((*words, *given, "--resume", "--start-from", home / "run"), "run to start from"),
    ):
        answer = cli(*other)
        assert answer.code == 2
        assert problem in answer.err, answer.err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_overwriting_replaces_only_after_success(cli: Cli, zoo: Zoo, home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("fit", home / "train.csv", "--out", run, *flags(zoo, home / "cache")).code == 0
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    failed = cli("fit", home / "train.csv", "--out", run, "--overwrite", "--set", "lr-head=1e30", "--set", "max-grad-norm=0",
                 *flags(zoo, home / "cache", tune="joint"))  # fmt: skip
    if failed.code == 0:
        pytest.skip("such rates are survived here")
    assert failed.code == 2
    assert {name: (run / name).read_bytes() for name in before} == before
    assert (
        cli("fit", home / "train.csv", "--out", run, "--overwrite", *flags(zoo, home / "cache", fusion="text")).code
        == 0
    )
    assert not (run / "image_encoder").exists()
    (run / "metrics.json").write_text("{")
    again = cli("fit", home / "train.csv", "--out", run, "--overwrite", *flags(zoo, home / "cache", fusion="text"))
    assert again.code == 0, "a damaged run can be replaced"
    assert not (run / "log.new.csv").exists()
    assert not (run / "checkpoint").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "nonsense"], "--set takes key=value"),
        (["--set", "bach-size=3"], "did you mean 'batch_size'"),
        (["--fusion", "atention"], "did you mean 'attention'"),
        (["--epochs", "0"], "epochs"),
        (["--validation", "1.5"], "validation is a fraction between 0 and 1"),
        (["--validation", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--logger", "tensorbord"], "did you mean 'tensorboard'"),
        (["--label-column", "sentiment"], "no column 'sentiment'"),
        (["--config", "nowhere.yaml"], "there is no configuration file"),
        (["--text-encoder", "nowhere/bert"], "nowhere/bert"),
    ],
)
def test_fit_says_what_is_wrong_in_one_line(
    cli: Cli, zoo: Zoo, home: Path, tmp_path: Path, words: list[str], expected: str
) -> None:
    answer = cli("fit", home / "train.csv", "--out", tmp_path / "run", *flags(zoo, home / "cache"), *words)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert expected in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_saves_the_last_epoch_and_resume_goes_on(
    zoo: Zoo, cli: Cli, home: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    given = [
        "fit",
        home / "train.csv",
        "--out",
        run,
        *flags(zoo, home / "cache", tune="joint", epochs=400, min_epochs=400),
    ]
    process = in_process(*given)
    for _ in range(1200):
        log = run / "log.csv"
        if log.is_file() and "joint,3," in log.read_text():
            break
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(sent)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert err.splitlines()[-1].startswith("stopped; the last finished epoch is saved")
    assert "Traceback" not in err
    about = cli("info", run, "--json").json
    assert about["metrics"]["status"] == "interrupted"
    done = len(about["metrics"]["history"])
    assert cli("predict", run, home / "test.csv", "--out", tmp_path / "p.csv").code == 0
    assert (run / "checkpoint" / "state.json").is_file()
    refused = cli(*given)
    assert "go on with --resume" in refused.err
    # Going on means the same settings; a second process is stopped in its turn.
    process = in_process(*given, "--resume")
    for _ in range(1200):
        if len((run / "log.csv").read_text().splitlines()) > done + 2:
            break
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(sent)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "resuming: joint, after epoch" in err
    assert len(cli("info", run, "--json").json["metrics"]["history"]) > done


def test_fit_without_held_out_posts_estimates_its_scores(
    cli: Cli, home: Path, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("fit", home / "train.csv", *flags(zoo, home / "cache"))
    answer = cli(*words, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert "Estimated scores, 30 posts in 5 folds" in answer.out
    assert "these are scores of the head alone" in answer.out
    assert "Each fold trains on a part of the posts, so" in " ".join(answer.out.split()), "nothing is fine-tuned"
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())["estimate"]
    assert kept["n"] == 30
    assert not (tmp_path / "run" / "posts.html").exists()
    plain = cli(*words, "--out", tmp_path / "plain", "--no-estimate")
    assert "no posts were held out" in plain.out
    assert "estimate" not in json.loads((tmp_path / "plain" / "metrics.json").read_text())

    def stop(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cotune.benchmark.estimate.out_of_fold", stop)
    stopped = cli(*words, "--out", tmp_path / "stopped")
    assert stopped.code == 0
    assert "the run is saved without an estimate" in stopped.err
    assert (tmp_path / "stopped" / "model.safetensors").is_file()


def test_further_tables_join_the_posts(cli: Cli, zoo: Zoo, home: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{word} as can be", "label": "class0"} for word in ("good", "happy")]
    for name in ("one.csv", "two.csv"):
        pd.DataFrame(rows).to_csv(tmp_path / name, index=False)
    posts, out, given = home / "train.csv", tmp_path / "run", flags(zoo, home / "cache")
    also = ["--also", tmp_path / "one.csv", "--also", tmp_path / "two.csv", "--also-weight", 0.5, "--no-estimate"]
    answer = cli("fit", posts, "--out", out, *also, *given)
    assert answer.code == 0, answer.err
    assert "2 posts of two.csv to train on as well" in answer.err
    saved = json.loads((out / "config.json").read_text())["fit"]
    assert (saved["also"], saved["also_weight"]) == ([str(tmp_path / "one.csv"), str(tmp_path / "two.csv")], 0.5)
    assert [each["train"] for each in json.loads((out / "metrics.json").read_text())["also"]] == [2, 2]
    again = cli("fit", posts, "--out", tmp_path / "again", "--config", out, "--no-estimate")
    assert "2 posts of one.csv to train on as well" in again.err
    for table, words in ((posts, "the posts table itself"), (tmp_path / "absent.csv", "does not exist")):
        refused = cli("fit", posts, "--out", tmp_path / "not", "--also", table, *given)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert words in refused.err
    answer = cli("bench", posts, "--out", tmp_path / "bench", "--config", out)
    assert answer.code == 2
    assert "leave `also` out" in answer.err


# ---- evaluate ----------------------------------------------------------------------------------------


def test_evaluate_prints_and_writes_everything(cli: Cli, home: Path, tmp_path: Path) -> None:
    answer = cli("evaluate", home / "run", home / "test.csv", "--out", tmp_path / "e", "--bootstrap", 50)
    assert answer.code == 0, answer.err
    for words in ("AUC", "calibration error", "Confusion matrix", "95% interval"):
        assert words in answer.out
    files = {"metrics.json", "posts.html", "predictions.csv", "report.html"}
    assert {p.name for p in (tmp_path / "e").iterdir()} == files
    assert 'href="posts.html#true=' in (tmp_path / "e" / "report.html").read_text()
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert metrics["n"] == 12
    assert len(pd.read_csv(tmp_path / "e" / "predictions.csv")) == 12
    same = cli("evaluate", home / "run", home / "test.csv", "--bootstrap", 50, "--json").json
    assert same["scores"] == metrics["scores"]


def test_evaluate_scores_slices_in_terminal_json_and_page(cli: Cli, home: Path, tmp_path: Path) -> None:
    posts = pd.read_csv(home / "test.csv")
    whole = pd.concat([posts.assign(id=[f"{name}{i}" for i in posts["id"]], lang=name) for name in ("en", "de", "fr")])
    table = home / "sliced.csv"
    pd.concat([whole, whole.assign(id=[f"again{i}" for i in whole["id"]])]).assign(half=["a", "b"] * 36).to_csv(table)
    given = ["evaluate", home / "run", table, "--by", "lang", "--by", "@missing", "--by", "half", "--bootstrap", 20]
    answer = cli(*given, "--out", tmp_path / "e")
    assert answer.code == 0, answer.err
    for words in ("AUC by slice", "half = a", "corrected by Holm", "lang: 3 rarer values with 72 posts together"):
        assert words in " ".join(answer.out.split())
    found = json.loads((tmp_path / "e" / "metrics.json").read_text())["slices"]
    assert [row["by"] for row in found["rows"] if row["by"] != "@missing"] == ["half", "half"]
    assert "<h2>Slices</h2>" in (tmp_path / "e" / "report.html").read_text()
    assert cli(*given, "--json").json["slices"] == found
    refused = cli("evaluate", home / "run", table, "--by", "langage")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "'lang'" in refused.err


def test_evaluate_replaces_neither_run_nor_posts(cli: Cli, home: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in (home / "run").iterdir() if path.is_file()}
    answer = cli("evaluate", home / "run", home / "test.csv", "--out", home / "run", "--bootstrap", 0)
    assert answer.code == 2
    assert "holds a run, whose files would be replaced" in answer.err
    assert {path.name: path.read_bytes() for path in (home / "run").iterdir() if path.is_file()} == before
    table = tmp_path / "predictions.csv"
    shutil.copy(home / "test.csv", table)
    answer = cli("evaluate", home / "run", table, "--out", tmp_path, "--bootstrap", 0)
    assert answer.code == 2
    assert "is the posts table itself" in answer.err
    assert table.read_bytes() == (home / "test.csv").read_bytes()
    answer = cli("evaluate", home / "run", home / "test.csv", "--out", table)
    assert answer.code == 2
    assert "is a file; name a folder" in answer.err


@pytest.mark.parametrize("command", ["evaluate", "explain"])
def test_a_negative_seed_is_wrong_usage(cli: Cli, home: Path, command: str) -> None:
    answer = cli(command, home / "run", home / "test.csv", "--seed", -1)
    assert answer.code == 2
    assert "--seed" in answer.err


def test_evaluate_counts_what_it_leaves_out(cli: Cli, home: Path) -> None:
    table = pd.read_csv(home / "test.csv")
    table.loc[0, "label"] = None
    table.loc[1, "label"] = "nonsense"
    table.loc[2, "image"] = "nowhere.png"
    table.to_csv(home / "odd.csv", index=False)
    answer = cli("evaluate", home / "run", home / "odd.csv", "--bootstrap", 0)
    assert answer.code == 0
    assert "left out: 1 post with no label, 1 post with unknown label, 1 post with no prediction" in answer.out
    assert "'nonsense'" in answer.err


def test_evaluate_needs_labels(cli: Cli, home: Path) -> None:
    pd.read_csv(home / "test.csv").drop(columns="label").to_csv(home / "bare.csv", index=False)
    answer = cli("evaluate", home / "run", home / "bare.csv")
    assert answer.code == 2
    assert "--label-column" in answer.err


# ---- predict -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_predict_writes_every_kind(cli: Cli, home: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"p.{kind}"
    answer = cli("predict", home / "run", home / "test.csv", "--out", out, "--chunk-size", 5)
    assert answer.code == 0, answer.err
    assert answer.out == ""
    assert "12 posts: 12 predicted" in answer.err
    readers = {"csv": pd.read_csv, "jsonl": lambda p: pd.read_json(p, lines=True), "parquet": pd.read_parquet,
               "tsv": lambda p: pd.read_csv(p, sep="\t")}  # fmt: skip
    table = readers[kind](out)
    assert table["id"].tolist() == pd.read_csv(home / "test.csv")["id"].tolist()
    assert [name for name in table.columns if name not in TEXTS] == [
        "p_class0", "p_class1", "p_class2", "text_share", "image_share"
    ]  # fmt: skip


def test_predict_names_the_rows_that_it_cannot_score(cli: Cli, home: Path, tmp_path: Path) -> None:
    table = pd.read_csv(home / "test.csv")
    (home / "empty.png").write_bytes(b"")
    table.loc[7, "image"] = "empty.png"
    table["text"] = ['a "quoted"\nline, and more'] * 6 + list(table["text"][6:])
    table.to_csv(home / "odd.csv", index=False)
    answer = cli("predict", home / "run", home / "odd.csv", "--out", tmp_path / "p.csv", "--chunk-size", 3)
    assert answer.code == 0
    assert "note: row 8 (id p7): " in answer.err
    assert "0 bytes" in answer.err
    found = pd.read_csv(tmp_path / "p.csv")
    assert len(found) == 12
    assert found["label"].isna().tolist() == [i == 7 for i in range(12)]
    kept = cli(
        "predict", home / "run", home / "odd.csv", "--out", tmp_path / "p.csv", "--bad-images", "text-only", "--json"
    )
    assert kept.json["predicted"] == 12
    assert kept.json["errors"] == 1
    assert kept.json["first_errors"][0]["row"] == 8


def test_predict_to_standard_output_is_the_table_alone(cli: Cli, home: Path) -> None:
    answer = cli("predict", home / "run", home / "test.csv", "--out", "-")
    assert len(answer.out.splitlines()) == 13
    assert answer.out.startswith("id,label,p_class0")


def test_predict_one_post(cli: Cli, home: Path, tmp_path: Path) -> None:
    image = home / "test" / "0.png"
    answer = cli("predict", home / "run", "--text", "happy dog", "--image", image)
    assert answer.code == 0, answer.err
    assert "image share" in answer.out
    found = cli("predict", home / "run", "--text", "happy dog", "--image", image, "--json").json
    assert sum(found[f"p_class{i}"] for i in range(3)) == pytest.approx(1)
    assert found["error"] is None
    only = cli("predict", home / "run", "--text", "happy dog", "--json").json
    assert only["text_share"] == 1
    assert cli("predict", home / "run", "--image", tmp_path / "none.png").code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "give a posts table, or one post"),
        (["test.csv", "--text", "a", "--out", "-"], "give a posts table, or one post"),
        (["test.csv"], "specify an output file"),
        (["test.csv", "--out", "p.xls"], "no ending that is known"),
        (["nowhere.csv", "--out", "-"], "nowhere.csv"),
        (["test.csv", "--out", "test.csv"], "is the posts table itself"),
        (["test.csv", "--out", "../" + "{home}" + "/test.csv"], "is the posts table itself"),
    ],
)
def test_predict_says_what_is_wrong(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(home)
    before = (home / "test.csv").read_bytes()
    answer = cli("predict", "run", *(word.format(home=home.name) for word in words))
    assert answer.code == 2
    assert expected in answer.err
    assert not answer.out, "a table that is refused leaves not even a header"
    assert (home / "test.csv").read_bytes() == before


def test_a_url_is_a_fault_of_its_row_alone(cli: Cli, home: Path, tmp_path: Path) -> None:
    table = pd.read_csv(home / "test.csv")
    table.loc[1, "image"] = "https://example.org/a.jpg"
    table.to_csv(home / "url.csv", index=False)
    answer = cli("predict", home / "run", home / "url.csv", "--out", tmp_path / "p.csv")
    assert answer.code == 0, answer.err
    found = pd.read_csv(tmp_path / "p.csv")
    assert len(found) == len(table)
    assert "allow fetching it with --allow-remote" in found["error"][1]
    assert found["error"].notna().sum() == 1
    report = cli("check", home / "url.csv", "--json").json
    assert [trouble["kind"] for trouble in report["image_troubles"]] == ["remote"]


@pytest.mark.parametrize("out", ["/proc/nowhere/run", "test.csv/run"])
def test_a_folder_that_cannot_be_written_is_told_before_any_work(
    cli: Cli, zoo: Zoo, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(home)
    answer = cli("fit", "train.csv", "--out", out, *flags(zoo, tmp_path / "cache"))
    assert answer.code == 2
    assert f"cannot write into {out}" in answer.err
    assert "epoch" not in answer.err
    assert not (tmp_path / "cache").exists()


def test_posts_that_cannot_be_read_leave_no_folder(cli: Cli, zoo: Zoo, tmp_path: Path) -> None:
    answer = cli("fit", tmp_path / "nowhere.csv", "--out", tmp_path / "run", *flags(zoo, tmp_path / "cache"))
    assert answer.code == 2
    assert not (tmp_path / "run").exists()


def test_a_reader_that_goes_away_is_no_fault(home: Path) -> None:
    command = f"{sys.executable} -m cotune.cli predict run test.csv --out - | head -n 1"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=home, check=True)
    assert found.stdout.startswith("id,label")
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


# ---- info and encoders -------------------------------------------------------------------------------


def test_info_shows_parts_scores_and_environment(cli: Cli, home: Path) -> None:
    answer = cli("info", home / "run")
    assert answer.code == 0
    for words in ("class0, class1, class2", "text encoder", "fusion head", "held-out posts", "torch", "finished"):
        assert words in answer.out
    about = cli("info", home / "run", "--json").json
    parts = about["parameters"]
    assert parts["total"] == parts["text"] + parts["image"] + parts["head"]


def test_info_of_what_is_no_run(cli: Cli, tmp_path: Path) -> None:
    assert "there is no run folder" in cli("info", tmp_path / "none").err
    (tmp_path / "config.json").write_text("{}")
    assert "was not written by cotune" in cli("info", tmp_path).err


def test_encoders_lists_and_counts(cli: Cli, zoo: Zoo) -> None:
    assert "bundled:all-MiniLM-L6-v2" in cli("encoders").out
    assert any(row["spec"] == "bundled:efficientnet-lite0" for row in cli("encoders", "--json").json)
    table = cli("encoders", "--params").out
    for number in ("23,508,032", "66,362,880", "90.0M", "90.3M", "151.6M"):
        assert number in table
    sizes = cli("encoders", zoo("bert"), "timm:resnet18", "--json").json
    assert [size["parameters"] for size in sizes][1] == 11_176_512
    assert cli("encoders", "nonsense").code == 2


# ---- demo --------------------------------------------------------------------------------------------


def test_the_demo_replaces_an_earlier_demo_and_nothing_else(cli: Cli, home: Path) -> None:
    answer = cli("demo", "--out", home / "run")
    assert answer.code == 2
    assert "something other than an earlier demo" in answer.err


def test_demo_with_small_encoders(
    cli: Cli, zoo: Zoo, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cotune.demo.experiment as demo_module

    small = tiny_settings(zoo, tmp_path / "cache", probe_epochs=2, epochs=1)
    real = demo_module.run_demo
    monkeypatch.setattr(demo_module, "run_demo", lambda **more: real(settings=small, **more))
    answer = cli("demo", "--out", tmp_path / "demo", "--json")
    assert answer.code == 0, answer.err
    models = {model["name"]: model for model in answer.json["models"]}
    assert list(models) == ["text only", "image only", "concatenation", "joint"]
    assert all(0 <= model["scores"]["auc"]["low"] <= model["scores"]["auc"]["high"] <= 1 for model in models.values())
    assert models["joint"]["joint_minus_this"] is None
    assert len(answer.json["examples"]) == 6
    shown = cli("demo", "--out", tmp_path / "demo")
    assert shown.code == 0, shown.err
    for words in ("AUC on 250 held-out posts", "synthetic", "joint", "sampled at random", str(tmp_path / "demo")):
        assert words in shown.out
    assert "Comparison with baselines" in (tmp_path / "demo" / "report.html").read_text()
    card = (tmp_path / "demo" / "README.md").read_text()
    assert "## Sample predictions" in card
    assert all(f"`{example['label']}` |" in card for example in answer.json["examples"])
    assert cli("predict", tmp_path / "demo", "--text", "what a day").code == 0


@pytest.mark.real
@pytest.mark.slow
def test_demo_with_real_encoders_shows_the_lead_of_joint_training(cli: Cli, tmp_path: Path) -> None:
    started = time.perf_counter()
    answer = cli("demo", "--out", tmp_path / "demo", "--json")
    assert answer.code == 0, answer.err
    auc = {model["name"]: model["scores"]["auc"]["value"] for model in answer.json["models"]}
    assert auc["joint"] > max(auc["text only"], auc["image only"])
    assert time.perf_counter() - started < 300


def test_precision_is_torchs(cli: Cli, home: Path) -> None:
    answer = cli("predict", home / "run", home / "test.csv", "--out", "-", "--precision", "bf16")
    assert answer.code == 0
    assert "precision: bf16" in answer.err
    answer = cli("predict", home / "run", home / "test.csv", "--out", "-", "--precision", "auto", "--engine", "onnx")
    assert answer.code == 2
    assert "--precision is about torch" in answer.err
