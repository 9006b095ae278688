from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cotune.data.posts import ColumnNames, read_posts
from cotune.errors import ConfigError, DataError
from cotune.fields import DEFAULT_FIELDS
from cotune.report.terminal import slices_note, slices_table
from cotune.slices import kept_columns, score_slices, slice_values
from cotune.tasks.single_label import SingleLabel

_TASK = SingleLabel(("no", "yes"))


def scored(n: int, seed: int, noise: np.ndarray | float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and probabilities that follow them under noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    chance = 1 / (1 + np.exp(-(2 * y - 1 + noise * rng.normal(size=n))))
    return y, np.column_stack([1 - chance, chance])


def test_the_slice_that_is_worse_comes_first_and_alone_is_called_worse() -> None:
    languages = np.repeat(["en", "de", "fr", "it"], [300, 120, 100, 10])
    y, proba = scored(530, 0, np.where(languages == "de", 8.0, 1.0))
    values = pd.DataFrame({"language": languages, "source": np.tile(["a", "b"], 265)}, dtype=object)
    found = score_slices(_TASK, y, proba, values, n_bootstrap=200)
    worst = found["rows"][0]
    assert (worst["by"], worst["value"], worst["n"]) == ("language", "de", 120)
    assert worst["score"]["low"] < worst["score"]["value"] < worst["score"]["high"] < worst["rest"]
    assert worst["difference"]["value"] == pytest.approx(worst["score"]["value"] - worst["rest"])
    assert worst["p"] < worst["p_adjusted"] < 0.001
    assert all(row["p_adjusted"] > 0.05 or row["difference"]["value"] > 0 for row in found["rows"][1:])
    assert found["grouped"] == {"language": {"values": 1, "posts": 10}}
    assert found["tests"] == 5
    assert "Worse than the rest: language = de; p < .05" in slices_note(found)
    assert "1 rarer value with 10 posts together" in slices_note(found)
    assert slices_table(found).row_count == 5


def test_slices_that_do_not_differ_are_rarely_called_different() -> None:
    alarms = 0
    for seed in range(60):
        y, proba = scored(240, seed)
        slices = np.random.default_rng(1000 + seed).choice(["a", "b", "c", "d"], 240)
        found = score_slices(_TASK, y, proba, pd.DataFrame({"by": slices}, dtype=object), n_bootstrap=100)
        alarms += any(row["p_adjusted"] < 0.05 for row in found["rows"])
    assert alarms <= 60 * 0.05 + 3 * np.sqrt(60 * 0.05 * 0.95)


def test_small_slices_of_a_good_model_are_rarely_called_different() -> None:
    # Most slices have no error, and their bootstrap no spread.
    alarms = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        y = (rng.random(450) < 0.2).astype(int)
        chance = 1 / (1 + np.exp(-(rng.normal(size=450) + 2.5 * y - 1.5)))
        values = pd.DataFrame({"by": rng.choice([f"g{k}" for k in range(10)], 450)}, dtype=object)
        found = score_slices(_TASK, y, np.column_stack([1 - chance, chance]), values, n_bootstrap=100)
        assert found["tests"] > 5
        alarms += any(row["p_adjusted"] < 0.05 for row in found["rows"])
    assert alarms <= 25 * 0.05 + 3 * np.sqrt(25 * 0.05 * 0.95)


def test_permutations_are_as_many_as_the_number_of_slices_takes() -> None:
    rng = np.random.default_rng(0)
    n = 60 * 34
    groups = np.repeat([f"g{k}" for k in range(34)], 60)
    y, proba = scored(n, 0, 0.5)
    proba[groups == "g7"] = proba[groups == "g7"][:, ::-1]
    values = pd.DataFrame({"by": groups, "other": rng.permutation(groups)}, dtype=object)
    found = score_slices(_TASK, y, proba, values, n_bootstrap=20)
    assert found["tests"] == 68
    assert [row["value"] for row in found["rows"] if row["p_adjusted"] < 0.05] == ["g7"]


def test_a_slice_of_one_class_has_no_auc_and_no_test() -> None:
    y, proba = scored(100, 0)
    found = score_slices(_TASK, y, proba, pd.DataFrame({"label": y.astype(str)}, dtype=object), n_bootstrap=20)
    assert [row["score"]["value"] for row in found["rows"]] == [None, None]
    assert found["tests"] == 0
    assert "No slice was shown to be worse than the rest; none was tested." in slices_note(found)
    assert score_slices(_TASK, y, proba, pd.DataFrame({"a": [1, 2] * 50}), n_bootstrap=0)["tests"] == 0


def test_what_is_derived_from_posts_and_read_from_columns(tmp_path: Path) -> None:
    rows = [{"id": i, "text": "x" * i if i else None, "label": "a", "lang": ["en", "", True][i % 3]} for i in range(80)]
    pd.DataFrame(rows).to_csv(tmp_path / "p.csv", index=False)
    by = ["lang", "@length", "@missing", "@size"]
    posts = read_posts(tmp_path / "p.csv", columns=ColumnNames(kept=kept_columns(by)))
    values = slice_values(posts, DEFAULT_FIELDS, by)
    assert values["lang"].tolist()[:4] == ["en", "", "true", "en"]
    assert values["@missing"].tolist()[:2] == ["text and image", "image"]
    assert set(values["@size"]) == {"no image"}
    y, proba = scored(80, 0)
    found = score_slices(_TASK, y, proba, values[["@length", "lang"]], n_bootstrap=0)
    assert [row["value"] for row in found["rows"] if row["by"] == "lang"] == []  # none has 30 posts
    assert found["grouped"]["@length"] == {"values": 4, "posts": 80}
    y, proba = scored(160, 0)
    twice = pd.concat([values, values], ignore_index=True)
    found = score_slices(_TASK, y, proba, twice[["@length"]], n_bootstrap=0)
    assert sorted(row["value"] for row in found["rows"])[:2] == [
        "0 to below 19 characters",
        "19 to below 39 characters",
    ]
    assert sum(row["n"] for row in found["rows"]) == 160


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a"], "language": ["en"]}).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(DataError, match=r"no column 'langage' to tell posts apart by.*'language'"):
        read_posts(tmp_path / "p.csv", columns=ColumnNames(kept=("langage",)))
    with pytest.raises(ConfigError, match=r"--by @lenght.*@length"):
        kept_columns(["@lenght"])
