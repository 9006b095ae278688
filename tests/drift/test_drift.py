from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cotune.cli import main
from cotune.drift.compare import Drift, compare, sample_posts, summarise_new
from cotune.drift.summary import SAMPLE, PostsSummary, read_summary, write_summary
from cotune.errors import DataError, RunError
from cotune.predict import Predictor
from cotune.run import Run, load_run, save_run
from cotune.run_settings import SUMMARY
from runs import tiny_fit, write_table
from tiny import Zoo, make_posts


@pytest.fixture(scope="module")
def fitted(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("fitted"), n=100, tune="frozen").run


def new_posts(folder: Path, n: int = 80) -> pd.DataFrame:
    return make_posts(folder / "posts", n, seed=5)


def compared(run: Run, posts: pd.DataFrame, **more: bool) -> Drift:
    assert run.summary is not None
    known = PostsSummary(**{**run.summary.__dict__, "about": {**run.summary.about, **more}})
    new = summarise_new(Predictor(run, bad_images="text-only"), posts)
    return compare(known, new, posts, run.task, n_permutations=199)


def test_a_run_keeps_numbers_and_neither_texts_nor_ids(fitted: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", fitted)
    raw = (tmp_path / "run" / SUMMARY).read_bytes()
    header = raw[: 8 + int.from_bytes(raw[:8], "little")]
    assert len(raw) < 2**20
    assert not any(word in header for word in (b"good", b".png", b"post-"))
    found = load_run(tmp_path / "run").summary
    assert found is not None
    assert fitted.summary is not None
    assert found.about == {"posts": 100, "sampled": 100, "unseen": False, "encoders_trained": False}
    assert found.counts["no image"] == fitted.summary.counts["no image"]
    for name, part in fitted.summary.embeddings.items():
        np.testing.assert_array_equal(found.embeddings[name].astype(np.float16), part)
    assert found.embeddings["text"].shape == (100, 32)
    assert found.labels is not None
    assert found.labels.sum() == 100


def test_new_posts_of_the_same_kind_show_no_sign_and_embeddings_agree(fitted: Run, tmp_path: Path) -> None:
    found = compared(fitted, new_posts(tmp_path))
    assert found.verdict == "none", found
    assert {test.what for test in found.tests} >= {
        "embeddings of text", "embeddings of image", "embeddings of all fields", "predicted labels", "labels",
        "characters of text", "pixels of image",
    }  # fmt: skip
    assert (found.compared, found.reference) == (80, 100)


def test_a_planted_shift_is_a_clear_one_and_its_posts_are_listed(fitted: Run, tmp_path: Path) -> None:
    posts = new_posts(tmp_path)
    strange = posts.index[:50]
    posts.loc[strange, "text"] = "we the dog is so very cat film the was"
    found = compared(fitted, posts)
    assert found.verdict == "clear"
    assert next(test for test in found.tests if test.what == "embeddings of text").clear
    assert not next(test for test in found.tests if test.what == "embeddings of image").shifted
    ids = set(posts.loc[strange, "id"])
    assert all(post["id"] in ids for post in found.unlike[:10] if post["field"] == "text")
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_a_shift_is_seen_with_the_fewest_permutations(fitted: Run, tmp_path: Path) -> None:
    # 100 permutations give no p-value below .0099, which corrected for nine tests is none below .05.
    posts = new_posts(tmp_path)
    posts.loc[posts.index[:50], "text"] = "we the dog is so very cat film the was"
    assert fitted.summary is not None
    new = summarise_new(Predictor(fitted), posts)
    found = compare(fitted.summary, new, posts, fitted.task, n_permutations=100)
    assert next(test for test in found.tests if test.what == "embeddings of text").shifted


def test_few_posts_are_not_said_to_be_like_those_of_training(fitted: Run, tmp_path: Path) -> None:
    posts = new_posts(tmp_path).iloc[:6].reset_index(drop=True)
    found = compared(fitted, posts)
    assert found.verdict == "unknown"
    assert any(test.p_value is not None for test in found.tests)
    posts["image"] = None
    assert compared(fitted, posts).verdict == "clear"


def test_missing_and_unreadable_images_are_compared(fitted: Run, tmp_path: Path) -> None:
    posts = new_posts(tmp_path)
    posts.loc[:29, "image"] = None
    (tmp_path / "broken.png").write_bytes(b"no image")
    posts.loc[30:59, "image"] = str(tmp_path / "broken.png")
    found = {test.what: test for test in compared(fitted, posts).tests}
    assert found["no image"].clear
    assert found["an unreadable image"].clear
    assert found["an unreadable image"].detail.endswith(f"30 of {posts['image'].notna().sum()}")


def test_what_the_model_learned_by_heart_does_not_count(fitted: Run, tmp_path: Path) -> None:
    posts = new_posts(tmp_path)
    tests = {test.what: test for test in compared(fitted, posts, encoders_trained=True).tests}
    assert not tests["embeddings of text"].counts
    assert tests["embeddings of text"].p_adjusted is None
    assert not tests["predicted labels"].counts
    assert tests["labels"].counts
    found = compared(fitted, posts, encoders_trained=True, unseen=True)
    assert all(test.counts for test in found.tests)
    assert not any("trained on" in note for note in found.notes)


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_other_tasks(zoo: Zoo, tmp_path: Path, task: str) -> None:
    posts = make_posts(tmp_path / "posts", 60)
    labels = {"multi-label": ["a|b", "a", "b", "|"], "regression": ["0.1", "2.5", "3.25", "0.7"]}[task]
    posts["label"] = pd.Series([labels[i % 4] for i in range(60)], dtype=object)
    from cotune.training.fit import fit_posts
    from runs import tiny_config

    run = fit_posts(posts, tiny_config(zoo, tmp_path / "cache", task=task, tune="frozen")).run
    found = compared(run, posts, unseen=True)
    assert found.verdict == "none"
    what = {test.what for test in found.tests}
    assert what >= ({"labels", "predicted labels"} if task == "multi-label" else {"values", "predicted values"})


def test_held_out_posts_of_the_table_are_the_reference(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cotune.training.posts_summary._ENOUGH", 10)
    summary = tiny_fit(zoo, tmp_path, n=48, tune="top", validation=0.25).run.summary
    assert summary is not None
    assert summary.about == {"posts": 48, "sampled": 12, "unseen": True, "encoders_trained": True}


def test_a_sample_is_random_bounded_and_in_order() -> None:
    chunks = [pd.DataFrame({"row": range(start, start + 100)}) for start in range(0, 1000, 100)]
    kept, seen = sample_posts(chunks, 60, 0)
    assert (len(kept), seen) == (60, 1000)
    assert kept["row"].is_monotonic_increasing
    means = [sample_posts(chunks, 60, seed)[0]["row"].mean() for seed in range(40)]
    assert abs(np.mean(means) - 499.5) < 3 * 289 / np.sqrt(60 * 40)
    with pytest.raises(DataError, match="no posts"):
        sample_posts([], 60, 0)


def test_a_damaged_or_newer_summary_is_refused(fitted: Run, tmp_path: Path) -> None:
    assert fitted.summary is not None
    write_summary(fitted.summary, tmp_path / "s")
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:-9])
    with pytest.raises(RunError, match="cannot be read"):
        read_summary(tmp_path / "s")


