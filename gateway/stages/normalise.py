"""Normalise: raw values to engineering values, and to the quality they deserve.

value = raw * scale + offset is computed as (raw * A + B) / C with integers A, B and C, so that a decimal scale gives
the decimal that an engineer expects: 231 * 0.1 is 23.1. Then, in this order: a raw value that means "not available"
is Bad, NaN and infinity are Bad, a number outside min..max is Uncertain (or Bad, or clamped), and an enumeration's
number without a name is Uncertain. A row that is Bad has no value, whatever the driver left in its column.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.contracts import Stage
from gateway.model import EXACT, Batch, Kind, TagTable

_NUMERIC: Final = (Kind.FLOAT, Kind.INT, Kind.UINT)
_MODES: Final = {"uncertain": 0, "bad": 1, "clamp": 2}


def _terms(scale: Fraction, offset: Fraction) -> tuple[float, float, float]:
    """Give A, B, C with raw * scale + offset == (raw * A + B) / C, exact where they fit float64."""
    a = scale.numerator * offset.denominator
    b = offset.numerator * scale.denominator
    c = scale.denominator * offset.denominator
    common = gcd(gcd(a, b), c)
    a, b, c = a // common, b // common, c // common
    if max(abs(a), abs(b), c) >= EXACT:
        return float(scale), float(offset), 1.0
    return float(a), float(b), float(c)


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """A table's settings for this stage; None where no tag of the table needs the step."""

    scaled: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None
    nothing: tuple[tuple[NDArray[np.bool_], Any], ...]  # (which tags, the raw value that means none)
    limits: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8]] | None
    states: tuple[NDArray[np.bool_], NDArray[np.int64]] | None  # (which tags, sorted tag << 32 | number)


def _compile(table: TagTable) -> _Columns:
    tags = table.tags
    numeric = table.kind in _NUMERIC
    scaled = None
    if table.kind is Kind.FLOAT and any(tag.scale != 1 or tag.offset != 0 for tag in tags):
        a, b, c = np.array([_terms(tag.scale, tag.offset) for tag in tags], dtype=np.float64).T.copy()
        scaled = (a, b, c)
    absent = sorted({value for tag in tags for value in tag.not_available}) if numeric else []
    nothing = tuple((np.array([value in tag.not_available for tag in tags]), value) for value in absent)
    limits = None
    judged = [tag for tag in tags if "range" not in tag.said]  # a range that the device says is no limit of ours
    if numeric and any(np.isfinite(tag.minimum) or np.isfinite(tag.maximum) for tag in judged):
        limits = (
            np.array([-np.inf if "range" in tag.said else tag.minimum for tag in tags]),
            np.array([np.inf if "range" in tag.said else tag.maximum for tag in tags]),
            np.array([_MODES[tag.out_of_range] for tag in tags], dtype=np.uint8),
        )
    states = None
    if numeric and any(tag.states for tag in tags):
        keys = sorted(_state_key(index, number) for index, tag in enumerate(tags) for number, _ in tag.states)
        states = (np.array([bool(tag.states) for tag in tags]), np.array(keys, dtype=np.int64))
    return _Columns(scaled, nothing, limits, states)


def _state_key(index: int, number: int) -> int:
    return (index << 32) + (number & 0xFFFFFFFF)


def normalise(table: TagTable) -> Stage:
    """Give the stage for one table. It does not change the batch it is given."""
    columns = _compile(table)

    def stage(batch: Batch) -> Batch:
        full = batch.tag is table.every
        value, quality = batch.value, batch.quality

        def of(column: NDArray[Any]) -> NDArray[Any]:
            return column if full else column[batch.tag]

        raw = value
        if columns.scaled is not None:
            a, b, c = columns.scaled
            value = (raw * of(a) + of(b)) / of(c)
        bad = q.is_bad(quality)
        if columns.nothing:
            for which, absent in columns.nothing:
                quality = np.where(of(which) & (raw == absent) & ~bad, np.uint32(q.BAD_NO_DATA), quality)
            bad = q.is_bad(quality)
        if table.kind is Kind.FLOAT and not np.isfinite(value).all():
            quality = np.where(np.isnan(value) & ~bad, np.uint32(q.BAD_NO_DATA), quality)
            quality = np.where(np.isinf(value) & ~bad, np.uint32(q.BAD_OUT_OF_RANGE), quality)
            bad = q.is_bad(quality)
        if columns.limits is not None:
            low, high, mode = columns.limits
            value, quality = _limit(value, quality, bad, of(low), of(high), of(mode))
            bad = q.is_bad(quality)
        if columns.states is not None:
            which, keys = columns.states
            quality = _name_states(batch.tag, raw, quality, of(which) & ~bad, keys)
        if bad.any():
            value = np.where(bad, table.kind.nothing, value).astype(table.kind.dtype, copy=False)
        return Batch(table, batch.tag, value, quality, batch.time, batch.backfill)

    return stage


def _limit(
    value: NDArray[Any],
    quality: NDArray[np.uint32],
    bad: NDArray[np.bool_],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    mode: NDArray[np.uint8],
) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    outside = ((value < low) | (value > high)) & ~bad
    if not outside.any():
        return value, quality
    good = q.is_good(quality)
    uncertain = np.where(good, np.uint32(q.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED), quality)
    clamped = np.where(good, np.uint32(q.GOOD_CLAMPED), quality)
    choices = np.select(
        [mode == _MODES["bad"], mode == _MODES["clamp"]],
        [np.full_like(quality, q.BAD_OUT_OF_RANGE), clamped],
        uncertain,
    )
    quality = np.where(outside, choices, quality)
    move = outside & (mode == _MODES["clamp"])
    if move.any():
        value = np.where(move, np.clip(value, low, high), value).astype(value.dtype, copy=False)
    return value, quality


def _name_states(
    tag: NDArray[np.uint32],
    raw: NDArray[Any],
    quality: NDArray[np.uint32],
    which: NDArray[np.bool_],
    keys: NDArray[np.int64],
) -> NDArray[np.uint32]:
    rows = np.flatnonzero(which)
    number = raw[rows]
    whole = (np.abs(number) < 2**31) & (number == np.floor(number))
    key = (tag[rows].astype(np.int64) << 32) + (np.where(whole, number, 0).astype(np.int64) & 0xFFFFFFFF)
    place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
    unnamed = rows[(~whole | (keys[place] != key)) & q.is_good(quality[rows])]
    if len(unnamed):
        quality = quality.copy()
        quality[unnamed] = q.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED
    return quality
