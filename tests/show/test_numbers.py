"""Numbers for people."""

from __future__ import annotations

import pytest

from estimator.text import few_digits


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (123.4, 0, "123"),
        (123.4, 1, "123.4"),
        (9.95, 0, "10"),
        (9.94, 0, "9.9"),
        (1.0, 1, "1.0"),
        (0.0123, 0, "0.012"),
        (0.5, 2, "0.50"),
        (0.0, 0, "0"),
        (-3.21, 1, "-3.2"),
    ],
)
def test_two_significant_figures_below_ten(value: float, decimals: int, text: str) -> None:
    assert few_digits(value, decimals) == text
