from __future__ import annotations

import ctypes

import pytest

from cotune.training import memory
from cotune.training.memory import give_back, giving_back


def test_batches_pass_through_and_memory_is_given_back_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    calls: list[int] = []
    monkeypatch.setattr(memory, "give_back", lambda: calls.append(len(seen)))
    for number in giving_back(range(7), every=3):
        seen.append(number)
    assert seen == list(range(7))
    assert calls == [3, 6, 7]


def test_systems_whose_library_cannot_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(_: object) -> object:
        return object()

    memory._trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", without)
    give_back()
    memory._trim.cache_clear()
    monkeypatch.undo()
    give_back()
    memory._trim.cache_clear()