def test_a_run_without_one_opens_and_says_so(fitted: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_run(tmp_path / "run", fitted)
    (tmp_path / "run" / SUMMARY).write_bytes(b"nothing")
    opened = load_run(tmp_path / "run")
    assert opened.summary is None
    assert [SUMMARY in note for note in opened.notes] == [True]
    (tmp_path / "run" / SUMMARY).unlink()
    assert load_run(tmp_path / "run").notes == []
    table = write_table(new_posts(tmp_path, 30), tmp_path / "new.csv")
    assert main(["drift", str(tmp_path / "run"), str(table)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "no summary of its training posts" in err


def test_the_command_writes_json_and_a_page(fitted: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_run(tmp_path / "run", fitted)
    posts = new_posts(tmp_path, 40)
    posts.loc[:9, "text"] = "<script>alert(1)</script>"
    table = write_table(posts, tmp_path / "new.csv")
    words = ["drift", str(tmp_path / "run"), str(table), "--permutations", "199", "--sample", "30"]
    assert main([*words, "--out", str(tmp_path / "d")]) == 0
    out = capsys.readouterr().out
    assert "30 posts compared with 100 of the run's" in out
    assert "a random sample of 30 of 40 posts" in out
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"drift.json", "report.html"}
    found = json.loads((tmp_path / "d" / "drift.json").read_text())
    page = (tmp_path / "d" / "report.html").read_text()
    assert found["in_words"] in page
    assert "<script>alert" not in page
    assert "data:image" in page
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tests"] == found["tests"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert SAMPLE == 512
