"""A search: one cut, shared encoders, trials that may be killed, a verdict on posts that none saw."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from cotune.encoders import prepared_images
from cotune.errors import ConfigError, CotuneError, DataError, RunError
from cotune.report.tune_report import tune_report
from cotune.settings import FitConfig, make_config
from cotune.tasks.single_label import SingleLabel
from cotune.training import trainer
from cotune.training.features import Features
from cotune.training.kept import Kept
from cotune.training.stages import Stage, StageState
from cotune.tuning import TunePlan, TuneResult, store, trials, tune
from cotune.tuning.final import Compared
from cotune.tuning.parts import TEST, TRAIN, VALIDATION, load_parts
from cotune.tuning.results import FAILED, FINISHED, PRUNED
from cotune.tuning.trials import Pruning, Search, Workbench, run_worker
from pages import check_page
from runs import Told, tiny_config
from tiny import Zoo, make_posts
from tuned import hard_posts, tiny_plan


class StopAfter(Told):
    """Presses Ctrl-C once some trials are told of."""

    def __init__(self, trials: int) -> None:
        super().__init__()
        self.left = trials

    def say(self, line: str) -> None:
        super().say(line)
        self.left -= line.startswith("trial ")
        if not self.left:
            self.left = -1
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return hard_posts(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests share."""
    return tmp_path_factory.mktemp("shared-cache")


