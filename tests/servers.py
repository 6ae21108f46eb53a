"""Real servers for tests, started on ports the system assigns, in directories of their own.

A test that lacks its server is skipped with a line saying so; in CI (CI=true) that is a failure, because a proof that
nobody ran is no proof. Every class here starts, stops (SIGTERM), kills (-9), pauses (SIGSTOP) and resumes one process,
and starts again on the same port with the same data.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest


def need(program: str, *places: str) -> str:
    """Give the path of a system program; skip the test where it is missing, fail it in CI."""
    found = shutil.which(program) or next((place for place in places if Path(place).exists()), None)
    if found is None:
        missing(program)
    return found  # type: ignore[return-value]


def missing(program: str) -> None:
    """Skip because of a missing server, or fail in CI."""
    text = f"{program} is not installed on this machine: `make servers` installs it where it can"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)


def free_port() -> int:
    """Give a TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(
    port: int, process: subprocess.Popen[bytes] | None = None, seconds: float = 30.0, host: str = "127.0.0.1"
) -> bool:
    """Wait until something accepts on the port; False where the process ended or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            return False
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
            return True
        time.sleep(0.02)
    return False


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of a small public key infrastructure: an authority, a server for 127.0.0.1 and localhost, a client."""

    ca: str
    certificate: str
    key: str
    client_certificate: str
    client_key: str


class Mosquitto:
    """A mosquitto broker. Use as a context manager, or start and stop it.

    `persistence` makes it keep sessions, retained and queued messages over a kill. `users` turns passwords on,
    `acl` is the text of an access file, `tls` serves MQTT over TLS (with `client_certificates` required of clients),
    `websockets` serves it in WebSocket frames, `lines` are added to the configuration.
    """

    def __init__(
        self,
        directory: Path,
        *,
        persistence: bool = False,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        tls: Certificates | None = None,
        client_certificates: bool = False,
        websockets: bool = False,
        address: str = "127.0.0.1",
        lines: Sequence[str] = (),
    ) -> None:
        self._program = need("mosquitto", "/usr/sbin/mosquitto")
        self.directory = directory
        self.port = 0
        self.plain = 0  # a port for MQTT without TLS beside that for WebSockets
        self.process: subprocess.Popen[bytes] | None = None
        self._scheme = ("wss" if tls else "ws") if websockets else "mqtts" if tls else "mqtt"
        self._address = address
        directory.mkdir(parents=True, exist_ok=True)
        settings = [*(["user root"] if os.getuid() == 0 else []), "log_dest stderr", "max_queued_messages 0", *lines]
        settings += [f"allow_anonymous {'false' if users else 'true'}"]
        if websockets:
            settings += ["protocol websockets"]
        if persistence:
            settings += ["persistence true", f"persistence_location {directory}/", "autosave_interval 1"]
            settings += ["autosave_on_changes true"]
        if users:
            passwords = directory / "passwords"
            passwords.write_text("".join(f"{user}:{word}\n" for user, word in users.items()))
            passwords.chmod(0o600)
            subprocess.run([need("mosquitto_passwd"), "-U", str(passwords)], check=True, capture_output=True)
            settings += [f"password_file {passwords}"]
        if acl is not None:
            (directory / "acl").write_text(acl)
            (directory / "acl").chmod(0o600)
            settings += [f"acl_file {directory}/acl"]
        if tls:
            settings += [f"cafile {tls.ca}", f"certfile {tls.certificate}", f"keyfile {tls.key}"]
            settings += [f"require_certificate {'true' if client_certificates else 'false'}"]
        self._settings = settings

    def forget(self) -> None:
        """Lose the disk, while it does not run: sessions, retained and queued messages."""
        (self.directory / "mosquitto.db").unlink(missing_ok=True)

    @property
    def url(self) -> str:
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"{self._scheme}://{host}:{self.port}"

    @property
    def log(self) -> str:
        """All that the broker has said."""
        return (self.directory / "mosquitto.log").read_text(errors="replace")

    def start(self) -> Self:
        """Start it, on the same port as before where there was a start before; returns when it accepts."""
        attempts = 1 if self.port else 5  # a fresh port may be taken between finding and binding it
        for _ in range(attempts):
            port = self.port or free_port()
            configuration = self.directory / "mosquitto.conf"
            # the listener comes first: TLS settings belong to the listener before them
            # and 2.0.11 ends where all its listeners are WebSockets
            self.plain = free_port() if self._scheme.startswith("ws") else 0
            plain = [f"listener {self.plain} 127.0.0.1"] if self.plain else []
            own = f"listener {port} {self._address}"
            configuration.write_text("\n".join(["per_listener_settings false", *plain, own]))
            with configuration.open("a") as file:
                file.write("\n" + "\n".join(self._settings) + "\n")
            with (self.directory / "mosquitto.log").open("ab") as log:
                process = subprocess.Popen([self._program, "-v", "-c", str(configuration)], stdout=log, stderr=log)
            if wait_for_port(port, process, host=self._address):
                self.port, self.process = port, process
                return self
            process.kill()
            process.wait()
        pytest.fail(f"mosquitto does not start:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """End it in order (SIGTERM). Nothing where it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Stop and start on the same port."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Make it silent with its sockets open (SIGSTOP): the kernel still accepts and acknowledges bytes."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End the silence (SIGCONT)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a paused process takes SIGTERM only when it runs
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A plain broker; import this fixture in the test module that uses it."""
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


def certificates(directory: Path) -> Certificates:
    """Make a fresh authority, and certificates of a server and a client, valid for a day."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def write_key(key: ec.EllipticCurvePrivateKey, path: Path) -> str:
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(key.private_bytes(*form))
        path.chmod(0o600)
        return str(path)

    def builder(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("PlantBridge test authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )

    def write_certificate(made: x509.CertificateBuilder, path: Path) -> str:
        path.write_bytes(made.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return str(path)

    ca_key, server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    authority = builder("PlantBridge test authority", ca_key).add_extension(x509.BasicConstraints(True, 0), True)
    server = (
        builder("localhost", server_key)
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            False,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    )
    client = builder("edge", client_key).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
    return Certificates(
        ca=write_certificate(authority.add_extension(usage, True), directory / "ca.pem"),
        certificate=write_certificate(server, directory / "server.pem"),
        key=write_key(server_key, directory / "server.key"),
        client_certificate=write_certificate(client, directory / "client.pem"),
        client_key=write_key(client_key, directory / "client.key"),
    )
