"""Policies of `cotune decide`: YAML, or the sealed record of one whose thresholds were chosen."""

from __future__ import annotations

import json
from pathlib import Path

from targets._sealed import sealed_again

from cotune.decide.policy import ChosenPolicy, make_policy, read_policy, route_of

WORDS = ("class: ", "act: {precision: ", "allow: {recall: ", "confidence: ", "version: ", "0.95", ".nan", ".inf", "1e400",
         "!!python/object/apply:os.system", "&a", "*a", "<<: *a", "{", "}", '"thresholds"', '"value"', '"act"',
         '"allow"', "null")  # fmt: skip


def seeds() -> list[bytes]:
    """Return policies and a record."""
    policy = make_policy({"class": "x", "act": {"precision": 0.9}, "allow": {"recall": 0.9}})
    chosen = ChosenPolicy.make(policy, {"hash": "0" * 32}, {"act": {"value": 0.8}, "allow": None})
    return [
        b"class: hateful\nact: {precision: 0.95}\nallow: {recall: 0.95}\nconfidence: 0.9\nversion: 2\n",
        b"class: 1\nact:\n  precision: 0.5\n",
        json.dumps(chosen.record).encode(),
    ]


def read(data: bytes, folder: Path) -> None:
    """Read the policy, and route by it."""
    sealed = sealed_again(data)
    path = folder / ("policy.yaml" if sealed is None else "policy.json")
    path.write_bytes(data if sealed is None else sealed)
    found = read_policy(path)
    if isinstance(found, ChosenPolicy):
        assert found.hash
        route_of(0.5, found.thresholds)
    else:
        make_policy(found.plain())
