"""Apache Kafka for tests: one broker without ZooKeeper, on loopback, from the jars that tests/kafka/pom.xml names.

Maven fetches them once (46 MB) into pytest's cache directory. Without Java, Maven or its registry the tests are skipped
with a line saying so, also in CI: no Debian package has Kafka, and nothing else of the product needs Java.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Self

import pytest

from tests.nats_servers import free_ports
from tests.servers import wait_for_port

_HERE = Path(__file__).parent / "kafka"
_CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache"
_JAVA = ["java", "-Xmx256m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
log.dirs={directory}/data
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
"""


def _jars() -> Path:
    if shutil.which("java") is None or shutil.which("mvn") is None:
        pytest.skip("Kafka is not tested: it needs java and mvn, which are not on this machine")
    pom = _HERE / "pom.xml"
    place = _CACHE / f"kafka-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as guard:  # several test processes may come at once
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (place / "done").exists():
            command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
            done = subprocess.run(
                [*command, f"-DoutputDirectory={place}"], capture_output=True, text=True, timeout=240, check=False
            )
            if done.returncode:
                pytest.skip(f"Kafka is not tested: Maven could not fetch it: {done.stdout[-300:]}")
            (place / "done").touch()
    return place


class KafkaServer:
    """One broker. Killed and started again it has the same port and data."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, controller = free_ports(2)
        self._java = [*_JAVA, "-cp", f"{_jars()}/*"]
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / "server.properties"
        self._file.write_text(_PROPERTIES.format(port=self.port, controller=controller, directory=directory))
        formatted = [*self._java, "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw"]
        subprocess.run([*formatted, "-c", str(self._file)], check=True, capture_output=True, timeout=120)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        with (self.directory / "output").open("ab") as out:
            self.process = subprocess.Popen([*self._java, "kafka.Kafka", str(self._file)], stdout=out, stderr=out)
        wait_for_port(self.port, self.process, 90.0)
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.kill()
