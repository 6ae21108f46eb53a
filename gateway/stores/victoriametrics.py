"""VictoriaMetrics as a store: lines over its InfluxDB write API. The metrics are in gateway.stores.samples.

The server drops a row that comes twice where it is told to (-dedup.minScrapeInterval=1ms), and keeps both elsewhere. It
answers before the rows are on its disk: a kill takes what came in its last seconds (11 in version 1.79). So `write`
waits for `settle` after the answer, and then asks for a sign of life on the same connection: a server that was killed
in between cannot give it, and the readings are written again. (Behind a proxy that sign is the proxy's.)

It answers 204 for lines that it does not take, so what it would lose is sorted out before (dead letters). What it
cannot tell: which readings it had already; `StoreReport.duplicates` is always 0. No retry, no buffer here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

from gateway.contracts import Block, StoreReport
from gateway.errors import StoreUnavailable
from gateway.options import VictoriametricsOptions
from gateway.stores.lines import Lines
from gateway.stores.samples import Refused, Samples, count

LINES: Final = 10_000  # of one request

_NEVER: Final = (400, 413, 422)
"""Answers that will be the same for the same lines."""


class VictoriametricsStore:
    """One server as a Store. `set_aside` takes topic, payload and reason of what it would lose."""

    def __init__(self, options: VictoriametricsOptions, set_aside: Callable[[str, bytes, str], None]) -> None:
        self._options = options
        self._set_aside = set_aside
        self._samples = Samples()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="victoriametrics")
        self._closing = threading.Event()
        parts = urlsplit(options.url)
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._path = parts.path.rstrip("/")
        self._headers = _authorization(options)

    async def open(self) -> None:
        """Nothing to do: the server is first asked by the first write."""

    async def write(self, blocks: Sequence[Block]) -> StoreReport:
        """Store readings and gaps; when it returns they have settled, or are in the dead letters."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._write, blocks)

    async def close(self) -> None:
        """End the write in hand: what has not settled is written again another time."""
        self._closing.set()
        self._worker.shutdown()

    # ---------------------------------------------------------------- in the worker thread from here on

    def _write(self, blocks: Sequence[Block]) -> StoreReport:
        readings, gaps = count(blocks)
        if not readings and not gaps:
            return StoreReport(0, 0, 0)
        refused = Refused()
        connection = self._connection()
        try:
            connection.connect()
            for block in blocks:  # never more than a block's lines at once
                for request in self._samples.lines(block, refused).requests(LINES):
                    self._post(connection, request)
            if self._options.settle:
                self._settle(connection)
        except (OSError, http.client.HTTPException) as error:
            raise StoreUnavailable(f"{self._options.url}: not reached: {error!r}") from error
        finally:
            connection.close()
        for reason, lines in refused.lines.items():
            self._set_aside("victoriametrics", lines.text(), reason)
        return StoreReport(readings - refused.readings, 0, gaps)

    def _connection(self) -> http.client.HTTPConnection:
        made = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return made(self._host, self._port, timeout=self._options.timeout)

    def _post(self, connection: http.client.HTTPConnection, lines: Lines) -> None:
        connection.request("POST", f"{self._path}/influx/write?precision=ms", lines.text(), self._headers)
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace").strip()[:500]
        if answer.status >= 300:
            raise StoreUnavailable(
                f"{self._options.url}: {_advice(answer.status)}{answer.status} {answer.reason}: {said}",
                permanent=answer.status in _NEVER,
            )

    def _settle(self, connection: http.client.HTTPConnection) -> None:
        """Wait until the server has written what it took, and make sure that it still runs. Raises StoreUnavailable."""
        if self._closing.wait(self._options.settle):
            raise StoreUnavailable("closed before the readings had settled; they are written again")
        connection.auto_open = 0  # another connection would prove nothing
        with contextlib.suppress(http.client.HTTPException, OSError):
            connection.request("GET", f"{self._path}/health", headers=self._headers)
            if connection.getresponse().status < 500:
                return
        raise StoreUnavailable(
            f"{self._options.url}: went away before the readings had settled; they are written again"
        )


def _authorization(options: VictoriametricsOptions) -> dict[str, str]:
    if options.token:
        return {"Authorization": f"Bearer {options.token}"}
    if options.username:
        secret = base64.b64encode(f"{options.username}:{options.password}".encode()).decode()
        return {"Authorization": f"Basic {secret}"}
    return {}


def _advice(status: int) -> str:
    """Say what an operator is to do about this answer."""
    if status in (401, 403):
        return "not let in: check store.username and store.password, or store.token: "
    if status == 404:
        return "no InfluxDB write API there: check store.url: "
    if status in (429, 503):
        return "overloaded: "
    return ""
