"""Real servers of stores for tests: Debian's influxdb 1.6 and victoria-metrics, moto's S3; ports the system assigns."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import boto3
import orjson
import pytest

from tests.servers import free_port, need, wait_for_port


class Server:
    """One process with its data in a directory; started again it has the same port and data."""

    name = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, port: int) -> list[str]:
        raise NotImplementedError

    def start(self) -> Self:
        for _ in range(1 if self.port else 5):
            port = self.port or free_port()
            with (self.directory / "log").open("ab") as log:
                process = subprocess.Popen(self.command(port), stdout=log, stderr=log, cwd=self.directory)
            if wait_for_port(port, process, 60):
                self.port, self.process = port, process
                return self
            process.kill()
            process.wait()
        pytest.fail(f"{self.name} does not start:\n{(self.directory / 'log').read_text()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def get(self, path: str, **parameters: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}?{urlencode(parameters)}", timeout=30) as answer:
            said: bytes = answer.read()
            return said

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class InfluxDB(Server):
    """Debian's influxdb: the engine of 1.6, with /write and /query."""

    name = "influxdb"

    def command(self, port: int) -> list[str]:
        program = need("influxd")
        rpc = free_port()
        (self.directory / "influxdb.conf").write_text(
            f"""reporting-enabled = false
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{self.directory}/meta"
[data]
  dir = "{self.directory}/data"
  wal-dir = "{self.directory}/wal"
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
"""
        )
        return [program, "-config", str(self.directory / "influxdb.conf")]

    def create(self, database: str) -> None:
        """Make a database (what a bucket is in version 2)."""
        request = urllib.request.Request(f"{self.url}/query?q={quote(f'CREATE DATABASE {database}')}", method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()

    def query(self, database: str, text: str) -> list[dict[str, Any]]:
        """Ask in InfluxQL; a row per point, the tags of a GROUP BY among its columns; times in ns."""
        said = orjson.loads(self.get("/query", db=database, q=text, epoch="ns"))
        rows = []
        for result in said["results"]:
            if "error" in result:
                raise AssertionError(result["error"])
            for series in result.get("series", ()):
                tags = series.get("tags", {})
                rows += [{**tags, **dict(zip(series["columns"], row, strict=True))} for row in series["values"]]
        return rows


class Bucket(Server):
    """moto's S3 server, with one bucket; it keeps everything in memory, so that a stop empties it."""

    name = "moto_server"
    options: Final = {"access_key": "someone", "secret_key": "secret"}

    def command(self, port: int) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

    def start(self) -> Self:
        super().start()
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.options["access_key"],
            aws_secret_access_key=self.options["secret_key"],
        )
        self.client.create_bucket(Bucket="plant")
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.client.close()
        super().stop(how)

    def names(self, prefix: str) -> list[str]:
        """Give the names of the objects under a prefix."""
        found = self.client.list_objects_v2(Bucket="plant", Prefix=prefix)
        return sorted(entry["Key"] for entry in found.get("Contents", ()))

    def download(self, prefix: str, directory: Path) -> Path:
        """Put objects into a directory under their names, as any S3 tool would."""
        for key in self.names(prefix):
            place = directory / key
            place.parent.mkdir(parents=True, exist_ok=True)
            self.client.download_file("plant", key, str(place))
        return directory / prefix


class VictoriaMetrics(Server):
    """Debian's victoria-metrics."""

    name = "victoria-metrics"

    def command(self, port: int) -> list[str]:
        program = need("victoria-metrics")
        return [
            program,
            f"-httpListenAddr=127.0.0.1:{port}",
            f"-storageDataPath={self.directory}/data",
            "-retentionPeriod=100y",
            "-search.latencyOffset=0s",
            "-dedup.minScrapeInterval=1ms",
            "-search.disableCache",
        ]

    def export(self, match: str = '{__name__!=""}') -> list[dict[str, Any]]:
        """Give every series: its labels under `metric`, `values` and `timestamps` (ms)."""
        self.get("/internal/force_flush")
        return [orjson.loads(line) for line in self.get("/api/v1/export", **{"match[]": match}).splitlines()]

    def ask(self, question: str, time: float) -> list[float]:
        """Give the values of an instant query in PromQL, at a time in s."""
        said = orjson.loads(self.get("/api/v1/query", query=question, time=f"{time:.3f}"))
        return [float(result["value"][1]) for result in said["data"]["result"]]


class Postgres(Server):
    """Debian's PostgreSQL 15. It refuses to run as root: then it runs as `postgres`, in a directory that is its own."""

    name = "postgres"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._who: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(directory, owner.pw_uid, owner.pw_gid)
            self._who = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}

    def command(self, port: int) -> list[str]:
        program = postgres_program("postgres")
        data = self.directory / "data"
        if not (data / "PG_VERSION").exists():
            initdb = [postgres_program("initdb"), "-D", str(data), "-U", "plant", "-A", "trust", "-E", "UTF8", "-N"]
            subprocess.run([*initdb, "--locale=C"], check=True, stdout=subprocess.DEVNULL, cwd="/", **self._who)
        return [program, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", ""]

    def start(self) -> Self:
        for _ in range(1 if self.port else 5):
            port = self.port or free_port()
            command = self.command(port)
            with (self.directory / "log").open("ab") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._who)
            if wait_for_port(port, process, 60):
                self.port, self.process = port, process
                ready = [postgres_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-t", "5"]
                deadline = time.monotonic() + 60
                while subprocess.run(ready, check=False).returncode and time.monotonic() < deadline:
                    time.sleep(0.05)
                return self
            process.kill()
            process.wait()
        pytest.fail(f"{self.name} does not start:\n{(self.directory / 'log').read_text()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:  # SIGTERM waits for the clients to go
        super().stop(how)

    @property
    def url(self) -> str:
        return f"postgresql://plant@127.0.0.1:{self.port}/postgres"


def postgres_program(name: str) -> str:
    """Give one of PostgreSQL's programs; Debian keeps the server's out of the path."""
    return need(name, *(f"/usr/lib/postgresql/{version}/bin/{name}" for version in range(18, 12, -1)))
