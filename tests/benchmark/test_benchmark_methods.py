from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench_tiny import tiny_plan, tiny_posts
from cotune.benchmark import METHODS, Outcome, methods
from cotune.benchmark.bench import Bench
from cotune.benchmark.folds import cut_posts
from cotune.benchmark.methods import Trial, embeddings, mean_of
from cotune.benchmark.plan import Cell
from cotune.errors import CotuneError, EncoderError
from tiny import Zoo


@pytest.fixture
def bench(zoo: Zoo, tmp_path: Path) -> Bench:
    plan = tiny_plan(zoo, tmp_path / "cache", methods=("svm", "joint"), fit={"tune": "top", "probe_epochs": 4})
    posts = tiny_posts(tmp_path, 48, classes=3)
    return Bench(posts, cut_posts(posts, plan), plan)


def cell_of(bench: Bench, method: str, **more: Any) -> Cell:
    return replace(bench.plan.cell(method, bench.plan.pairs[0], 0, 42, None, 0), **more)


@pytest.mark.parametrize("method", ["svm", "image", "text", "concat", "probe", "reference", "joint"])
def test_every_method_scores_the_test_posts(bench: Bench, method: str) -> None:
    record = bench.run(cell_of(bench, method))
    assert record.ids == [str(i) for i in bench.folds.ids[bench.folds.test(0)]]
    assert record.proba.shape == (16, 3)
    assert np.allclose(record.proba.sum(axis=1), 1)
    assert record.parameters["total"] >= record.parameters["trained"] > 0
    assert record.seconds > 0
    stages = {row["stage"] for row in record.history}
    assert stages == {"svm": set(), "probe": {"probe"}}.get(method, {"probe", "top"})
    assert set(record.encoders) == set(METHODS[method].uses)
    assert (record.emap is not None) == (method in ("concat", "probe", "reference", "joint"))


def test_a_cell_gives_the_same_numbers_again(bench: Bench) -> None:
    first, again = bench.run(cell_of(bench, "joint")), bench.run(cell_of(bench, "joint"))
    assert np.array_equal(first.proba, again.proba)
    other = bench.run(cell_of(bench, "joint", seed=1))
    assert not np.array_equal(first.proba, other.proba)


def test_embeddings_are_computed_once_for_all_methods(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(cell_of(bench, "svm"))
    encoder = bench.features(bench.plan.pairs[0]).encoders["image"]

    def refuse(*_: object) -> None:
        raise AssertionError("the encoder ran again")

    monkeypatch.setattr(type(encoder), "encode", refuse)
    record = bench.run(cell_of(bench, "probe", fold=1))
    assert len(record.proba) == len(bench.folds.test(1))


def test_svm_with_distances_kept_is_scikit_learns(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = bench.run(cell_of(bench, "svm"))
    monkeypatch.setattr(methods, "_MOST_DISTANCES", 0)
    plain = bench.run(cell_of(bench, "svm"))
    assert np.allclose(kept.proba, plain.proba, rtol=0, atol=1e-9)
    assert kept.parameters == plain.parameters


def test_svm_without_enough_posts_to_calibrate(bench: Bench) -> None:
    record = bench.run(cell_of(bench, "svm", shots=1))
    assert np.allclose(record.proba.sum(axis=1), 1)


def test_svm_of_two_classes(zoo: Zoo, tmp_path: Path) -> None:
    plan = tiny_plan(zoo, tmp_path / "cache", methods=("svm",))
    posts = tiny_posts(tmp_path, 24)
    bench = Bench(posts, cut_posts(posts, plan), plan)
    for shots in (1, None):
        record = bench.run(cell_of(bench, "svm", shots=shots))
        assert np.allclose(record.proba.sum(axis=1), 1)
        right = record.proba.argmax(axis=1) == bench.folds.targets[bench.folds.test(0)]
        assert shots or right.mean() > 0.6


def test_absent_modalities_are_no_numbers(bench: Bench) -> None:
    features = bench.features(bench.plan.pairs[0])
    bench.run(cell_of(bench, "svm"))
    table = embeddings(features, np.arange(48))
    width = features.encoders["text"].dim
    assert np.array_equal(np.isnan(table[:, :width]).all(axis=1), ~features.present[:, 0])
    assert np.array_equal(np.isnan(table[:, width:]).all(axis=1), ~features.present[:, 1])


def test_a_validation_part_is_cut_from_the_training_posts(bench: Bench) -> None:
    bench.plan = replace(bench.plan, fit=bench.plan.fit.model_copy(update={"stop": "validation", "validation": 0.25}))
    record = bench.run(cell_of(bench, "concat"))
    assert all(row["validation_auc"] is not None for row in record.history)


def test_emap_of_some_posts_only(bench: Bench) -> None:
    bench.plan = replace(bench.plan, emap=5)
    record = bench.run(cell_of(bench, "probe"))
    assert record.emap is not None
    assert (~np.isnan(record.emap[:, 0])).sum() == 5
    other = bench.run(replace(cell_of(bench, "probe"), seed=7))
    assert other.emap is not None
    assert np.array_equal(np.isnan(other.emap), np.isnan(record.emap)), "every seed is projected on the same posts"
    bench.plan = replace(bench.plan, emap=0)
    assert bench.run(cell_of(bench, "probe")).emap is None


def test_an_encoder_that_failed_is_not_opened_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = ("bundled:nothing", bench.plan.pairs[0][1])
    with pytest.raises(EncoderError, match="no bundled text encoder"):
        bench.features(pair)
    monkeypatch.setattr("cotune.benchmark.bench.open_encoders", lambda *_, **__: pytest.fail("opened again"))
    with pytest.raises(EncoderError, match="no bundled text encoder"):
        bench.features(pair)


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.nan, "no numbers"), (None, "the shape"), (0.4, "no probabilities"), (-1.0, "no probabilities")],
)
def test_what_a_method_returns_is_checked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, value: float | None, said: str
) -> None:
    def wrong(trial: Trial) -> Outcome:
        return Outcome(np.full((len(trial.test) - (value is None), 3), value or 0.1), {})

    monkeypatch.setitem(METHODS._items, "fast", replace(METHODS["fast"], run=wrong))
    with pytest.raises(CotuneError, match=said):
        bench.run(cell_of(bench, "fast"))


def test_mean() -> None:
    assert np.allclose(mean_of([np.asarray([[0.2, 0.8]]), np.asarray([[0.4, 0.6]])]), [[0.3, 0.7]])
