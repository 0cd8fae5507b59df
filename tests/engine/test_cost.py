"""What a call costs is learned from calls."""

from __future__ import annotations

import pytest

from lagar.engine.cost import Cost


def test_the_line_is_found() -> None:
    cost = Cost()
    for rows in (1, 32, 1, 32, 100, 1):
        cost.learn(rows, 0.002 + rows * 0.0001)
    assert cost.of(1) == pytest.approx(0.0021)
    assert cost.of(1000) == pytest.approx(0.102)
    assert cost.rows_within(0.0121) == 101
    assert cost.rows_within(0.001) == 0


def test_one_pause_does_not_make_a_quick_model_slow() -> None:
    cost = Cost()
    for _ in range(50):
        cost.learn(1, 0.0001)
    cost.learn(1, 2.0)
    assert cost.of(1) < 0.0002


def test_a_model_that_became_slow_is_believed() -> None:
    cost = Cost()
    for _ in range(50):
        cost.learn(1, 0.0001)
    for _ in range(60):
        cost.learn(1, 0.005)
    assert cost.of(1) > 0.001


def test_calls_of_one_size_only_leave_the_price_of_a_row_unknown_not_negative() -> None:
    cost = Cost()
    for _ in range(5):
        cost.learn(10, 0.01)
    assert cost.of(10) == pytest.approx(0.01)
    assert cost.of(1000) == pytest.approx(0.01)
