"""The time-series side. The table of names: what YAML calls a store, and how it is made; loaded when first used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gateway.contracts import Store
from gateway.options import DuckdbOptions, ParquetOptions, PostgresOptions, StoreOptions, VictoriametricsOptions


def open_store(options: StoreOptions, data: Path, set_aside: Callable[[str, bytes, str], None]) -> Store:
    """Make the store of a cloud file; no I/O. `data` is where relative paths begin; `set_aside` takes topic, payload
    and reason of what the store will never take (gateway.deadletters)."""
    if isinstance(options, DuckdbOptions):
        from gateway.stores.duckdb import DuckdbStore, Retention

        kept = Retention(options.retention, options.retention_minutes, options.retention_hours)
        return DuckdbStore(data / options.path, retention=kept, memory=options.memory)
    if isinstance(options, ParquetOptions):
        from gateway.stores.parquet import ParquetStore

        return ParquetStore(options, data)
    if isinstance(options, PostgresOptions):
        from gateway.stores.postgres import PostgresStore

        return PostgresStore(options)
    if isinstance(options, VictoriametricsOptions):
        from gateway.stores.victoriametrics import VictoriametricsStore

        return VictoriametricsStore(options, set_aside)
    from gateway.stores.influxdb import InfluxdbStore

    return InfluxdbStore(options, set_aside)
