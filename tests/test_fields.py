"""Posts with any fields: two texts, two images and columns of numbers and categories, from the command line to pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from cotune import JointClassifier
from cotune.cli import main
from cotune.data.posts import read_posts
from cotune.data.tables.builder import ColumnNames
from cotune.errors import ConfigError
from cotune.explain.explainer import Explainer
from cotune.fields import DEFAULT_FIELDS, Field, check_fields, fields_of_columns
from cotune.predict import Predictor
from cotune.run import load_run
from cotune.settings import make_config
from runs import tiny_settings
from tiny import Zoo, picture

FIELDS = ("title", "caption", "photo", "screenshot", "table")
COLUMNS = ("title", "caption", "photo", "screenshot", "followers", "source")
FLAGS = (
    "--text-column", "title", "--text-column", "caption", "--image-column", "photo", "--image-column", "screenshot",
    "--table-column", "followers", "--table-column", "source",
)  # fmt: skip


def write_posts(folder: Path, n: int = 240, *, seed: int = 0) -> Path:
    """Write posts in which one field, another one each time, tells the label, and the others say nothing."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for tint in ("red", "blue", "grey"):
        for number in range(4):
            colour = {"red": (130, 0, 0), "blue": (0, 0, 130), "grey": (60, 60, 60)}[tint]
            picture(number, tint=colour).save(folder / f"{tint}{number}.png")
    rows = []
    for i in range(n):
        tells, good = FIELDS[i % 5], bool((i // 5) % 2)
        which = int(random.integers(4))
        words, tint = ("good good", "red") if good else ("bad bad", "blue")
        row = {"id": f"p{i}", "label": "yes" if good else "no", "tells": tells}
        row |= {name: words if tells == name else "a day" for name in ("title", "caption")}
        row |= {name: f"{tint if tells == name else 'grey'}{which}.png" for name in ("photo", "screenshot")}
        row["followers"] = int(random.normal(1000 if tells == "table" and good else 0 if tells == "table" else 500, 60))
        row["source"] = str(random.choice(["phone", "web"]))
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "posts.csv", index=False)
    return folder / "posts.csv"


def settings(zoo: Zoo, folder: Path, **more: Any) -> dict[str, Any]:
    usual = {"tune": "frozen", "probe_epochs": 120, "probe_lr": 3e-3, "width": 32, "dropout": 0.0, "weight_decay": 0.05,
             "text_pooling": "mean", "modality_dropout": 0.5}  # fmt: skip
    return tiny_settings(zoo, folder / "cache", **{**usual, **more})


def write_config(zoo: Zoo, folder: Path, **more: Any) -> Path:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings(zoo, folder, **more)))
    return path


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_posts(tmp_path_factory.mktemp("fields"))


@pytest.fixture(scope="module")
def run(zoo: Zoo, posts: Path) -> Path:
    out = posts.parent / "run"
    assert main(["fit", str(posts), "--out", str(out), "--config", str(write_config(zoo, posts.parent)), *FLAGS]) == 0
    return out


def test_shares_point_at_the_field_that_tells(run: Path, posts: Path) -> None:
    """The run asks for its own columns; no flag is needed."""
    assert main(["predict", str(run), str(posts), "--out", str(posts.parent / "found.csv")]) == 0
    found, given = pd.read_csv(posts.parent / "found.csv"), pd.read_csv(posts)
    assert list(found.columns) == ["id", "label", "p_no", "p_yes", *(f"{name}_share" for name in FIELDS), "error"]
    assert (found["label"] == given["label"]).mean() > 0.95
    shares = found[[f"{name}_share" for name in FIELDS]]
    assert np.allclose(shares.sum(axis=1), 1)
    largest = shares.to_numpy().argmax(axis=1)
    right = np.asarray([FIELDS.index(name) for name in given["tells"]])
    for field in range(5):
        assert (largest[right == field] == field).mean() > 0.85, FIELDS[field]


