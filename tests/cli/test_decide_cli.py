"""``calibrate``, ``decide`` and ``audit`` as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cotune.checksums import sealed
from cotune.cli import main
from cotune.data.posts import read_posts
from cotune.files import read_json
from cotune.predict import Predictor
from cotune.run import load_run
from pages import check_page
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts

POLICY = "class: class1\nact: {precision: 0.4}\nallow: {recall: 0.6}\nconfidence: 0.8\n"


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

    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def home(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the run `run`, its posts, labelled ones and ones to decide on, and a policy."""
    home = tmp_path_factory.mktemp("decide")
    write_table(make_posts(home / "train", 24, classes=2), home / "train.csv")
    write_table(make_posts(home / "labelled", 48, gaps=False, classes=2, seed=2), home / "labelled.csv")
    write_table(make_posts(home / "new", 12, gaps=False, classes=2, seed=3), home / "new.csv")
    table = pd.read_csv(home / "new.csv", dtype=str)
    table.loc[3, ["text", "image"]] = [None, "missing.png"]
    table.drop(columns="label").to_csv(home / "new.csv", index=False)
    (home / "policy.yaml").write_text(POLICY)
    settings = tiny_settings(zoo, home / "cache", tune="frozen")
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert main(["fit", str(home / "train.csv"), "--out", str(home / "run"), *words, "-q"]) == 0
    return home


@pytest.fixture(scope="module")
def decided(home: Path) -> Path:
    """Return the folder of decisions, with their records beside it."""
    code = main([*map(str, ("decide", home / "run", home / "new.csv", "--policy", home / "policy.yaml", "--calibrate-on",
                 home / "labelled.csv", "--out", home / "out", "--audit", home / "audit.jsonl")), "-q"])  # fmt: skip
    assert code == 0
    return home / "out"


def replay(cli: Cli, home: Path, file: Path, *more: object, run: str = "run", posts: str = "new.csv") -> Answer:
    return cli("audit", file, "--run", home / run, "--posts", home / posts, *more)


def test_decisions_follow_the_thresholds(home: Path, decided: Path) -> None:
    table, record = pd.read_csv(decided / "decisions.csv"), read_json(decided / "policy.json")
    assert list(table.columns) == ["id", "label", "probability", "route", "error"]
    assert len(table) == 12
    act, allow = (record["thresholds"][route]["value"] for route in ("act", "allow"))
    p = table["probability"]
    expected = np.where(p > act, "act", np.where(p < allow, "allow", "review"))
    assert table["route"].tolist() == expected.tolist()
    assert table["route"][3] == "review"
    assert "no such file" in table["error"][3]
    assert record["labelled"]["posts"] == 48
    assert sum(route["posts"] for route in record["labelled"]["routes"].values()) == 48
    page = (decided / "report.html").read_text()
    check_page(page)
    assert "1 post without a prediction went to review" in page


def test_a_record_decides_on_further_posts(cli: Cli, home: Path, decided: Path, tmp_path: Path) -> None:
    again = ("decide", home / "run", home / "new.csv", "--policy", decided / "policy.json", "--out", tmp_path / "o")
    answer = cli(*again, "--json")
    assert answer.code == 0
    assert (tmp_path / "o" / "decisions.csv").read_text() == (decided / "decisions.csv").read_text()
    assert answer.json["policy"] == read_json(decided / "policy.json")
    assert sum(answer.json["routes"].values()) == 12
    answer = cli(*again, "--calibrate-on", home / "labelled.csv")
    assert answer.code == 2
    assert "has thresholds already" in answer.err


