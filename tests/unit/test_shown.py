"""What commands show of numbers."""

from __future__ import annotations

import pytest

from gateway.cli.shown import rate


@pytest.mark.parametrize(
    ("per_second", "text"), [(0, "0"), (0.01667, "0.0167"), (3.996, "4"), (99.97, "100"), (123456.7, "123457")]
)
def test_a_rate_is_as_exact_as_a_count_over_a_second(per_second: float, text: str) -> None:
    assert rate(per_second) == text