def test_a_post_may_lack_any_field(run: Path, posts: Path) -> None:
    opened = load_run(run)
    whole = pd.read_csv(posts).head(5)
    for lacking in FIELDS:
        table = whole.copy()
        for column in ("followers", "source") if lacking == "table" else (lacking,):
            table[column] = None
        frame = read_posts(table, columns=ColumnNames(fields=opened.fields), base=posts.parent)
        found = Predictor(opened, device="cpu").frame(frame)
        assert found["error"].isna().all()
        assert (found[f"{lacking}_share"] == 0).all()
        assert found["p_yes"].between(0, 1).all()
    nothing = whole.head(1).assign(**dict.fromkeys(COLUMNS, None))
    found = Predictor(opened, device="cpu").frame(read_posts(nothing, columns=ColumnNames(fields=opened.fields)))
    assert found["error"][0] == "the post has no title and no caption and no photo and no screenshot and no table"


def test_one_post_by_options(run: Path, posts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = posts.parent / "red0.png"
    options = [
        "--text",
        "title=good good",
        "--text",
        "caption=a=b",
        "--image",
        f"photo={image}",
        "--value",
        "followers=500",
    ]
    assert main(["predict", str(run), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["label"] == "yes"
    assert found["screenshot_share"] == 0
    for wrong, says in (
        (["--text", "good"], "say NAME=..., where NAME is one of title, caption"),
        (["--text", "titel=good"], "where NAME is one of title, caption"),
        (["--text", "title=a", "--text", "title=b"], "gives 'title' twice"),
        (["--value", "likes=3"], "where NAME is one of followers, source"),
    ):
        assert main(["predict", str(run), *wrong]) == 2
        assert says in capsys.readouterr().err


def test_explanations_and_pages_go_by_field(run: Path, posts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = posts.parent / "explained"
    assert main(["explain", str(run), str(posts), "--out", str(out), "--limit", "3", "--word-posts", "4"]) == 0
    assert "several fields" in capsys.readouterr().out
    page = next((out / "posts").glob("*.html")).read_text()
    for words in ("The words of title", "The image photo", "Table", "What title and caption and photo"):
        assert words in page, words
    summary = json.loads((out / "summary.json").read_text())
    assert summary["fields"] == list(FIELDS)
    assert set(summary["lists"]) == {"conflicts", "mistakes", *(f"{name}_driven" for name in FIELDS)}
    assert main(["explain", str(run), str(posts), "--find", "photo-driven", "--limit", "2"]) == 0
    capsys.readouterr()
    assert main(["explain", str(run), str(posts), "--find", "foto-driven"]) == 2
    assert "did you mean 'photo-driven'" in capsys.readouterr().err


def test_an_explanation_adds_up_over_all_fields(run: Path, posts: Path) -> None:
    opened = load_run(run)
    table = read_posts(posts, columns=ColumnNames(fields=opened.fields)).head(1)
    found = Explainer(opened, device="cpu").explain(table, words=False, pixels=False)
    for name, proba in found.predictions.items():
        total = found.base[name] + sum(part[name] for part in found.parts.values())
        assert total == pytest.approx(np.log(proba / (1 - proba)), abs=1e-3)
    assert found.to_dict()["text"] == {"title": table["title"][0], "caption": table["caption"][0]}


def test_info_shows_the_fields(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["fields"]["table"] == {"kind": "table", "columns": ["followers", "source"]}
    assert main(["info", str(run)]) == 0
    assert "followers, source" in capsys.readouterr().out


def test_the_benchmark_reads_all_fields(zoo: Zoo, posts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = posts.parent / "bench"
    config = write_config(zoo, posts.parent, probe_epochs=20)
    arguments = ["--methods", "probe,text,table,svm", "--folds", "2", "--protocol", "paper", "--emap", "0"]
    code = main(["bench", str(posts), "--out", str(out), "--config", str(config), *FLAGS, *arguments])
    assert code == 0
    rows = {row["method"]: row["auc_mean"] for row in json.loads((out / "summary.json").read_text())["rows"]}
    assert rows["probe"] > max(rows["text"], rows["table"]) + 0.05


def test_python_reads_fields_as_well(zoo: Zoo, posts: Path) -> None:
    table = pd.read_csv(posts).head(40)
    for name in ("photo", "screenshot"):
        table[name] = [str(posts.parent / image) for image in table[name]]
    fields = {
        "title": {"kind": "text"},
        "caption": {"kind": "text", "shared": "title"},
        "photo": {"kind": "image"},
        "table": {"kind": "table", "columns": ["followers", "source"]},
    }
    model = JointClassifier(fields=fields, **settings(zoo, posts.parent, probe_epochs=3))
    model.fit(table, table["label"])
    encoders = model.run_.model.encoders
    assert encoders["title"] is encoders["caption"]
    model.save(posts.parent / "python")
    again = JointClassifier.load(posts.parent / "python", device="cpu")
    assert again.run_.model.encoders["title"] is again.run_.model.encoders["caption"]
    assert np.allclose(again.predict_proba(table), model.predict_proba(table), atol=1e-5)


def test_columns_make_fields() -> None:
    assert fields_of_columns(["words"], ["image"], []) == (
        Field(name="text", kind="text", columns=("words",)),
        DEFAULT_FIELDS[1],
    )
    found = fields_of_columns(["title", "body"], ["image"], ["likes"])
    assert [(field.name, field.columns) for field in found] == [
        ("title", ("title",)), ("body", ("body",)), ("image", ("image",)), ("table", ("likes",))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "image", "says"),
    [
        (["title", "title"], ["image"], "the field 'title' is given twice"),
        (["id", "title"], ["image"], "no field can be called 'id'"),
        ([f"t{i}" for i in range(9)], ["image"], "a model reads 1 to 8 fields, not 10"),
    ],
)
def test_fields_that_do_not_go_together(text: Sequence[str], image: Sequence[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        fields_of_columns(text, image, [])


def test_a_shared_encoder_needs_a_field_of_its_kind() -> None:
    with pytest.raises(
        ConfigError, match="shares the encoder of 'photo', which is no other text field; there are: none"
    ):
        check_fields([Field(name="title", kind="text", shared="photo"), Field(name="photo", kind="image")])


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("followers", ["many", *map(str, range(239))], "row 1: the column 'followers' holds 'many', expected a number"),
        ("followers", [""] * 240, "the column 'followers' has no values"),
        ("source", [f"u{i}" for i in range(240)], "looks like an identifier"),
    ],
)
def test_columns_that_cannot_be_learned(
    zoo: Zoo, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, values: list[str], says: str
) -> None:
    table = pd.read_csv(posts, dtype=str)
    table[column] = values
    table.to_csv(posts.parent / "wrong.csv", index=False)
    config = write_config(zoo, posts.parent)
    code = main(
        ["fit", str(posts.parent / "wrong.csv"), "--out", str(tmp_path / "run"), "--config", str(config), *FLAGS]
    )
    assert code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_column_names_the_nearest(
    zoo: Zoo, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "fit",
        str(posts),
        "--out",
        str(tmp_path / "run"),
        "--text-column",
        "title",
        "--text-column",
        "captoin",
    ]
    assert main(arguments) == 2
    assert "has no column 'captoin' (did you mean 'caption'" in capsys.readouterr().err
    assert main([*arguments[:-1], "caption", "--text-encoder", "titel=bundled:x"]) == 2
    assert "there is no field 'titel' for the encoder bundled:x (did you mean 'title'?)" in capsys.readouterr().err


def test_a_cell_of_a_number_that_cannot_be_read_is_told(run: Path, posts: Path) -> None:
    opened = load_run(run)
    table = pd.read_csv(posts, dtype=str).head(2)
    table.loc[0, "followers"] = "lots"
    found = Predictor(opened, device="cpu").frame(
        read_posts(table, columns=ColumnNames(fields=opened.fields), base=posts.parent)
    )
    assert "the column 'followers' holds 'lots', expected a number" in found["error"][0]
    assert found["label"].notna().all()


def test_settings_know_fields_by_name() -> None:
    config = make_config({"fields": {"title": {"kind": "text"}, "photo": {"kind": "image", "encoder": "hf:x"}}})
    assert [field.name for field in config.read_fields()] == ["title", "photo"]
    again = make_config(json.loads(config.model_dump_json()))
    assert again == config
    with pytest.raises(ConfigError, match="fields"):
        make_config({"fields": {"title": {"sort": "text"}}})
