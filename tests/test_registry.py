from __future__ import annotations

import pytest

from cotune.errors import ConfigError
from cotune.registry import Registry


def test_holds_and_lists_what_was_added() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("one", 1)

    @registry.register("double")
    def double(x: int) -> int:
        return 2 * x

    assert registry["one"] == 1
    assert registry["double"] is double
    assert list(registry) == ["one", "double"]
    assert len(registry) == 2
    assert "one" in registry
    assert "two" not in registry


def test_unknown_name_answers_with_the_nearest() -> None:
    registry: Registry[int] = Registry("fusion head")
    for name in ("attention", "concat", "reference"):
        registry.add(name, 0)
    with pytest.raises(ConfigError) as fault:
        registry["atention"]
    assert str(fault.value) == (
        "unknown fusion head 'atention' (did you mean 'attention'?); known are: attention, concat, reference"
    )
    with pytest.raises(ConfigError, match="unknown fusion head 'zzz'; known are"):
        registry["zzz"]


def test_a_name_can_be_taken_once() -> None:
    registry: Registry[int] = Registry("head")
    registry.add("one", 1)
    with pytest.raises(ConfigError, match="'one' is already registered"):
        registry.add("one", 2)
    assert registry["one"] == 1
