from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.report.drawing import cost_ticks, log_ticks, short


@given(st.floats(1e-3, 1e9), st.floats(1, 1e6))
def test_ticks_enclose_what_is_drawn_and_leave_room_for_their_labels(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert ticks == sorted(ticks)
    assert len(ticks) >= 2
    assert ticks[0] <= low
    assert low * ratio <= ticks[-1]
    if ticks[-1] / ticks[0] >= 100:  # at least two decades: labels a factor of two apart would overlap
        assert all(b / a > 2.1 for a, b in zip(ticks, ticks[1:], strict=False))


def test_seconds_are_told_in_the_unit_that_suits() -> None:
    ticks, unit = cost_ticks(4.4, 200, "seconds")
    assert unit == "minutes"
    assert [short(tick, unit) for tick in ticks] == ["0.05 min", "1 min", "5 min"]
    assert cost_ticks(5, 60, "seconds")[1] == "seconds"
    assert cost_ticks(5, 8000, "seconds")[1] == "hours"


@pytest.mark.parametrize(("value", "word"), [(26_432_131, "26.4M"), (5_400, "5.4k"), (12, "12"), (2e9, "2B")])
def test_parameters_in_few_letters(value: float, word: str) -> None:
    assert short(value, "parameters") == word
