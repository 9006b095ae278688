from __future__ import annotations

import json

from cotune.environment import environment


def test_environment_tells_versions_seed_and_data() -> None:
    about = environment(7, "abc", "cpu")
    assert about["seed"] == 7
    assert about["data_hash"] == "abc"
    assert about["packages"]["torch"]
    json.dumps(about)