def test_known_images_go_where_the_policy_says(cli: Cli, home: Path, decided: Path, tmp_path: Path) -> None:
    blocks = [np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8) for seed in (1, 2)]
    for at, block in enumerate(blocks):
        Image.fromarray(block).resize((400, 300), Image.Resampling.BICUBIC).save(home / f"told{at}.png")
    table = pd.read_csv(home / "new.csv", dtype=str)
    table.loc[[0, 3], "image"] = ["told0.png", "told1.png"]
    table.to_csv(home / "told.csv", index=False)
    table.iloc[[0]].to_csv(home / "one.csv", index=False)
    hashes = home / "hashes.csv"
    assert cli("hashes", home / "one.csv", "--out", hashes).code == 0
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{POLICY}known: act\n")
    asked = ("decide", home / "run", home / "told.csv", "--policy", policy, "--calibrate-on", home / "labelled.csv")
    asked = (*asked, "--out", tmp_path / "o")
    answer = cli(*asked)
    assert answer.code == 2
    assert "name them with --known" in answer.err
    answer = cli(*asked, "--known", hashes, "--audit", tmp_path / "audit.jsonl", "--json")
    assert answer.json["known"] == 1
    assert sum(answer.json["routes"].values()) == 11
    found = pd.read_csv(tmp_path / "o" / "decisions.csv", dtype={"id": str})
    assert list(found.columns) == ["id", "label", "probability", "route", "known", "known_distance", "error"]
    assert found["known"].notna().tolist() == [True] + [False] * 11
    assert found["route"][0] == "act"
    act, allow = (answer.json["policy"]["thresholds"][route]["value"] for route in ("act", "allow"))
    others = found[1:]
    by_model = np.where(others["probability"] > act, "act", np.where(others["probability"] < allow, "allow", "review"))
    assert others["route"].tolist() == by_model.tolist()
    assert "1 post with a known image: act" in (tmp_path / "o" / "report.html").read_text()
    replayed = ("audit", tmp_path / "audit.jsonl", "--run", home / "run", "--posts", home / "told.csv")
    answer = cli(*replayed)
    assert answer.code == 0
    assert "known images were not looked for again" in answer.err
    assert cli(*replayed, "--known", hashes).code == 0
    hashes.write_text("hash\n0123456789abcdef\n")
    answer = cli(*replayed, "--known", hashes)
    assert answer.code == 1
    assert "other known image" in answer.out
    unsaid = ("decide", home / "run", home / "told.csv", "--policy", decided / "policy.json", "--out", tmp_path / "p")
    answer = cli(*unsaid, "--known", hashes)
    assert answer.code == 2
    assert "add `known: review`" in answer.err


def test_what_cannot_be_reached_goes_to_review(cli: Cli, home: Path, tmp_path: Path) -> None:
    (tmp_path / "strict.yaml").write_text("class: class1\nact: {precision: 0.99}\nallow: {recall: 0.99}\n")
    answer = cli("decide", home / "run", home / "new.csv", "--policy", tmp_path / "strict.yaml", "--calibrate-on",
                 home / "labelled.csv", "--out", tmp_path / "o", "--json")  # fmt: skip
    assert answer.code == 0
    assert answer.json["routes"] == {"act": 0, "review": 12, "allow": 0}
    assert "every post goes to review" in answer.err
    assert "takes at least 299 labelled posts of the class 'class1'" in answer.err
    check_page((tmp_path / "o" / "report.html").read_text())


@pytest.mark.parametrize(
    ("policy", "labelled", "words"),
    [
        ("class: class9\nact: {precision: 0.9}", "labelled.csv", "'class9' is not known to the run"),
        (POLICY, None, "--calibrate-on"),
        (POLICY, "train.csv", "the run was trained on"),
        (POLICY, "new.csv", "label"),
        ("class: class1\nact: {precison: 0.9}", "labelled.csv", "did you mean 'precision'"),
    ],
)
def test_bad_input_is_named(
    cli: Cli, home: Path, tmp_path: Path, policy: str, labelled: str | None, words: str
) -> None:
    (tmp_path / "p.yaml").write_text(policy)
    given = () if labelled is None else ("--calibrate-on", home / labelled)
    answer = cli("decide", home / "run", home / "new.csv", "--policy", tmp_path / "p.yaml", "--out", tmp_path / "o",
                 "--audit", tmp_path / "a.jsonl", *given, "-q")  # fmt: skip
    assert answer.code == 2
    assert words in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "a.jsonl").exists()


def test_results_replace_results_alone(cli: Cli, home: Path, decided: Path, tmp_path: Path) -> None:
    words = ("decide", home / "run", home / "new.csv", "--policy", decided / "policy.json")
    assert cli(*words, "--out", home / "run").code == 2
    (tmp_path / "report.html").write_text("mine")
    assert cli(*words, "--out", tmp_path).code == 2
    assert (tmp_path / "report.html").read_text() == "mine"
    answer = cli(*words, "--out", tmp_path / "o", "--audit", home / "audit.jsonl")
    assert answer.code == 2
    assert "never replaced" in answer.err


