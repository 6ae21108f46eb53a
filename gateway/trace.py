"""A trace: readings of many series with value, quality and time, exact to the bit. One form, in three kinds of file.

    time      ns since 1970, UTC          in Parquet and Arrow timestamp[ns], UTC is meant; in CSV ISO 8601 with a zone
                                          and up to nine digits of a second, or whole nanoseconds since 1970
    series    DEVICE/TAG, or any name
    type      float64, int64, uint64, bool, text: as what the value is held
    quality   OPC UA StatusCode, 32 bits  in CSV its name or number; nothing is Good
    value     none where quality is Bad   in Parquet and Arrow in the column named as its type, the others are null

    time,series,type,value,quality
    2026-11-01T08:00:00.123456789Z,press-1/parts,uint64,18446744073709551615,Good
    2026-11-01T08:00:01Z,press-1/parts,uint64,,BadTimeout

FILE.csv is what people and historians write: columns in any order, `type` and `quality` may be missing. Without a type
a value is kept as text until a tag says as what it holds it, and a Good row without a value is BadNoData. FILE.arrows
is an Arrow IPC stream, written as readings come; FILE.parquet needs DuckDB (extra `cloud`), and is made at the end of
FILE.parquet.part, such a stream. Rows may come in any order; rows of a series with one time stay in the file's order.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.model import Batch, Kind

FORMS: Final = (".csv", ".arrows", ".parquet")
CODES: Final = {
    q.name(code).lower(): code for name, code in vars(q).items() if name.isupper() and isinstance(code, int)
}
BOOLS: Final = {"true": True, "1": True, "false": False, "0": False}
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
HEADINGS: Final = ("time", "series", "type", "value", "quality")
CHUNK: Final = 20_000  # rows of a record batch
_FRACTION: Final = re.compile(r"[.,](\d{1,9})")


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One series in order of time. Without a kind its values are texts that nobody has given a type yet."""

    kind: Kind | None
    time: NDArray[np.int64]
    value: NDArray[Any]
    quality: NDArray[np.uint32]

    def values(self, kind: Kind) -> tuple[NDArray[Any], NDArray[np.uint32]]:
        """Give values as this kind and their qualities; what the kind cannot hold is BadTypeMismatch."""
        if self.kind is kind:
            return self.value, self.quality
        value = np.full(len(self.value), kind.nothing, dtype=kind.dtype)
        quality = self.quality.copy()
        for row, content in enumerate(self.value.tolist()):
            if quality[row] >= q.BAD:
                continue
            try:
                value[row] = parse(text_of(content), kind)
            except (ValueError, KeyError, OverflowError):
                quality[row] = q.BAD_TYPE_MISMATCH
        return value, quality


@dataclass(frozen=True, eq=False)
class Trace:
    """All series of a file. The last moment lasts as long as the one before it."""

    series: dict[str, Series]

    @cached_property
    def moments(self) -> NDArray[np.int64]:
        """The times that occur, in order."""
        return np.unique(np.concatenate([each.time for each in self.series.values()]))

    @property
    def first(self) -> int:
        """When it begins (ns)."""
        return int(self.moments[0])

    @property
    def length(self) -> int:
        """How long it lasts (ns)."""
        step = self.moments[-1] - self.moments[-2] if len(self.moments) > 1 else 10**9
        return int(self.moments[-1] - self.moments[0] + step)


def parse(text: str, kind: Kind) -> float | int | bool | str:
    """Read a value. Raises ValueError, KeyError."""
    match kind:
        case Kind.FLOAT:
            return float(text)
        case Kind.BOOL:
            return BOOLS[text.strip().lower()]
        case Kind.TEXT:
            return text
        case _:
            return int(text)


def text_of(value: Any) -> str:
    """Write a value so that `parse` gives the very same."""
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def quality_text(code: int) -> str:
    """Write a StatusCode: its name where that says all of it, else its number."""
    name = q.name(code)
    return name if CODES.get(name.lower()) == code else f"0x{code:08X}"


# ---------------------------------------------------------------------------------------------------- reading


def load(path: Path) -> Trace:
    """Read a file. Raises OSError where it cannot be read, ValueError where it makes no sense."""
    match path.suffix.lower():
        case ".arrows":
            columns = _arrow(path)
        case ".parquet":
            columns = _parquet(path)
        case _:
            return Trace(_csv(path))
    return Trace(_typed(path, columns))


def _csv(path: Path) -> dict[str, Series]:
    rows: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    kinds: dict[str, Kind | None] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"time", "series", "value"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path.name}: the first line must name the columns time, series, value")
        for row in reader:
            try:
                rows[row["series"]].append(_row(row, kinds))
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{path.name}:{reader.line_num}: {error}") from None
    if not rows:
        raise ValueError(f"{path.name}: there are no rows")
    series = {}
    for name, found in rows.items():
        found.sort(key=lambda row: row[0])
        time, text, quality = zip(*found, strict=True)
        plain = Series(None, np.array(time, np.int64), np.array(text, object), np.array(quality, np.uint32))
        if (known := kinds[name]) is None:
            series[name] = plain
        else:
            value, codes = plain.values(known)
            series[name] = Series(known, plain.time, value, codes)
    return series


