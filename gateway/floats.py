"""Doubles that are singles: most values come from float32 registers, and half the bytes are then enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def single_if_exact(value: NDArray[np.float64]) -> NDArray[np.float32] | None:
    """Give the column as float32 where that loses no bit (of NaNs either), else None."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        single: NDArray[np.float32] = value.astype("<f4")
    exact = np.array_equal(single.astype("<f8").view("<i8"), value.view("<i8"))
    return single if exact else None
