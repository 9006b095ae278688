from __future__ import annotations

import ctypes

import pytest

from cotune import release_memory as module
from cotune.release_memory import release_memory, releasing_memory


def test_batches_pass_through_and_memory_is_given_back_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[object] = []
    monkeypatch.setattr(module, "release_memory", lambda: happened.append("given back"))
    for number in releasing_memory("abcde", every=2):
        happened.append(number)  # noqa: PERF402 - the order of both is what is asked
    assert happened == ["a", "b", "given back", "c", "d", "given back", "e", "given back"]


def test_large_blocks_are_kept_until_the_outermost_loop_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "_set", lambda option, value: told.append((option, value)))
    outer = releasing_memory("ab")
    next(outer)
    assert list(releasing_memory("cd")) == ["c", "d"]
    assert told == [(-4, 0), (-1, 2**31 - 1)]
    outer.close()  # as when training is stopped
    assert told[2:] == [(-4, 65536), (-1, 128 * 1024), (-3, 32 * 2**20)]


def test_systems_whose_library_cannot_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(_: object) -> object:
        return object()

    monkeypatch.setattr(ctypes, "CDLL", without)
    release_memory()
    monkeypatch.undo()
    release_memory()