def _row(row: dict[str, str], kinds: dict[str, Kind | None]) -> tuple[int, str, int]:
    """Give time, text and quality of a row; take note of the series' type. Raises ValueError, TypeError."""
    kind = Kind(row["type"]) if row.get("type") else None
    if kinds.setdefault(row["series"], kind) is not kind:
        raise ValueError(f"{row['series']} has another type than before")
    code = _quality(row.get("quality") or "")
    if code < q.BAD and not row["value"] and kind is not Kind.TEXT:
        code = q.BAD_NO_DATA
    return moment(row["time"]), row["value"], code


def moment(text: str) -> int:
    """Read a time: ISO 8601 with a zone, or whole nanoseconds since 1970. Raises ValueError."""
    if text.lstrip("-").isdigit():
        return int(text)
    fraction = _FRACTION.search(text)
    when = datetime.fromisoformat(_FRACTION.sub("", text, count=1))
    if when.tzinfo is None:
        raise ValueError(f"the time {text!r} has no zone: write Z or +01:00 behind it")
    since = when - EPOCH
    return (since.days * 86400 + since.seconds) * 10**9 + (int(fraction[1].ljust(9, "0")) if fraction else 0)


def _quality(text: str) -> int:
    text = text.strip() or "Good"
    code = CODES.get(text.lower())
    if code is None:
        try:
            code = int(text, 0)
        except ValueError:
            raise ValueError(f"unknown quality {text!r}") from None
    if not 0 <= code < 2**32:
        raise ValueError(f"the quality {text} is no StatusCode of 32 bits")
    return code


_Columns = dict[str, NDArray[Any]]
"""time, series, type, quality, and one column per kind; what is null in those may be anything."""


def _typed(path: Path, columns: _Columns) -> dict[str, Series]:
    if not len(columns["time"]):
        raise ValueError(f"{path.name}: there are no rows")
    names, number = np.unique(columns["series"].astype(str), return_inverse=True)
    order = np.lexsort((columns["time"], number))
    starts = np.searchsorted(number[order], np.arange(len(names) + 1))
    series = {}
    for index, name in enumerate(names.tolist()):
        rows = order[starts[index] : starts[index + 1]]
        types = set(columns["type"][rows].tolist())
        if len(types) > 1 or not types <= set(Kind):
            raise ValueError(f"{path.name}: {name} is of the types {', '.join(sorted(map(str, types)))}")
        kind = Kind(types.pop())
        quality = columns["quality"][rows].astype(np.uint32)
        value = columns[kind.value][rows].astype(kind.dtype)
        value[quality >= q.BAD] = kind.nothing
        series[name] = Series(kind, columns["time"][rows].astype(np.int64), value, quality)
    return series


def _arrow(path: Path) -> _Columns:
    from gateway.arrow import read_stream

    stream = read_stream(path.read_bytes())
    fields = [(field.name, field.type) for field in stream.fields]
    if fields != [*_FIELDS.items()]:
        raise ValueError(f"{path.name}: an Arrow stream with other columns than {', '.join(_FIELDS)}")
    columns = {}
    for index, (name, type_) in enumerate(fields):
        parts = [batch[index] for batch in stream.batches]
        dtype = {"timestamp[ns]": "int64", "string": "object", "bool": "bool"}.get(type_, type_)
        match type_:
            case "string":
                found = [np.array(part.texts(), object) for part in parts]
            case "bool":
                found = [part.bits(1) for part in parts]
            case _:
                found = [part.items(1, dtype, part.length) for part in parts]
        columns[name] = np.concatenate([np.zeros(0, dtype), *found])
    return columns


def _parquet(path: Path) -> _Columns:
    import duckdb

    others = ", ".join(f'"{name}"' for name in _FIELDS if name != "time")
    with path.open("rb"), duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        try:
            found = connection.execute(
                f"SELECT epoch_ns(time) AS time, {others} FROM read_parquet($file)", {"file": str(path)}
            ).fetchnumpy()
        except duckdb.Error as error:
            raise ValueError(f"{path.name}: {str(error).splitlines()[0]}") from error
    columns = {name: np.ma.getdata(column) for name, column in found.items()}
    texts = columns[Kind.TEXT.value]
    columns[Kind.TEXT.value] = np.where(np.ma.getmaskarray(found[Kind.TEXT.value]), "", texts)
    return columns


# ---------------------------------------------------------------------------------------------------- writing

_FIELDS: Final = {
    "time": "timestamp[ns]", "series": "string", "type": "string", "quality": "uint32",
    "float64": "float64", "int64": "int64", "uint64": "uint64", "bool": "bool", "text": "string",
}  # fmt: skip