def test_a_replay_finds_no_difference(cli: Cli, home: Path, decided: Path) -> None:
    records = [json.loads(line) for line in (home / "audit.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == pd.read_csv(home / "new.csv", dtype=str)["id"].tolist()
    first = records[0]
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    assert set(first["inputs"]) == set(first["shares"]) == set(first["contributions"]) == {"text", "image"}
    sizes = {name: abs(value) for name, value in first["contributions"].items()}
    shares = {name: size / sum(sizes.values()) for name, size in sizes.items()}
    assert shares == pytest.approx(first["shares"], abs=1e-3)  # of two classes both have the same shares
    assert first["policy"]["hash"] == read_json(decided / "policy.json")["checksum"]
    assert first["versions"]["torch"]
    answer = replay(cli, home, home / "audit.jsonl", "--policy", decided / "policy.json", "--json")
    assert answer.code == 0
    assert answer.json["records"] == 12
    assert answer.json["differ"] == 0
    assert answer.json["largest_difference"] < 1e-5


def test_a_replay_finds_another_contribution(cli: Cli, home: Path, decided: Path, tmp_path: Path) -> None:
    first, *rest = (home / "audit.jsonl").read_text().splitlines(keepends=True)
    record = json.loads(first)
    record["contributions"]["text"] += 0.5
    (tmp_path / "edited.jsonl").write_text("".join([json.dumps(record) + "\n", *rest]))
    (row,) = replay(cli, home, tmp_path / "edited.jsonl", "--json").json["differences"]
    assert [reason.partition(":")[0] for reason in row["reasons"]] == ["record changed", "other contribution"]
    assert "text" in row["reasons"][1]


def test_a_replay_says_what_differs(cli: Cli, home: Path, decided: Path, tmp_path: Path) -> None:
    lines = (home / "audit.jsonl").read_text().splitlines(keepends=True)
    route = json.loads(lines[0])["route"]
    lines[0] = lines[0].replace(f'"route": "{route}"', f'"route": "{"act" if route != "act" else "allow"}"')
    (tmp_path / "edited.jsonl").write_text("".join(lines))
    table = pd.read_csv(home / "new.csv", dtype=str)
    table.loc[1, "text"] = "quite another text"
    table.drop(index=2).to_csv(home / "other.csv", index=False)
    answer = replay(cli, home, tmp_path / "edited.jsonl", "--json", posts="other.csv")
    assert answer.code == 1
    found = {row["line"]: [reason.partition(":")[0] for reason in row["reasons"]] for row in answer.json["differences"]}
    assert found[1] == ["record changed", "other route"]
    assert found[2][0] == "other input"
    assert found[3] == ["no such post"]
    assert set(found) == {1, 2, 3}
    text = replay(cli, home, tmp_path / "edited.jsonl", posts="other.csv").out
    assert "12 records: 3 differ" in text

    (tmp_path / "p.yaml").write_text(POLICY + "version: 2\n")
    cli("decide", home / "run", home / "new.csv", "--policy", tmp_path / "p.yaml", "--calibrate-on",
        home / "labelled.csv", "--out", tmp_path / "o")  # fmt: skip
    answer = replay(cli, home, home / "audit.jsonl", "--policy", tmp_path / "o" / "policy.json", "--json")
    assert answer.code == 1
    assert answer.json["reasons"] == {"other policy": 12}


def test_a_replay_of_records_that_were_made_into_something_else(
    cli: Cli, home: Path, decided: Path, tmp_path: Path
) -> None:
    records = [json.loads(line) for line in (home / "audit.jsonl").read_text().splitlines()]
    for record, part in zip(
        records, ("thresholds", "probabilities", "policy", "inputs", "run", "contributions"), strict=False
    ):
        record[part] = [3]
    del records[6]["thresholds"]
    del records[7]["thresholds"]["act"]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[:8]))
    answer = replay(cli, home, tmp_path / "odd.jsonl", "--json")
    assert answer.code == 1
    assert answer.json["reasons"]["record changed"] == 8
    assert "4 of 12 posts have no record; lines may be missing" in answer.json["notes"]


