from __future__ import annotations

import abc
from typing import Any

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


class Part(abc.ABC):
    @abc.abstractmethod
    def work(self) -> int: ...


class Whole(Part):
    def work(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("item", "problem"),
    [(3, "is 3, expected a subclass of"), (int, "expected a subclass of"), (Whole(), "expected a subclass of"),
     (Part, "lacks work")],
)  # fmt: skip
def test_what_is_no_such_part_is_refused_when_it_is_added(item: Any, problem: str) -> None:
    registry: Registry[Any] = Registry("fusion head", base=lambda: Part)
    registry.add("whole", Whole)
    with pytest.raises(ConfigError, match=f"the fusion head 'mine' .*{problem}"):
        registry.add("mine", item)
    assert "mine" not in registry


def test_a_class_in_place_of_an_instance_is_refused() -> None:
    registry: Registry[Any] = Registry("encoder source", base=lambda: Part, instances=True)
    registry.add("whole", Whole())
    with pytest.raises(ConfigError, match="the encoder source 'mine' .*expected an instance of"):
        registry.add("mine", Whole)