@pytest.fixture(scope="module")
def searched(zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished search of nine trials, its folder and what was told."""
    out, told = tmp_path_factory.mktemp("searched") / "out", Told()
    return tune(posts, out, tiny_plan(zoo, shared, trials=9, seeds=(42, 7), pruner="none"), progress=told), out, told


def made(result: TuneResult) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.state, trial.score, trial.settings) for trial in result.trials]


def test_a_search_ends_with_a_verdict_on_posts_that_no_trial_saw(searched: Any) -> None:
    result, out, told = searched
    assert len(result.trials) == 9
    assert result.trials[0].settings == {"dropout": 0.5, "probe_lr": 1e-3, "width": 16}  # the defaults
    assert result.best.score == max(trial.score for trial in result.trials if trial.state == FINISHED)
    assert set(result.importance) == {"probe_lr", "width", "dropout"}
    assert sum(result.importance.values()) == pytest.approx(1)
    compared = result.compared
    assert compared.posts == len(load_parts(out).test(TEST)) == 12
    assert compared.seeds == (42, 7)
    assert compared.test.name == "paired bootstrap"  # DeLong's test knows one training of each
    assert sum(line.startswith("trial ") for line in told.lines) == 9
    assert any("12 test posts that no trial sees" in line for line in told.lines)


def test_the_best_settings_are_a_file_that_fit_takes(searched: Any, zoo: Zoo) -> None:
    result, out, _ = searched
    config = make_config({}, file=out / "best.yaml")
    assert config.model_dump(exclude={"cache", "device"}) == result.settings.model_dump(exclude={"cache", "device"})
    text = (out / "best.yaml").read_text()
    assert "on 12 test posts that no trial saw" in text
    assert "cache" not in yaml.safe_load(text)


def test_the_table_of_trials_and_the_summary(searched: Any) -> None:
    result, out, _ = searched
    table = pd.read_csv(out / "trials.csv")
    assert table["trial"].tolist() == list(range(1, 10))
    assert {"state", "score", "epochs", "seconds", "probe-lr", "width", "dropout", "error"} <= set(table.columns)
    assert table["score"].max() >= result.best.score
    summary = result.to_dict()
    assert summary["score_searched_on"] == result.best.score
    assert summary["test"]["verdict"] == result.compared.verdict
    assert sum(summary["posts"].values()) == 60
    assert summary["posts"]["test"] == 12


def test_the_page_leads_with_the_verdict_and_calls_the_score_searched_on_too_good(searched: Any) -> None:
    result, _, _ = searched
    page = tune_report(result)
    check_page(page)
    assert f"<h1>{result.compared.verdict}</h1>" in page
    assert f"Score it was searched on (too good): validation AUC {result.best.score:.4f}" in page
    for estimate in (*result.compared.best.values(), *result.compared.defaults.values()):
        assert f"{estimate.value:.4f}" in page
        assert f"{estimate.low:.4f} to {estimate.high:.4f}" in page
    assert page.count('<svg viewBox="0 0 360 260"') == 1 + 3, "the history, and a chart of each setting"
    assert "Which settings matter" in page


def test_the_page_of_a_search_that_is_not_finished(zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path) -> None:
    result = tune(posts, tmp_path / "out", tiny_plan(zoo, shared, trials=9), progress=StopAfter(1))
    page = tune_report(result)
    check_page(page)
    assert "No result yet." in page
    assert "posts that no trial saw" not in page
    assert "Which settings matter" not in page


def test_the_cut_keeps_near_duplicates_together_and_shares_out_labels(zoo: Zoo, tmp_path: Path, shared: Path) -> None:
    posts = make_posts(tmp_path / "posts", 60, gaps=False)
    posts["text"] = [f"text {i // 3}" for i in range(60)]  # three posts of each text, whatever their image
    plan = tiny_plan(zoo, shared, trials=1, fit={"folds_group": "near-duplicates"})
    tune(posts, tmp_path / "out", plan)
    cut = load_parts(tmp_path / "out")
    assert [len(cut.test(part)) for part in (TRAIN, VALIDATION, TEST)] == pytest.approx([38, 10, 12], abs=4)
    part_of: dict[str, set[int]] = {}
    for identity, part in zip(cut.ids, cut.fold, strict=True):
        part_of.setdefault(posts["text"][int(identity[1:])], set()).add(int(part))
    assert all(len(parts) == 1 for parts in part_of.values())
    assert len(np.unique(cut.groups)) <= 20


def test_trials_never_read_a_test_post(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = tune(posts, tmp_path / "out", tiny_plan(zoo, shared, trials=9), progress=StopAfter(1))
    assert stopped.interrupted
    read: set[int] = set()
    batch = Features.batch

    def spied(self: Features, rows: np.ndarray, *more: Any, **named: Any) -> Any:
        read.update(rows.tolist())
        return batch(self, rows, *more, **named)

    monkeypatch.setattr(Features, "batch", spied)
    cut = load_parts(tmp_path / "out")
    kept = posts.set_index(posts["id"].astype(str)).loc[list(cut.ids)].reset_index(drop=True)
    assert run_worker(Search(kept, cut, stopped.plan, tmp_path / "out"), most=2) == 2
    assert read == set(cut.test(TRAIN).tolist()) | set(cut.test(VALIDATION).tolist())


def test_encoders_are_opened_images_read_and_embeddings_computed_once(
    zoo: Zoo, posts: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[str, int] = {}

    def counted(where: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(where, name)

        def call(*args: Any, **named: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return original(*args, **named)

        monkeypatch.setattr(where, name, call)

    counted(Kept, "_fill")
    counted(trials, "open_encoders")
    counted(prepared_images, "read_image")
    tune(posts, tmp_path / "out", tiny_plan(zoo, tmp_path / "cache", trials=4))
    # A text and an image encoder, for four trials of different heads and the two trainings at the end.
    assert counts == {"_fill": 2, "open_encoders": 1, "read_image": len(posts)}


def test_trials_of_other_cuts_of_the_encoders_compute_their_own_activations(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path
) -> None:
    space = {"text-top": [1, 2], "lr-head": {"low": 1e-4, "high": 1e-2, "log": True}}
    plan = tiny_plan(zoo, shared, trials=2, space=space, fit={"tune": "top", "epochs": 1})
    result = tune(posts, tmp_path / "out", plan)
    assert [trial.state for trial in result.trials] == [FINISHED] * 2
    assert [trial.epochs for trial in result.trials] == [1, 1]  # of fine-tuning; the probe's do not count


@pytest.mark.parametrize("tuned", ["joint", "lora"])
def test_the_spaces_that_come_with_cotune_can_be_searched(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path, tuned: str
) -> None:
    plan = replace(tiny_plan(zoo, shared, trials=2, fit={"tune": tuned, "epochs": 1}), space=None)
    result = tune(posts, tmp_path / "out", plan)
    assert [trial.error for trial in result.trials] == ["", ""]
    assert {"lr_text", "ema", "fusion"} <= result.trials[1].settings.keys()


def test_a_stopped_search_resumes_to_the_one_that_was_not(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path, searched: Any
) -> None:
    whole, _, _ = searched
    plan, out = tiny_plan(zoo, shared, trials=9, seeds=(42, 7), pruner="none"), tmp_path / "out"
    stopped = tune(posts, out, plan, progress=StopAfter(4))
    assert stopped.interrupted
    assert stopped.compared is None
    assert len(stopped.trials) == 4
    assert "not finished" in (out / "best.yaml").read_text()
    study = store.open_study(out, stopped.plan)
    with store.working(out) as gone:
        assert store.ask(study, stopped.plan, out, gone) is not None  # killed in the middle of a trial
    told = Told()
    resumed = tune(posts, out, plan, resume=True, progress=told)
    assert "4 of 9 trials are finished already" in told.lines
    assert made(resumed) == made(whole)
    assert resumed.compared == whole.compared
    assert [trial.state.name for trial in study.get_trials()].count("FAIL") == 1


def test_a_finished_search_is_not_made_again_and_more_trials_can_be_added(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = tiny_plan(zoo, shared, trials=2), tmp_path / "out"
    first = tune(posts, out, plan)
    with pytest.raises(RunError, match="holds 2 finished trials; go on with --resume"):
        tune(posts, out, plan)
    more = tune(posts, out, replace(plan, trials=4), resume=True)
    assert made(more)[:2] == made(first)
    assert len(more.trials) == 4
    trained: list[FitConfig] = []
    fit = trainer.Trainer.fit
    monkeypatch.setattr(trainer.Trainer, "fit", lambda self: trained.append(self.config) or fit(self))
    again = tune(posts, out, replace(plan, trials=3), resume=True)
    assert again.compared == more.compared
    assert not trained


def test_where_the_defaults_are_the_best_nothing_is_compared(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path
) -> None:
    result = tune(posts, tmp_path / "out", tiny_plan(zoo, shared, trials=1, space={"probe-epochs": [1, 3]}))
    assert result.compared is not None
    assert result.compared.same
    assert result.compared.looks == 0
    assert result.compared.verdict == "The search found nothing better than the defaults."
    assert (result.compared.test.difference, result.compared.test.p) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("difference", "p", "told"),
    [(0.1, 0.01, "are better than"), (-0.1, 0.01, "are worse than"), (0.1, 0.2, "No difference that the test can tell"),
     (0.1, float("nan"), "No difference that the test can tell")],
)  # fmt: skip
def test_the_verdict_in_words(searched: Any, difference: float, p: float, told: str) -> None:
    found: Compared = searched[0].compared
    assert told in replace(found, same=False, test=replace(found.test, difference=difference, p=p)).verdict


def test_two_classes_and_one_seed_are_compared_by_delong(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path
) -> None:
    result = tune(posts, tmp_path / "out", tiny_plan(zoo, shared, trials=2))
    assert result.compared is not None
    assert result.compared.test.name == "DeLong"


def test_a_regression_is_searched_by_its_own_score(zoo: Zoo, tmp_path: Path, shared: Path) -> None:
    posts = make_posts(tmp_path / "posts", 40, gaps=False)
    posts["label"] = [f"{i % 2 + (i % 7) / 10:.2f}" for i in range(40)]
    plan = tiny_plan(zoo, shared, trials=2, fit={"task": "regression"})
    result = tune(posts, tmp_path / "out", plan)
    assert result.task.main_score == "spearman"
    assert result.compared is not None
    assert set(result.compared.best) == set(result.task.table_scores)
    with pytest.raises(ConfigError, match="label-smoothing is for classes"):
        tune(posts, tmp_path / "two", tiny_plan(zoo, shared, space={"label-smoothing": [0, 0.1]}))


def test_settings_that_diverge_fail_and_the_search_goes_on(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path
) -> None:
    space = {"probe-lr": [1e-3, 1e30], "width": [16, 32]}
    result = tune(posts, tmp_path / "out", tiny_plan(zoo, shared, trials=5, space=space))
    failed = [trial for trial in result.trials if trial.state == FAILED]
    assert failed
    assert all("diverged" in trial.error and trial.settings["probe_lr"] == 1e30 for trial in failed)
    assert result.best is not None
    assert "failed" in tune_report(result)


def test_a_search_in_which_nothing_can_be_trained(zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path) -> None:
    plan = tiny_plan(zoo, shared, trials=2, fit={"probe_lr": 1e30}, space={"width": [16, 32]})
    with pytest.raises(CotuneError, match="no trial could be trained: training diverged"):
        tune(posts, tmp_path / "out", plan)


def test_several_workers_share_a_folder(zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path) -> None:
    """Threads stand in for processes: their locks and connections are as separate."""
    out = tmp_path / "out"
    stopped = tune(posts, out, tiny_plan(zoo, shared, trials=8), progress=StopAfter(1))
    cut = load_parts(out)
    kept = posts.set_index(posts["id"].astype(str)).loc[list(cut.ids)].reset_index(drop=True)
    search = Search(kept, cut, stopped.plan, out)
    numbers: list[int] = []
    workers = [threading.Thread(target=lambda: numbers.append(run_worker(search))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(numbers) == 7
    assert min(numbers) > 0
    trials = store.finished_trials(store.open_study(out, stopped.plan))
    assert sorted(trial.user_attrs[store.INDEX] for trial in trials) == list(range(8))
    assert len({str(trial.params) for trial in trials}) == 8


@pytest.mark.slow  # two processes that import torch
def test_worker_processes(zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path) -> None:
    told = Told()
    result = tune(posts, tmp_path / "out", tiny_plan(zoo, shared, trials=4), jobs=2, progress=told)
    assert [trial.number for trial in result.trials] == [1, 2, 3, 4]
    assert sum(line.startswith("trial ") for line in told.lines) == 4
    assert result.compared is not None


@pytest.mark.slow  # two processes that import torch
def test_a_worker_that_is_killed_costs_its_trial_alone(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path
) -> None:
    class Killing(Told):
        def say(self, line: str) -> None:
            super().say(line)
            if line.startswith("trial 1 "):  # as the system does when the memory is used up
                victim = multiprocessing.active_children()[0].pid
                assert victim is not None
                os.kill(victim, signal.SIGKILL)

    plan = tiny_plan(zoo, shared, trials=8)
    with pytest.raises(CotuneError, match=r"a worker process ended .* the memory was used up; continue with --resume"):
        tune(posts, tmp_path / "out", plan, jobs=2, progress=Killing())
    result = tune(posts, tmp_path / "out", plan, resume=True)
    assert [trial.number for trial in result.trials] == list(range(1, 9))
    assert result.compared is not None


def test_a_clock_that_was_set_back_gives_no_negative_time(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else of a search, its resuming or its locks asks for the time."""
    plan, real = tiny_plan(zoo, shared, trials=2), time.time
    whole = tune(posts, tmp_path / "whole", plan)
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: real() + 3e8)  # in which the trial begins
        tune(posts, tmp_path / "out", plan, progress=StopAfter(1))
    result = tune(posts, tmp_path / "out", plan, resume=True)
    assert min(trial.seconds for trial in result.trials) == 0
    assert [trial.score for trial in result.trials] == [trial.score for trial in whole.trials]


