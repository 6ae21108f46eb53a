"""InfluxDB 2 or 3, or whatever takes their v2 write API, as a store. The layout is in gateway.stores.lines.

InfluxDB replaces a row of the same series and time by itself, so a batch whose answer was lost is simply written
again. A batch that is refused (400: nothing of it was stored; 422: the sound lines were) is halved until the guilty
lines stand alone; they go to the dead letters, the rest is stored. What the operator has to mend (token, bucket) and
what passes (overload, restart, no network) is StoreUnavailable: nothing is lost, the broker keeps it.

What it cannot tell: which readings it had already; `StoreReport.duplicates` is always 0. What it cannot hold:
gateway.stores.lines says how numbers without a field type of their own are kept. No retry, no buffer here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import urllib3.exceptions
from influxdb_client import InfluxDBClient, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from gateway.contracts import Block, StoreReport
from gateway.errors import StoreUnavailable
from gateway.model import Gap
from gateway.options import InfluxdbOptions
from gateway.stores.lines import LineProtocol, Lines

LINES: Final = 10_000  # of one request, as InfluxData recommends
MOST_REFUSALS: Final = 200  # to find the guilty lines of one request; what is then in doubt is set aside whole
MOST_REFUSALS_AT_ALL: Final = 16  # where nothing of it was taken at all; enough to halve LINES down to one

_REFUSED: Final = (400, 422)
_TOO_LARGE: Final = 413

SetAside = Callable[[str, bytes, str], None]
"""Takes a topic, a payload and a reason: gateway.deadletters."""


class InfluxdbStore:
    """One bucket as a Store."""

    def __init__(self, options: InfluxdbOptions, set_aside: SetAside) -> None:
        self._options = options
        self._set_aside = set_aside
        self._lines = LineProtocol()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="influxdb")
        self._client: Any = None
        self._api: Any = None

    async def open(self) -> None:
        """Make the client; the server is first asked by the first write."""
        if self._client is None:
            self._client = InfluxDBClient(
                self._options.url,
                self._options.token,
                org=self._options.org,
                timeout=round(self._options.timeout * 1000),
                retries=False,
            )
            self._api = self._client.write_api(write_options=SYNCHRONOUS)

    async def write(self, blocks: Sequence[Block]) -> StoreReport:
        """Store readings and gaps; when it returns the server has taken them, or they are in the dead letters."""
        await self.open()
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._write, blocks)

    async def close(self) -> None:
        """Wait for the write in hand, and close the connections."""
        self._worker.shutdown()
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                self._api.close()
                client.close()

    # ---------------------------------------------------------------- in the worker thread from here on

    def _write(self, blocks: Sequence[Block]) -> StoreReport:
        written = refused = 0
        waiting = Lines()
        for block in blocks:  # never more than a block's lines at once: a line takes ten times the memory of a reading
            waiting.extend(self._lines.lines([block]))
            if len(waiting) >= LINES or block is blocks[-1]:
                for request in waiting.requests(LINES):
                    refused += self._deliver(request)
                    written += len(request)
                waiting = Lines()
        gaps = sum(isinstance(content, Gap) for block in blocks for content in block.contents)
        return StoreReport(max(0, written - gaps - refused), 0, gaps)

    def _deliver(self, lines: Lines) -> int:
        """Post lines; where they are refused, find the guilty ones and set them aside. Give how many those are."""
        waiting, taken, refusals, refused = [lines], 0, 0, 0
        while waiting:
            piece = waiting.pop()
            reason = self._post(piece.text())
            if not reason:
                taken += 1
                continue
            refusals += 1
            if len(piece) > 1 and refusals < (MOST_REFUSALS if taken else MOST_REFUSALS_AT_ALL):
                half = len(piece) // 2
                waiting += [piece.cut(half, len(piece)), piece.cut(0, half)]
                continue
            self._set_aside(f"influxdb:{self._options.bucket}", piece.text(), reason)
            refused += len(piece)
        return refused

    def _post(self, body: bytes) -> str:
        """Post a body; give why it was refused, or nothing. Raises StoreUnavailable."""
        where = f"{self._options.url}, bucket {self._options.bucket}"
        try:
            self._api.write(self._options.bucket, self._options.org, body, write_precision=WritePrecision.NS)
        except ApiException as error:
            if error.status in _REFUSED or error.status == _TOO_LARGE:
                return _said(error)
            raise StoreUnavailable(f"{where}: {_advice(error.status)}{_said(error)}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnavailable(f"{where}: not reached: {error}") from error
        return ""


def _said(error: Any) -> str:
    """Give the server's own words."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    return f"{error.status} {error.reason}: {body.strip()[:500]}"


def _advice(status: int) -> str:
    """Say what an operator is to do about this answer."""
    if status in (401, 403):
        return "the token is not accepted: check store.token, and that it may write to this bucket: "
    if status == 404:
        return "no such bucket or organisation, or no v2 write API there: check store.url, bucket and org: "
    if status in (429, 503):
        return "overloaded: "
    return ""
