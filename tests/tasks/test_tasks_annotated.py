"""Labels of fields as targets: what is known of a post, the likelihood of it, and what is predicted of fields."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune import JointClassifier
from cotune.benchmark import read_results
from cotune.benchmark.out_of_fold import out_of_fold
from cotune.cli import main
from cotune.cli.recorded import Recorded
from cotune.data.posts import read_posts
from cotune.errors import ConfigError, DataError
from cotune.predict import Predictor
from cotune.progress import Progress
from cotune.report.benchmark_figures import roc_points
from cotune.report.explanation import fragment
from cotune.run import load_run
from cotune.settings import FitConfig
from cotune.tasks import restore_task, task_of_posts
from cotune.tasks.annotated import Annotated
from cotune.tasks.field_scores import field_scores
from cotune.tasks.label_rule import make_rule, read_rule
from cotune.training.start import config_to_start
from cotune.training.usable_posts import readable, refuse_other_labels
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts

XU_MAO = read_rule("xu-mao")
NAMES = ("negative", "neutral", "positive")


def frame(*rows: tuple[str | None, str | None, str | None]) -> pd.DataFrame:
    """Return posts of (label, labels of the text, labels of the image)."""
    table = pd.DataFrame(list(rows), columns=["label", "label:text", "label:image"], dtype=object)
    return table.assign(row=range(1, len(rows) + 1))


def xu_mao() -> Annotated:
    return Annotated.learn_posts(frame((None, "positive", "neutral"), (None, "negative", "negative")), XU_MAO)


def likelihood(task: Annotated, posts: pd.DataFrame, outputs: torch.Tensor) -> float:
    known = task.learned(posts)
    return float(task.loss(FitConfig(), known)(outputs, torch.from_numpy(known)))


def test_a_likelihood_is_the_sum_over_the_cells_that_fit() -> None:
    task = xu_mao()
    torch.manual_seed(0)
    outputs = torch.randn(1, task.n_outputs)
    cells = outputs.softmax(1)[0]
    places = {row[1:]: i for i, row in enumerate(task.rule or [])}

    def mass(*combinations: tuple[str, str]) -> float:
        return float(sum(cells[places[c]] for c in combinations))

    whole = likelihood(task, frame((None, "positive", "neutral")), outputs)
    assert whole == pytest.approx(-np.log(mass(("positive", "neutral"))), abs=1e-5)
    text_alone = likelihood(task, frame((None, "positive", None)), outputs)
    assert text_alone == pytest.approx(-np.log(mass(*product(["positive"], NAMES))), abs=1e-5)
    its_class = likelihood(task, frame(("positive", None, None)), outputs)
    fits = [("positive", "positive"), ("positive", "neutral"), ("neutral", "positive")]
    assert its_class == pytest.approx(-np.log(mass(*fits)), abs=1e-5)
    both = likelihood(task, frame(("positive", "neutral", None)), outputs)
    assert both == pytest.approx(-np.log(mass(("neutral", "positive"))), abs=1e-5)
    against = likelihood(task, frame((None, "positive", "negative")), outputs)
    assert against == pytest.approx(-np.log(mass(("positive", "negative"))), abs=1e-5)


def test_votes_are_soft_targets() -> None:
    task = xu_mao()
    outputs = torch.randn(1, task.n_outputs, generator=torch.Generator().manual_seed(1))
    one, other = (likelihood(task, frame((None, vote, "neutral")), outputs) for vote in ("positive", "negative"))
    mixed = likelihood(task, frame((None, "positive|positive|negative", "neutral")), outputs)
    assert mixed == pytest.approx((2 * one + other) / 3, abs=1e-5)


def test_a_label_that_the_rule_does_not_give_counts_and_is_told() -> None:
    task = xu_mao()
    posts = frame(("negative", "positive", "positive"), ("positive", "positive", "positive"))
    outputs = torch.randn(1, task.n_outputs, generator=torch.Generator().manual_seed(2))
    alone = likelihood(task, frame(("negative", None, None)), outputs)
    assert likelihood(task, posts[:1], outputs) == pytest.approx(alone, abs=1e-5)
    assert any("1 post with a label other than the rule makes" in note for note in task.notes(posts))


def test_classes_are_those_of_no_contradiction() -> None:
    task = xu_mao()
    outputs = torch.zeros(1, task.n_outputs)
    found = task.predictions(outputs).numpy()
    assert task.columns() == [
        "p_negative", "p_neutral", "p_positive", *(f"p:{f}_{n}" for f in ("text", "image") for n in NAMES), "conflict",
    ]  # fmt: skip
    assert found[0, :3] == pytest.approx([3 / 7, 1 / 7, 3 / 7])
    assert found[0, 3:9] == pytest.approx([1 / 3] * 6)
    assert found[0, 9] == pytest.approx(2 / 9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=9, max_size=9))
def test_contributions_are_the_log_odds_of_what_is_predicted(values: list[float]) -> None:
    task = xu_mao()
    outputs = torch.tensor([values], dtype=torch.float64)
    chances = task.of_classes(task.predictions(outputs))
    assert torch.allclose(task.from_scale(task.contribution_scale(outputs)), chances, atol=1e-9)
    assert chances.sum() == pytest.approx(1)
    for part in task.parts(task.predictions(outputs).numpy()).values():
        assert part.sum() == pytest.approx(1)


def test_the_prior_is_the_constant_of_least_loss() -> None:
    task = xu_mao()
    posts = frame(
        (None, "positive", "neutral"), (None, "positive", None), ("negative", None, None), (None, "neutral", "neutral"),
        (None, "positive", "negative"), ("positive", None, "positive"), (None, "negative|neutral", "negative"),
    )  # fmt: skip
    posts = pd.concat([posts] * 20, ignore_index=True).assign(row=range(140))
    known = task.learned(posts)
    best = task.prior(FitConfig(), known)
    value = likelihood(task, posts, best.expand(len(posts), -1))
    torch.manual_seed(0)
    for _ in range(20):
        other = (best + 0.1 * torch.randn_like(best)).expand(len(posts), -1)
        assert likelihood(task, posts, other) >= value - 1e-4


def test_without_a_rule_cells_are_classes_with_the_fields_labels() -> None:
    posts = frame(("a", "x", "u"), ("b", "y", "v"), ("a", None, "v"), (None, "y", None))
    task = task_of_posts(posts, FitConfig())
    assert isinstance(task, Annotated)
    assert task.n_outputs == 2 * 2 * 2
    assert "conflict" not in task.columns()
    assert task.encode(posts["label"].tolist()).tolist() == [0, 1, 0, -1]
    assert (task.learned(posts).sum(axis=1) == 1).all()
    again = restore_task({"name": task.name, "settings": json.loads(json.dumps(task.settings()))})
    outputs = torch.randn(3, 8)
    assert torch.equal(again.predictions(outputs), task.predictions(outputs))


def test_a_missing_label_follows_from_the_rule() -> None:
    task = xu_mao()
    posts = frame(
        (None, "neutral", "positive"), (None, "positive", "negative"), (None, "positive|negative", "neutral"),
        (None, "positive|positive|negative", "neutral"), ("negative", None, None),
    )  # fmt: skip
    found = task.complete(posts)["label"].tolist()
    assert found == ["positive", None, None, "positive", "negative"]


@pytest.mark.parametrize(
    ("posts", "rule", "said"),
    [
        (frame(("a", None, None)), "xu-mao", "--rule makes labels of the labels of fields"),
        (frame((None, "great", "neutral"), (None, "positive", "neutral")), "xu-mao", "row 1: label:text is 'great'"),
        (frame((None, "x", "y"), (None, "y", "x")), None, "with --rule, such as xu-mao"),
    ],
)
def test_what_cannot_be_learned(posts: pd.DataFrame, rule: str | None, said: str) -> None:
    with pytest.raises((ConfigError, DataError), match=said.replace("(", "\\(")):
        task_of_posts(posts, FitConfig(rule=rule))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a", "image": "b", "label": None}], "no label at all"),
        ([{"text": "a", "image": "b", "label": "x"}, {"text": "b", "image": "b", "label": "x"}], "gives posts 'x'"),
        ([{"text": "a", "image": "b", "label": "x"}, {"text": "b", "image": "a", "label": "y"}],
         "has no row for text 'a', image 'a' \\(2 such combinations\\)"),
        ([{"text": "a", "image": "b", "label": "x"}, {"text": "a", "image": "b", "label": "y"}], "a second time"),
        ([{"text": "a", "image": None, "label": "x"}], "row 1 of the rule here has no label of 'image'"),
        ([{"text": "a", "label": "x"}], "two fields or more"),
        ([{"text": "a", "image": "b"}], "has no column 'label'"),
    ],
)  # fmt: skip
def test_rules_that_are_refused(rows: list[dict[str, str]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_rule(rows, "here")


def test_rules_from_files(tmp_path: Path) -> None:
    rows = [{"text": t, "image": i, "label": t if t == i else None} for t, i in product("ab", "ab")]
    (tmp_path / "rule.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    pd.DataFrame(rows).to_csv(tmp_path / "rule.csv", index=False)
    assert read_rule(str(tmp_path / "rule.yaml")) == read_rule(str(tmp_path / "rule.csv"))
    (tmp_path / "bad.yaml").write_text("a: b")
    with pytest.raises(ConfigError, match="must be a list of combinations"):
        read_rule(str(tmp_path / "bad.yaml"))
    with pytest.raises(ConfigError, match="there is no rule 'xu'"):
        read_rule("xu")


def test_scores_of_fields_and_contradictions() -> None:
    task = xu_mao()
    rng = np.random.default_rng(0)
    combinations = [tuple(row[1:]) for row in task.rule or []]
    true = rng.integers(len(combinations), size=300)
    outputs = torch.nn.functional.one_hot(torch.from_numpy(true), len(combinations)).float() * 4
    posts = frame(*((None, *map(str, combinations[i])) for i in true))
    found = field_scores(task, posts, task.predictions(outputs).numpy(), n_bootstrap=20)
    assert set(found) == {"text", "image", "contradiction"}
    for row in found.values():
        assert row["auc"]["value"] == pytest.approx(1)
    assert found["contradiction"]["precision_first"] == 1
    shuffled = task.predictions(outputs[torch.randperm(300, generator=torch.Generator().manual_seed(0))]).numpy()
    chance = field_scores(task, posts, shuffled, n_bootstrap=20)
    assert 0.4 < chance["text"]["auc"]["value"] < 0.6


# ---- from the command line -------------------------------------------------------------------------------


def annotated(folder: Path, n: int = 90) -> pd.DataFrame:
    """Return posts whose words and colours have labels of their own; where they differ, the post has none."""
    posts = make_posts(folder, n, classes=2, gaps=False)
    of = np.where(posts["label"] == "class0", "positive", "negative")
    other = np.random.default_rng(0).permutation(n)
    text, image = of, of[other]
    posts = posts.assign(image=posts["image"].to_numpy()[other])
    label = np.where(text == image, text, None)
    text = np.where(np.arange(n) % 9 == 0, None, text)
    return posts.assign(label=label, **{"label:text": text, "label:image": image})


@pytest.fixture(scope="module")
def fitted(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotated")
    write_table(annotated(folder / "posts"), folder / "posts.csv")
    rule = [
        {"text": t, "image": i, "label": t if t == i else None} for t, i in product(*[("negative", "positive")] * 2)
    ]
    pd.DataFrame(rule).to_csv(folder / "rule.csv", index=False)
    config = tiny_settings(zoo, folder / "cache", probe_epochs=40, probe_lr=1e-2, validation=0.25)
    (folder / "settings.yaml").write_text(yaml.safe_dump(config | {"rule": str(folder / "rule.csv")}))
    arguments = ["fit", folder / "posts.csv", "--out", folder / "run", "--config", folder / "settings.yaml"]
    assert main([*map(str, arguments)]) == 0
    return folder


def test_fit_learns_fields_and_the_page_says_so(fitted: Path) -> None:
    run = load_run(fitted / "run")
    assert run.task.name == "annotated"
    held = run.metrics["validation"]
    assert held["scores"]["auc"]["value"] > 0.8
    assert held["fields"]["text"]["auc"]["value"] > 0.7
    assert held["fields"]["image"]["auc"]["value"] > 0.8
    assert "Labels of fields" in (fitted / "run" / "report.html").read_text()
    given = pd.read_csv(fitted / "posts.csv")
    assert run.metrics["posts"]["train"] + run.metrics["posts"]["held_out"] == len(given), "conflicts teach too"


def test_predictions_have_the_labels_of_fields(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(fitted / "run"), str(fitted / "posts.csv"), "--out", str(fitted / "p.parquet")]) == 0
    found, given = pd.read_parquet(fitted / "p.parquet"), pd.read_csv(fitted / "posts.csv")
    assert list(found.columns) == [
        "id", "label", "label:text", "label:image", "p_negative", "p_positive", "p:text_negative", "p:text_positive",
        "p:image_negative", "p:image_positive", "conflict", "text_share", "image_share", "error",
    ]  # fmt: skip
    for name in ("label:text", "label:image"):
        at = given[name].notna()
        assert (found[name] == given[name])[at].mean() > 0.8
    differ = given["label"].isna()
    assert found["conflict"][differ].mean() > found["conflict"][~differ].mean() + 0.02
    capsys.readouterr()
    assert main(["predict", str(fitted / "run"), "--text", "good day", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label:text"] == "positive"


def test_evaluate_scores_fields(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    posts = pd.read_csv(fitted / "posts.csv").drop(columns="label")
    posts.to_csv(fitted / "unlabelled.csv", index=False)
    out = fitted / "scores"
    assert main(["evaluate", str(fitted / "run"), str(fitted / "unlabelled.csv"), "--out", str(out)]) == 0
    scores = json.loads((out / "metrics.json").read_text())
    assert {"text", "image", "contradiction"} <= scores["fields"].keys()
    assert "Labels of fields" in capsys.readouterr().out


def test_explanations_are_of_the_class(fitted: Path) -> None:
    out = fitted / "explained"
    arguments = ["explain", fitted / "run", fitted / "posts.csv", "--out", out, "--limit", 2, "--word-posts", 4]
    assert main([*map(str, arguments)]) == 0
    for line in (out / "explanations.jsonl").read_text().splitlines():
        one = json.loads(line)
        for name, parts in one["log_odds"].items():
            total = parts["base"] + parts["text"] + parts["image"]
            assert 1 / (1 + np.exp(-total)) == pytest.approx(one["probability"][name], abs=1e-4)
        for field in ("text", "image"):
            chances = {name: one[f"p:{field}_{name}"] for name in ("negative", "positive")}
            assert one[f"label:{field}"] == max(chances, key=lambda name: chances[name])
            assert f"{field} {one[f'label:{field}']} ({max(chances.values()):.0%})" in fragment(one, {})
        assert f"; probability of a contradiction {one['contradiction']:.0%}." in fragment(one, {})


def test_the_posts_that_contradict_themselves_most_likely_come_first(
    fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, posts = str(fitted / "run"), str(fitted / "posts.csv")
    assert main(["explain", run, posts, "--find", "conflicts", "--limit", "3", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["posts"]
    frame = Predictor(load_run(fitted / "run"), device="cpu").frame(read_posts(posts)).set_index("id")
    both = read_posts(posts).dropna(subset=["text", "image"])["id"]
    highest = frame.loc[both, "conflict"].nlargest(3)
    assert [row["contradiction"] for row in listed] == pytest.approx(highest.tolist(), abs=1e-6)


def test_benchmark_and_search_train_on_posts_without_a_class(fitted: Path) -> None:
    out = fitted / "bench"
    arguments = [
        "bench",
        fitted / "posts.csv",
        "--out",
        out,
        "--config",
        fitted / "settings.yaml",
        "--folds",
        2,
        "--methods",
        "joint,svm,ensemble",
        "--set",
        "validation=null",
        "--epochs",
        1,
        "--bootstrap",
        50,
    ]
    assert main([*map(str, arguments)]) == 0
    rows = {row["method"]: row for row in json.loads((out / "summary.json").read_text())["rows"]}
    assert rows["joint"]["auc_mean"] > 0.6
    assert rows["svm"]["auc_mean"] > 0.6
    found = read_results(out)
    for row in found.rows.values():  # the curves and matrices of the page are of classes, as the scores are
        assert row.complete
        np.testing.assert_allclose(row.proba.sum(axis=2), 1, atol=1e-5)
        curve = np.asarray(roc_points(found.folds.targets, row.proba))
        assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(
            rows[row.key.method]["scores"]["auc"]["value"], abs=0.05
        )
    folds = pd.read_parquet(out / "folds.parquet")
    given = pd.read_csv(fitted / "posts.csv")
    assert (folds["fold"] == -1).sum() == given["label"].isna().sum()
    before = (out / "results.md").read_bytes()
    assert main(["bench", "--out", str(out), "--tables-only", "--bootstrap", "50"]) == 0
    assert (out / "results.md").read_bytes() == before


def test_an_export_says_the_same(fitted: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert main(["export", str(fitted / "run"), "--out", str(fitted / "exported")]) == 0
    assert (
        main(
            [
                "predict",
                str(fitted / "exported"),
                str(fitted / "posts.csv"),
                "--out",
                str(fitted / "e.csv"),
                "--engine",
                "onnx",
            ]
        )
        == 0
    )
    arguments = ["predict", fitted / "run", fitted / "posts.csv", "--out", fitted / "t.csv", "--engine", "torch"]
    assert main([*map(str, arguments)]) == 0
    exported, own = pd.read_csv(fitted / "e.csv"), pd.read_csv(fitted / "t.csv")
    assert np.allclose(exported["conflict"], own["conflict"], atol=1e-4)
    assert (exported["label:text"] == own["label:text"]).all()
    assert "posts x fields x the first 2 outputs" in (fitted / "exported" / "README.md").read_text()


def test_several_columns_of_annotators(fitted: Path, tmp_path: Path) -> None:
    from cotune import read_posts

    pd.DataFrame(
        {"text": ["a", "b"], "label": ["x", "y"], "label:text:1": ["x", None], "label:text:2": ["y", "y"]}
    ).to_csv(tmp_path / "posts.csv", index=False)
    assert read_posts(tmp_path / "posts.csv")["label:text"].tolist() == ["x|y", "y"]


def test_members_teach_cells(fitted: Path) -> None:
    out = fitted / "student"
    flags = ["--members", "2", "--distill", "--tune", "frozen"]
    arguments = ["fit", fitted / "posts.csv", "--out", out, "--config", fitted / "settings.yaml", *flags]
    assert main([*map(str, arguments)]) == 0
    about = load_run(out).metrics["members"]
    assert about["out_of_fold"]["score"] > 0.6
    assert [row["score"] > 0.6 for row in about["steps"]] == [True] * 3
    mean = ["fit", fitted / "posts.csv", "--out", fitted / "mean", "--config", fitted / "settings.yaml", *flags[:2]]
    assert main([*map(str, mean), "--tune", "frozen"]) == 0
    run = load_run(fitted / "mean")
    assert run.metrics["members"]["steps"][1]["score"] == pytest.approx(
        run.metrics["validation"]["scores"]["auc"]["value"], abs=1e-6
    )


def test_check_counts_labels_of_fields(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(fitted / "posts.csv")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "labels of text negative" in said
    assert "no label of their own: `fit --rule` learns from the labels of their fields" in said


def test_a_service_says_the_labels_of_fields(fitted: Path) -> None:
    from cotune.predict import Predictor
    from cotune.serve.limits import Limits
    from cotune.serve.model import ServedModel

    model = ServedModel("one", Predictor(load_run(fitted / "run")), Limits())
    (found,) = model.score([model.reader.read(model.sample(), "fields")])
    assert found.label in {"negative", "positive"}
    assert set(found.probabilities or {}) == {"negative", "positive"}
    assert set(found.field_labels) == {"text", "image"}
    assert set(found.further) == {
        "conflict",
        *(f"p:{f}_{n}" for f in ("text", "image") for n in ("negative", "positive")),
    }


def test_a_service_explains_with_what_it_predicts(fitted: Path) -> None:
    from cotune.explain.explainer import Explainer
    from cotune.serve.limits import Limits
    from cotune.serve.model import ServedModel

    run = load_run(fitted / "run")
    model = ServedModel("one", Predictor(run), Limits(), explainer=lambda: Explainer(run))
    post = model.reader.read(model.sample(), "fields")
    (scored,), (explained,) = model.score([post]), model.explain([post])
    assert explained["prediction"].field_labels == scored.field_labels
    assert explained["prediction"].further == pytest.approx(scored.further, abs=1e-5)


def test_fields_of_posts_that_were_trained_on_are_left_out_as_well(fitted: Path) -> None:
    out = fitted / "left-out"
    others = annotated(fitted / "others", 40)
    others["text"] = others["text"] + " at another time"
    posts = pd.concat([pd.read_csv(fitted / "posts.csv").iloc[:20], others.assign(id=[f"o{i}" for i in range(40)])])
    posts.drop(columns=["row", "group"]).to_csv(fitted / "mixed.csv", index=False)
    arguments = ["evaluate", fitted / "run", fitted / "mixed.csv", "--out", out, "--seen", "leave-out"]
    assert main([*map(str, arguments)]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert found["left_out"]["a duplicate in training"] > 0
    assert found["fields"]["image"]["n"] <= 60 - found["left_out"]["a duplicate in training"]


def test_columns_of_labels_that_are_not_read_are_told() -> None:
    told: list[str] = []
    posts = {"text": ["a"], "label": ["x"]}
    votes = {f"label:text:{i}": ["x"] for i in range(1, 12)}
    read_posts(pd.DataFrame({**posts, **votes, "label:image": ["x"]}), tell=told.append)
    assert len(told) == 1
    assert "not used: 'label:text:10', 'label:text:11';" in told[0]
    read_posts(pd.DataFrame({**posts, "label:txt": ["x"]}), tell=told.append)
    assert "not used: 'label:txt' (did you mean 'label:text'" in told[1]
    read_posts(pd.DataFrame({**posts, "label:text": ["x"], "labels:more": ["x"]}), tell=told.append)
    assert len(told) == 2


def test_posts_without_a_class_are_told_without_a_rule_too() -> None:
    posts = frame(("a", "x", None), ("b", "y", None), (None, "y", None))
    assert Annotated.learn_posts(posts).notes(posts) == ["1 post has no class: its fields' labels teach all the same"]


def test_a_class_that_the_rule_does_not_make_is_refused_by_the_rule() -> None:
    with pytest.raises(DataError, match="leave such posts out, or give a --rule that makes that label"):
        refuse_other_labels(xu_mao(), frame(("great", None, None)), "post", started=False)


def test_a_note_on_posts_to_validate_on_says_so() -> None:
    class Said(Progress):
        def say(self, line: str) -> None:
            said.append(line)

    said: list[str] = []
    posts = read_posts(pd.DataFrame({"text": ["a", "b"], "label": ["x", None]}))
    readable(posts, Said(), what="validation post")
    assert said == ["note: 1 validation post without a label is left out (row 2)"]


def test_info_has_labels_of_fields(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(fitted / "run")]) == 0
    said = capsys.readouterr().out
    assert "Labels of fields" in said
    posts = load_run(fitted / "run").metrics["posts"]
    assert f", {posts['train'] - sum(posts['labels'].values())} without a class)" in said


def test_a_run_goes_on_by_its_own_rule(fitted: Path) -> None:
    run = load_run(fitted / "run")
    settings = yaml.safe_load((fitted / "settings.yaml").read_text()) | {"tune": "frozen"}
    config = run.config.model_copy(update={"rule": None})
    assert config_to_start(run, config).rule == settings["rule"]
    with pytest.raises(ConfigError, match="keeps its own rule"):
        config_to_start(run, config.model_copy(update={"rule": "xu-mao"}))


def test_a_rule_is_needed_once(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run holds its rule: its labels are checked wherever the rule's file lies, and `reproduce` finds that file."""
    run, posts = load_run(fitted / "run"), read_posts(fitted / "posts.csv")
    run.environment["made_from"] = {"folder": str(fitted)}
    run.config = run.config.model_copy(update={"rule": "rule.csv"})
    assert Recorded(fitted / "run", run).config().rule == str(fitted / "rule.csv")
    found = out_of_fold(posts, run, folds=2)
    assert found.folds.task.outputs == run.task.outputs
    assert len(found.predictions) == posts["label"].notna().sum()


