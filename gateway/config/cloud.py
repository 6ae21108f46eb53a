"""A cloud file to a Cloud: everything that ingest needs to know. All problems at once, as for a site."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from gateway.config import messages
from gateway.config.document import Mapping as Tree
from gateway.config.files import Files
from gateway.config.messages import Piece, check
from gateway.config.models import CloudFrame
from gateway.config.site import open_root, refuse_other, warn_in_the_clear
from gateway.config.tags import wanted_keys
from gateway.errors import ConfigError, Problem
from gateway.options import STORES, DuckdbOptions, IngestOptions, LogOptions, MetricsOptions, StoreOptions


@dataclass(frozen=True, slots=True)
class Cloud:
    """The cloud side's configuration, checked."""

    data: Path  # absolute
    broker: IngestOptions
    store: StoreOptions
    dead_letters: Path  # absolute; directory
    metrics: MetricsOptions
    log: LogOptions
    files: tuple[Path, ...]
    warnings: tuple[Problem, ...]


def load_cloud(path: Path) -> Cloud:
    """Read and check a cloud file. Raises ConfigError with every problem."""
    files = Files(path.parent)
    tree = open_root(path, files, "a cloud file has the keys broker and store")
    refuse_other(tree, path, "cloud")
    return cloud_of(tree, path, files)


def cloud_of(tree: Tree, path: Path, files: Files) -> Cloud:
    """Check the tree of a cloud file."""
    broker = None
    if isinstance(tree.get("broker"), Tree):
        broker, _ = check(IngestOptions, Piece(tree["broker"], ("broker",), tree.key_at("broker")), files)
    else:
        mark = tree.value_at("broker") if "broker" in tree else tree.mark
        place = ("broker",) if "broker" in tree else ()
        reason = (
            wanted_keys(tree["broker"], "url") if place else ("the key broker is missing", "broker: {url: mqtt://HOST}")
        )
        files.report(mark, place, *reason)
    if broker is not None:
        path_ = ("broker", "url")
        warn_in_the_clear(tree["broker"], broker.url, ("mqtt", "ws"), path_, "mqtts:// or wss://", files)
    store = _store(tree, files)
    url = getattr(store, "url", "")  # an embedded store has none
    if url:
        warn_in_the_clear(tree["store"], [str(url)], ("http",), ("store", "url"), "https://", files)
    options, _ = check(CloudFrame, Piece(tree, (), tree.mark, ("broker", "store")), files)
    problems = files.found()
    if options is None or broker is None or store is None or any(each.severity == "error" for each in problems):
        raise ConfigError(problems)
    data = (path.parent / options.data).absolute()
    return Cloud(
        data=data,
        broker=broker,
        store=store,
        dead_letters=data / options.dead_letters,
        metrics=options.metrics,
        log=options.log,
        files=(*files.read, *files.references.files),
        warnings=tuple(problems),
    )


def _store(tree: Tree, files: Files) -> StoreOptions | None:
    if "store" not in tree:
        return DuckdbOptions()
    mark, value_mark = tree.at("store")
    store = tree["store"]
    if not isinstance(store, Tree):
        files.report(value_mark, ("store",), *wanted_keys(store, "type: duckdb or type: influxdb"))
        return None
    kind = store.get("type")
    if "type" not in store:
        files.report(mark, ("store",), "the key type is missing", "type: duckdb or type: influxdb")
        return None
    if not isinstance(kind, str) or kind not in STORES:
        close = difflib.get_close_matches(str(kind).lower(), STORES, 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else ""
        reason = f"expected {_either()}, got {messages.shown(kind)}"
        files.report(store.value_at("type"), ("store", "type"), reason, hint)
        return None
    return check(STORES[kind], Piece(store, ("store",), mark), files)[0]


def _either() -> str:
    """Give the types of store as a choice in words."""
    *others, last = sorted(STORES)
    return f"{', '.join(others)} or {last}"