def test_a_new_checksum_hides_no_other_threshold_and_no_other_label(
    cli: Cli, home: Path, decided: Path, tmp_path: Path
) -> None:
    first, second, *_ = (json.loads(line) for line in (home / "audit.jsonl").read_text().splitlines())
    first |= {"thresholds": {"act": 1.0, "allow": None}, "route": "review"}
    second["label"] = "class0" if second["label"] != "class0" else "class1"
    made = (sealed({key: value for key, value in each.items() if key != "checksum"}) for each in (first, second))
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    answer = replay(cli, home, tmp_path / "new.jsonl", "--policy", decided / "policy.json", "--json")
    found = [[reason.partition(":")[0] for reason in row["reasons"]] for row in answer.json["differences"]]
    assert found == [["other thresholds"], ["other label"]]


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "holds no records"), ('{"record": ', "line 1"), ('{"id": 1}\n', "is no record"), ("\xff\xfe", "")],
)
def test_what_is_no_audit_file(cli: Cli, home: Path, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content.encode("latin-1"))
    answer = replay(cli, home, tmp_path / "a.jsonl", "-q")
    assert answer.code == 2
    assert words in answer.err


def test_calibrating_a_run(cli: Cli, home: Path, decided: Path, tmp_path: Path) -> None:
    copytree(home / "run", tmp_path / "run")
    posts = pd.read_csv(home / "labelled.csv", dtype=str)
    raw = load_run(tmp_path / "run")
    answer = cli("calibrate", tmp_path / "run", home / "labelled.csv", "--dry-run", "--bootstrap", 50)
    assert answer.code == 0
    assert "nothing was written" in answer.out
    assert load_run(tmp_path / "run").task.settings() == raw.task.settings()
    found = cli("calibrate", tmp_path / "run", home / "labelled.csv", "--bootstrap", 50, "--json").json
    run = load_run(tmp_path / "run")
    assert not run.notes
    assert run.metrics["calibration"]["temperature"] == found["temperature"] == run.task.settings()["temperature"]
    assert found["posts"] == len(posts)
    assert {"log_loss", "brier", "calibration_error"} <= set(found["before"]) & set(found["after"])
    frame = make_posts(tmp_path / "p", 6, gaps=False, classes=2, seed=4)
    was, now = (Predictor(each, device="cpu").scores(frame).predictions for each in (raw, run))
    powered = was ** (1 / found["temperature"])
    np.testing.assert_allclose(now, powered / powered.sum(axis=1, keepdims=True), atol=1e-5)
    # Again from scratch: the same temperature, not a product of the two.
    again = cli("calibrate", tmp_path / "run", home / "labelled.csv", "--bootstrap", 0, "--json").json
    assert again["temperature"] == pytest.approx(found["temperature"], rel=1e-3)
    # Thresholds of before, and records of before, belong to the run of before.
    answer = cli(
        "decide", tmp_path / "run", home / "new.csv", "--policy", decided / "policy.json", "--out", tmp_path / "o"
    )
    assert answer.code == 2
    assert "another run, or before it was calibrated" in answer.err
    answer = cli("audit", home / "audit.jsonl", "--run", tmp_path / "run", "--posts", home / "new.csv", "--json")
    assert answer.code == 1
    assert answer.json["reasons"]["other run"] == 12


def test_training_posts_do_not_calibrate(cli: Cli, home: Path, tmp_path: Path) -> None:
    answer = cli("calibrate", home / "run", home / "train.csv", "-q")
    assert answer.code == 2
    assert "the run was trained on" in answer.err
    pd.read_csv(home / "labelled.csv", dtype=str).head(8).to_csv(home / "few.csv", index=False)
    answer = cli("calibrate", home / "run", home / "few.csv", "-q")
    assert answer.code == 2
    assert "too few" in answer.err


def test_labels_that_no_temperature_fits(cli: Cli, home: Path, tmp_path: Path) -> None:
    copytree(home / "run", tmp_path / "run")
    posts = pd.read_csv(home / "labelled.csv", dtype=str)
    posts["label"] = "class1"
    posts.to_csv(home / "one-label.csv", index=False)
    answer = cli("calibrate", tmp_path / "run", home / "one-label.csv", "-q")
    assert answer.code == 2
    assert "'class1'; a temperature needs posts of another too" in answer.err
    proba = Predictor(load_run(tmp_path / "run"), device="cpu").scores(read_posts(home / "labelled.csv")).predictions
    posts["label"] = np.where(proba[:, 0] > np.median(proba[:, 0]), "class1", "class0")
    posts.to_csv(home / "swapped.csv", index=False)
    answer = cli("calibrate", tmp_path / "run", home / "swapped.csv", "-q")
    assert answer.code == 2
    assert "swapped?" in answer.err
    assert "calibration" not in load_run(tmp_path / "run").metrics
