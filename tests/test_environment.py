from __future__ import annotations

import json

import pytest

from cotune.environment import environment


def test_environment_tells_versions_seed_and_data() -> None:
    about = environment(7, "abc", "cpu")
    assert about["seed"] == 7
    assert about["data_hash"] == "abc"
    assert about["packages"]["torch"]
    json.dumps(about)


def test_the_program_has_its_name_however_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for started, said in (("/x/cotune/__main__.py", "cotune fit a.csv"), ("/bin/cotune", "cotune fit a.csv")):
        monkeypatch.setattr("sys.argv", [started, "fit", "a.csv"])
        assert environment(1, None, "cpu")["command"] == said