def table_of(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "posts.csv")
    return table.assign(image=[str(folder / name) for name in table["image"]])


@pytest.mark.parametrize("apart", [False, True], ids=["label in X", "y"])
def test_python_trains_on_posts_without_a_class(fitted: Path, apart: bool) -> None:
    settings = yaml.safe_load((fitted / "settings.yaml").read_text()) | {"validation": None, "probe_epochs": 2}
    table = table_of(fitted)
    labels = table["label"] if apart else None
    without = int(table["label"].isna().sum())
    model = JointClassifier(**settings, tune="frozen").fit(table.drop(columns="label") if apart else table, labels)
    assert model.classes_.tolist() == ["negative", "positive"]
    assert model.run_.metrics["posts"]["train"] == len(table) > without > 0
    assert set(model.predict_frame(table.head(3))) >= {"label:text", "label:image", "conflict"}


def test_python_makes_all_labels_by_the_rule(fitted: Path) -> None:
    settings = yaml.safe_load((fitted / "settings.yaml").read_text()) | {"validation": None, "probe_epochs": 2}
    table = table_of(fitted).drop(columns="label")
    model = JointClassifier(**settings, tune="frozen").fit(table)
    assert model.classes_.tolist() == ["negative", "positive"]
    with pytest.raises(DataError, match="fit needs y, or a `label` for every post"):
        JointClassifier(**(settings | {"rule": None}), tune="frozen").fit(table[["text", "image"]])
