"""A prefix of an S3-like bucket in the place of a folder of Parquet files (gateway.stores.folder).

    s3://BUCKET/PREFIX/readings/gateway=<G>/day=<YYYY-MM-DD>/part-<n>.parquet    as in a folder
    s3://BUCKET/PREFIX/.plantbridge-owner    which ingest writes here: the id in its data directory's bucket-owner

An object appears whole or not at all, so a part is written as in a folder: the last part of a day is fetched, written
anew with the new rows in it, and put under the same name. The working copy is a directory of this machine; what the
bucket has is the truth. A part is trusted where this process fetched or put it and has not touched it since, so a put
that failed or whose answer was lost is simply begun again from what the bucket has. The copy begins empty with each
process and holds the days of the last move only.

S3 has no locks: the owner's object keeps a second ingest out, since two would replace each other's parts. Credentials
are those of the options, else of the environment (AWS_ACCESS_KEY_ID, ...) or of the machine's role. Every failure is
StoreUnavailable: no retry but obstore's one at once.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from gateway import durable
from gateway.errors import StoreUnavailable, first_line
from gateway.options import ParquetOptions

OWNER: Final = ".plantbridge-owner"

_NO_BUCKET: Final = "NoSuchBucket"

_Stamp = tuple[str | None, int, int]
"""What is known of a part that is the same here and there: its entity tag, and the file's time and size."""


class Bucket:
    """One prefix, by one ingest. `copy` is the working copy's directory; `identity` the file with this ingest's id."""

    def __init__(self, options: ParquetOptions, copy: Path, identity: Path) -> None:
        self._options = options
        self._copy = copy
        self._identity = identity
        self._same: dict[Path, _Stamp] = {}
        self._touched: set[Path] = set()
        self._store: Any = None

    def open(self) -> None:
        """Take the prefix, and begin the working copy. Raises StoreUnavailable."""
        if self._store is not None:
            return
        with self._translated():
            store = _store(self._options)
            self._take(store)
        for kind in ("readings", "gaps"):
            shutil.rmtree(self._copy / kind, ignore_errors=True)
        self._store = store

    def fetch(self, directory: Path) -> None:
        """Have the parts of a directory of the working copy as they are in the bucket."""
        directory.mkdir(parents=True, exist_ok=True)
        self._touched.add(directory)
        with self._translated():
            there = {
                self._copy / meta["path"]: meta for page in self._store.list(self._key(directory)) for meta in page
            }
            for part, meta in there.items():
                if not self._is_same(part, meta["e_tag"]):
                    with part.open("wb") as file:
                        for piece in self._store.get(meta["path"]).stream():
                            file.write(piece)
                    self._note(part, meta["e_tag"])
        for part in set(_parts(directory)) - set(there):
            part.unlink()

    def put(self, directory: Path) -> None:
        """Have the parts of a directory in the bucket as they are in the working copy."""
        with self._translated():
            for part in _parts(directory):
                known = self._same.get(part)
                if known is None or not self._is_same(part, known[0]):
                    tag = self._store.put(self._key(part), part)["e_tag"]
                    self._note(part, tag)

    def tidy(self) -> None:
        """Let go of the working copy's directories that no move has touched since the last tidying."""
        for directory in {part.parent for part in self._same} - self._touched:
            shutil.rmtree(directory, ignore_errors=True)
        self._same = {part: stamp for part, stamp in self._same.items() if part.parent in self._touched}
        self._touched.clear()

    def _is_same(self, part: Path, tag: str | None) -> bool:
        return part in self._same and self._same[part] == _stamp(part, tag)

    def _note(self, part: Path, tag: str | None) -> None:
        stamp = _stamp(part, tag)
        if stamp is not None:
            self._same[part] = stamp

    def _key(self, path: Path) -> str:
        return path.relative_to(self._copy).as_posix()

    def _take(self, store: Any) -> None:
        """Make sure that no other ingest writes here. Raises StoreUnavailable."""
        if not self._identity.exists():
            durable.write(self._identity, uuid.uuid4().hex.encode())
        mine = self._identity.read_bytes()
        owner = _owner(store)
        if owner is None:
            store.put(OWNER, mine)
            owner = _owner(store)
        if owner != mine:
            raise StoreUnavailable(
                f"another ingest writes to {self._options.path}: give each a prefix of its own. If that one is gone for"
                f" good, delete the object {OWNER} there"
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        where = self._options.path
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StoreUnavailable(
                f"{where}: access is refused: check store.access_key and secret_key, and that they may list, read and"
                f" write there: {first_line(error)}"
            ) from error
        except (BaseError, OSError) as error:
            if _NO_BUCKET in str(error):
                raise StoreUnavailable(f"{where}: there is no such bucket") from error
            raise StoreUnavailable(f"{where}: {first_line(error)}") from error


def _store(options: ParquetOptions) -> Any:
    bucket, _, prefix = options.path.removeprefix("s3://").partition("/")
    given: dict[str, Any] = {
        "endpoint": options.endpoint,
        "access_key_id": options.access_key,
        "secret_access_key": options.secret_key,
    }
    seconds = datetime.timedelta(seconds=options.timeout)
    return S3Store(
        bucket,
        prefix=prefix.strip("/") or None,
        region=options.region,
        virtual_hosted_style_request=options.bucket_in_host,
        client_options={
            "allow_http": (options.endpoint or "").startswith("http://"),
            "timeout": seconds,
            "connect_timeout": seconds,
        },
        retry_config={"max_retries": 1, "retry_timeout": seconds},
        **{name: value for name, value in given.items() if value},
    )


def _owner(store: Any) -> bytes | None:
    try:
        return bytes(store.get(OWNER).bytes())
    except FileNotFoundError as error:
        if _NO_BUCKET in str(error):
            raise
        return None


def _parts(directory: Path) -> list[Path]:
    return sorted(directory.glob("part-*.parquet"))


def _stamp(part: Path, tag: str | None) -> _Stamp | None:
    try:
        found = part.stat()
    except FileNotFoundError:
        return None
    return tag, found.st_mtime_ns, found.st_size