class Writer:
    """Writes a file as readings come. Use as a context; the file is whole at its end."""

    def __init__(self, path: Path) -> None:
        """Begin the file. Raises OSError, ValueError where its name says no form."""
        self._form = path.suffix.lower()
        if self._form not in FORMS:
            raise ValueError(f"expected FILE{', FILE'.join(FORMS)}, got {path.name}")
        if self._form == ".parquet":
            import duckdb  # noqa: F401  told now where it is missing, and not when all is recorded
        self._path = path
        self.rows = 0
        if self._form == ".csv":
            self._text: TextIO = path.open("w", encoding="utf-8", newline="")
            self._csv = csv.writer(self._text, lineterminator="\n")
            self._csv.writerow(HEADINGS)
            return
        from nanoarrow.ipc import StreamWriter

        self._stream = path if self._form == ".arrows" else path.with_name(path.name + ".part")
        self._octets: BinaryIO = self._stream.open("wb")
        self._arrow = StreamWriter.from_writable(self._octets)
        self._waiting: list[tuple[Kind, list[str], Batch]] = []
        self._size = 0

    def write(self, batch: Batch) -> None:
        """Add a batch's rows; a series is named DEVICE/TAG."""
        names = [f"{batch.table.device}/{batch.table.tags[tag].name}" for tag in batch.tag.tolist()]
        self.rows += len(batch)
        if self._form == ".csv":
            columns = (names, batch.value.tolist(), batch.quality.tolist(), batch.time.tolist())
            for name, value, code, time in zip(*columns, strict=True):
                text = "" if code >= q.BAD else text_of(value)
                self._csv.writerow((_iso(time), name, batch.table.kind.value, text, quality_text(code)))
            return
        self._waiting.append((batch.table.kind, names, batch))
        self._size += len(batch)
        if self._size >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Hand over what was written so far to the file."""
        if self._form == ".csv":
            self._text.flush()
        elif self._waiting:
            self._arrow.write_array(_record_batch(self._waiting))
            self._waiting, self._size = [], 0
            self._octets.flush()

    def close(self) -> None:
        """End the file. Raises OSError."""
        if self._form == ".csv":
            self._text.close()
            return
        if self._waiting or not self.rows:
            self._arrow.write_array(_record_batch(self._waiting))
        self._arrow.close()
        self._octets.close()
        if self._form == ".parquet":
            _to_parquet(self._stream, self._path)
            self._stream.unlink()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _iso(time: int) -> str:
    seconds, rest = divmod(time, 10**9)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # a device's clock may say anything
        return str(time)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}Z" if rest else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _record_batch(parts: Sequence[tuple[Kind, list[str], Batch]]) -> Any:
    """Give the rows as one nanoarrow array."""
    import nanoarrow as na

    rows = sum(len(batch) for _, _, batch in parts)

    def column(of: Any, *buffers: Any, valid: NDArray[np.bool_] | None = None) -> Any:
        mask = None if valid is None else np.packbits(valid, bitorder="little")
        return na.c_array_from_buffers(of, rows, [mask, *buffers], null_count=0 if valid is None else -1)

    def texts(found: Sequence[str], valid: NDArray[np.bool_] | None = None) -> Any:
        encoded = [text.encode(errors="replace") for text in found]
        ends = np.zeros(rows + 1, np.int32)
        np.cumsum(np.fromiter(map(len, encoded), np.int32, rows), out=ends[1:])
        return column(na.string(), ends, b"".join(encoded), valid=valid)

    quality = np.concatenate([np.zeros(0, np.uint32), *(batch.quality for _, _, batch in parts)])
    kind = np.concatenate([np.zeros(0, np.int64), *(np.full(len(b), list(Kind).index(k)) for k, _, b in parts)])
    columns = {
        "time": column(
            na.timestamp("ns"), np.concatenate([np.zeros(0, np.int64), *(batch.time for _, _, batch in parts)])
        ),
        "series": texts([name for _, names, _ in parts for name in names]),
        "type": texts([kind.value for kind, names, _ in parts for _ in names]),
        "quality": column(na.uint32(), quality),
    }
    for index, each in enumerate(Kind):
        valid = (kind == index) & (quality < q.BAD)
        empty = each.nothing
        value = np.concatenate(
            [
                np.zeros(0, each.dtype),
                *(batch.value if of is each else np.full(len(batch), empty, each.dtype) for of, _, batch in parts),
            ]
        )
        if each is Kind.TEXT:
            columns[each.value] = texts([str(text) for text in value.tolist()], valid)
        elif each is Kind.BOOL:
            columns[each.value] = column(na.bool_(), np.packbits(value, bitorder="little"), valid=valid)
        else:
            columns[each.value] = column(getattr(na, each.value)(), np.ascontiguousarray(value), valid=valid)
    schema = na.struct({name: array.schema for name, array in columns.items()})
    return na.c_array_from_buffers(schema, rows, [None], children=list(columns.values()), null_count=0)


def _to_parquet(stream: Path, path: Path) -> None:
    """Make a Parquet file of an Arrow stream. Raises OSError."""
    import duckdb
    import nanoarrow as na
    from nanoarrow.ipc import InputStream

    with stream.open("rb") as octets, duckdb.connect() as connection:
        connection.register("rows", na.ArrayStream(InputStream.from_readable(octets)))
        target = str(path).replace("'", "''")
        try:
            connection.execute(f"COPY (FROM rows) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
        except duckdb.Error as error:
            raise OSError(f"{error}; the readings are in {stream}") from error