def test_a_search_of_something_else_is_refused(zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path) -> None:
    plan, out = tiny_plan(zoo, shared, trials=9), tmp_path / "out"
    tune(posts, out, plan, progress=StopAfter(1))
    other = posts.assign(text=posts["text"] + " more")
    with pytest.raises(RunError, match="results of another data set"):
        tune(other, out, plan, resume=True)
    with pytest.raises(RunError, match=r"other settings: ema \(0.0, now 0.5\)"):
        tune(posts, out, tiny_plan(zoo, shared, fit={"ema": 0.5}), resume=True)
    with pytest.raises(RunError, match=r"space of dropout \(\{'low': 0, 'high': 0.6\}, now None\)"):
        tune(posts, out, tiny_plan(zoo, shared, space={"width": [16, 32], "probe-lr": [0.1, 0.2]}), resume=True)
    with pytest.raises(RunError, match=r"test \(0.2, now 0.3\)"):
        tune(posts, out, tiny_plan(zoo, shared, test=0.3), resume=True)
    (out / "search.db").write_bytes(b"no database" * 500)
    with pytest.raises(RunError, match="search.db cannot be opened"):
        tune(posts, out, plan, resume=True)


def test_a_folder_of_something_else_is_left_alone(zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text("mine")
    with pytest.raises(RunError, match=r"did not write and would replace \(best.yaml\)"):
        tune(posts, tmp_path, tiny_plan(zoo, shared))
    assert (tmp_path / "best.yaml").read_text() == "mine"


def test_what_is_wrong_with_the_plan() -> None:
    for more, told in (
        ({"trials": 0}, "--trials must be at least 1, not 0"),
        ({"test": 1.0}, "--test is a fraction between 0 and 1"),
        ({"pruner": "medain"}, "did you mean 'median'"),
        ({"fit": FitConfig(validation="other.csv")}, "give --validation a part such as 0.2"),
        ({"fit": FitConfig(tune="frozen", probe_epochs=0)}, "nothing would be trained"),
    ):
        arguments: dict[str, Any] = dict(more)
        with pytest.raises(ConfigError, match=told):
            TunePlan(**arguments)


@pytest.mark.parametrize("n", [4, 6, 8])
def test_too_few_posts_for_three_parts(zoo: Zoo, tmp_path: Path, shared: Path, n: int) -> None:
    with pytest.raises(DataError, match=f"{n} posts are too few to cut into training, validation and test parts"):
        tune(make_posts(tmp_path / "posts", n, gaps=False), tmp_path / "out", tiny_plan(zoo, shared))


def test_optuna_missing(zoo: Zoo, posts: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'cotune\[tune\]'"):
        tune(posts, tmp_path / "out", tiny_plan(zoo, tmp_path))
    assert not (tmp_path / "out").exists()


# ---- pruning ---------------------------------------------------------------------------------------------


class FakeTrial:
    def __init__(self, *, prune: bool) -> None:
        self.reports: list[tuple[float, int]] = []
        self.prune = prune

    def report(self, value: float, step: int) -> None:
        self.reports.append((value, step))

    def should_prune(self) -> bool:
        return self.prune


def epoch(trial: Any, tune: str, stage: str, number: int, score: float | None = 0.7) -> None:
    config = FitConfig(tune=tune)  # type: ignore[arg-type]
    callback = Pruning(trial, config, SingleLabel(["a", "b"]))
    state = StageState(epoch=number, history=[{"validation_auc": score}])
    callback.on_epoch_end(Stage(stage, 0, {}, 3, 8), state, ())


def test_the_epochs_of_the_last_stage_are_reported_and_the_last_one_is_not_pruned() -> None:
    from optuna import TrialPruned

    trial = FakeTrial(prune=True)
    epoch(trial, "top", "probe", 1)
    assert trial.reports == []
    with pytest.raises(TrialPruned):
        epoch(trial, "top", "top", 1)
    epoch(trial, "top", "top", 3)
    with pytest.raises(TrialPruned):
        epoch(trial, "frozen", "probe", 2)
    epoch(trial, "frozen", "probe", 2, None)
    assert trial.reports == [(0.7, 1), (0.7, 3), (0.7, 2)]


@pytest.mark.parametrize(("pruner", "n", "epochs"), [("median", 16, 9), ("hyperband", 11, 6)])
def test_bad_trials_are_pruned(
    zoo: Zoo, posts: pd.DataFrame, shared: Path, tmp_path: Path, pruner: Any, n: int, epochs: int
) -> None:
    space = {"probe-lr": {"low": 1e-7, "high": 1e-2, "log": True}}
    fit = {"probe_epochs": epochs, "probe_lr": 5e-3}
    plan = tiny_plan(zoo, shared, trials=n, space=space, pruner=pruner, fit=fit)
    result = tune(posts, tmp_path / "out", plan)
    pruned = [trial for trial in result.trials if trial.state == PRUNED]
    assert pruned
    assert all(trial.epochs < epochs and trial.score is not None for trial in pruned)
    assert result.best is not None
    assert result.best.state == FINISHED


def test_posts_that_are_kept_stay_prepared(zoo: Zoo, posts: pd.DataFrame, shared: Path) -> None:
    bench, config = Workbench(posts), tiny_config(zoo, shared, tune="frozen", width=16)
    whole = bench.features(config)
    bench.keep(np.asarray([5, 3]))
    assert bench.posts["id"].tolist() == ["p5", "p3"]
    assert bench.features(config).content(0) == whole.content(5)
