"""The ways to a broker: TCP, TLS, WebSocket, IPv6, source address, pinned certificates, several brokers."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import re
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.errors import SinkUnavailable
from gateway.mqtt import Connection
from gateway.options import MqttOptions
from simulators.broker import EmbeddedBroker
from tests.servers import Certificates, Mosquitto, certificates, free_port
from tests.unit.test_mqtt_connection import Inbox, connected, options, refusal


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("pki"))


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("way", ["mqtt", "mqtts", "ws", "wss"])
async def test_large_and_small_messages_go_both_ways(way: str, version: str, tmp_path: Path, pki: Certificates) -> None:
    secured = way in ("mqtts", "wss")
    with Mosquitto(tmp_path / "m", tls=pki if secured else None, websockets=way.startswith("ws")) as broker:
        assert broker.url.startswith(way + ":")
        small, large = Inbox(), Inbox()
        tls = {"ca": pki.ca} if secured else None
        # mosquitto 2.0.11 sends 40 kB/s to a WebSocket, so the large ones are read without
        reader_url = f"mqtt://127.0.0.1:{broker.plain}" if broker.plain else broker.url
        reader_tls = None if broker.plain else tls
        async with (
            connected(broker, version=version, tls=tls, on_message=small) as connection,
            connected(reader_url, "reader", version=version, tls=reader_tls, on_message=large) as reader,
        ):
            small.acknowledge, large.acknowledge = connection.acknowledge, reader.acknowledge
            await connection.subscribe(["small"], timeout=20)
            await reader.subscribe(["large"], timeout=20)
            some = [bytes([n]) * n for n in range(30)]
            much = [bytes([n]) * 300_000 for n in range(30)]
            await asyncio.gather(
                *(connection.publish("small", each, timeout=60) for each in some),
                *(connection.publish("large", each, timeout=60) for each in much),
            )
            assert [message.payload for message in await small.wait(30)] == some
            assert [message.payload for message in await large.wait(30)] == much


async def test_a_silent_websocket_holds_nothing_up_and_loses_nothing(tmp_path: Path) -> None:
    """What the kernel does not take is sent when it does, whole frames or not."""
    with Mosquitto(tmp_path / "m", websockets=True) as broker:
        async with connected(broker) as connection:
            broker.pause()
            sent = [asyncio.ensure_future(connection.publish("a", b"x" * 250_000, timeout=60)) for _ in range(40)]
            while not connection._client.want_write():  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
            broker.resume()
            assert {answer.refused for answer in await asyncio.gather(*sent)} == {False}


async def test_a_port_without_a_websocket_says_so(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m") as broker:
        assert "ws://127.0.0.1" in await refusal(broker.url.replace("mqtt:", "ws:"), connect_timeout="5 s")

    async def not_found(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(not_found, "127.0.0.1", 0)
    async with server:
        text = await refusal(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/other")
        assert "no WebSocket for MQTT there" in text
        assert "404" in text


@pytest.mark.parametrize("wss", [False, True])
async def test_a_client_certificate_password_and_name_open_the_door_over_websockets_too(
    wss: bool, tmp_path: Path, pki: Certificates
) -> None:
    with Mosquitto(
        tmp_path / "m", tls=pki, client_certificates=True, websockets=wss, users={"edge": "secret"}
    ) as broker:
        assert str(broker.port) in await refusal(broker, tls={"ca": pki.ca}, username="edge", password="secret")
        own = {"ca": pki.ca, "certificate": pki.client_certificate, "key": pki.client_key}
        assert "check username" in await refusal(broker, tls=own, username="edge", password="wrong")
        async with connected(broker, tls=own, username="edge", password="secret") as connection:
            assert connection.connected


async def test_an_encrypted_key_needs_its_password_and_asks_nobody(tmp_path: Path, pki: Certificates) -> None:
    key = serialization.load_pem_private_key(Path(pki.client_key).read_bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"open sesame")))
    own = {"ca": pki.ca, "certificate": pki.client_certificate, "key": str(locked)}
    with Mosquitto(tmp_path / "m", tls=pki, client_certificates=True) as broker:
        for word in ("", "wrong"):
            text = await refusal(broker, tls={**own, "key_password": word})
            assert "TLS failed" in text or "encrypted" in text
        async with connected(broker, tls={**own, "key_password": "open sesame"}) as connection:
            assert connection.connected


async def test_ipv6(tmp_path: Path) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with Mosquitto(tmp_path / "m", address="::1") as broker:
        async with connected(broker) as connection:
            assert str(connection.endpoint) == f"mqtt://[::1]:{broker.port}"
            assert not (await connection.publish("a", b"x", timeout=20)).refused


async def test_the_connection_leaves_by_the_chosen_source_address(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m") as broker:
        async with connected(broker, source="127.0.0.2") as connection:
            assert not (await connection.publish("a", b"x", timeout=20)).refused
        assert "New client connected from 127.0.0.2" in broker.log
        assert "no address of this machine" in await refusal(broker, source="192.0.2.1")
        with pytest.raises(ValueError, match="an IP address of this machine"):
            options(broker, source="eth0")


# ------------------------------------------------------------------------------------------------ certificates


async def test_a_self_signed_broker_is_refused_with_its_fingerprint_and_trusted_when_that_is_pinned(
    tmp_path: Path,
) -> None:
    own = self_signed(tmp_path / "own")
    fingerprint = fingerprint_of(own.certificate)
    with Mosquitto(tmp_path / "m", tls=own) as broker:
        text = await refusal(broker)
        assert fingerprint in text
        assert "tls.fingerprint" in text
        for written in (fingerprint, fingerprint.lower().replace(":", ""), f"SHA256 Fingerprint={fingerprint}"):
            async with connected(broker, tls={"fingerprint": written}) as connection:
                assert connection.connected
        both = ["0" * 64, fingerprint]  # the old one and the new one, while certificates are exchanged
        async with connected(broker, tls={"fingerprint": both}) as connection:
            assert connection.connected


async def test_another_certificate_than_the_pinned_one_is_refused_with_its_fingerprint(
    tmp_path: Path, pki: Certificates
) -> None:
    own = self_signed(tmp_path / "own")
    with Mosquitto(tmp_path / "m", tls=pki) as broker:
        connection = Connection(options(broker, tls={"fingerprint": fingerprint_of(own.certificate)}), client_id="t")
        with pytest.raises(SinkUnavailable) as caught:
            await connection.open()
        assert fingerprint_of(pki.certificate) in str(caught.value)
        assert "not the pinned one" in str(caught.value)
        assert connection.act
        pinned = {"fingerprint": fingerprint_of(pki.certificate)}
        async with connected(broker, tls={"ca": pki.ca, **pinned}) as both:
            assert both.connected
        other = certificates(tmp_path / "other")
        assert "not accepted" in await refusal(broker, tls={"ca": other.ca, **pinned})  # both must hold


@pytest.mark.parametrize("wrong", ["", "abc", "g" * 64, "0" * 63, "sha1:" + "0" * 40, 5])
def test_a_fingerprint_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"64 hexadecimal digits|valid string|valid tuple"):
        options("mqtts://b", tls={"fingerprint": wrong})


async def test_tls_older_than_1_2_is_refused(tmp_path: Path, pki: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.certificate, pki.key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with tls_server(context) as port:
        assert "TLS failed" in await refusal(f"mqtts://localhost:{port}", tls={"ca": pki.ca})


# ------------------------------------------------------------------------------------------------ several brokers


async def test_brokers_are_tried_in_order_and_each_connection_begins_with_the_first(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "a") as a, Mosquitto(tmp_path / "b") as b:
        urls = [a.url, b.url]
        async with opened(urls) as connection:
            assert connection.number == 0
        a.kill()
        async with opened(urls) as connection:
            assert str(connection.endpoint) == b.url
            assert not (await connection.publish("a", b"x", timeout=20)).refused
        a.start()
        async with opened(urls) as connection:
            assert connection.number == 0
        async with opened(urls, first=1) as connection:
            assert connection.number == 1
        b.kill()
        async with opened(urls, first=1) as connection:
            assert connection.number == 0


async def test_a_list_of_which_none_answers_tells_of_each() -> None:
    urls = [f"mqtt://127.0.0.1:{free_port()}", f"ws://127.0.0.1:{free_port()}"]
    connection = Connection(MqttOptions(url=urls), client_id="t")
    with pytest.raises(SinkUnavailable) as caught:
        await connection.open()
    assert all(url in str(caught.value) for url in urls)
    assert "no broker of the list takes us" in str(caught.value)


async def test_one_that_refuses_us_does_not_keep_us_from_the_next(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "a", users={"x": "y"}) as a, Mosquitto(tmp_path / "b") as b:
        async with opened([a.url, b.url]) as connection:
            assert str(connection.endpoint) == b.url
            assert not connection.act


@pytest.mark.parametrize("wrong", [[], ["mqtt://a", "http://b"], ["mqtt://a", 5], 5])
def test_a_list_with_a_url_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="url"):
        MqttOptions(url=wrong)


async def test_the_embedded_broker_of_the_demo_takes_3_1_1_and_is_in_a_list_with_others() -> None:
    async with EmbeddedBroker() as broker:
        inbox = Inbox()
        urls = [f"mqtt://127.0.0.1:{free_port()}", f"mqtt://127.0.0.1:{broker.port}"]
        async with opened(urls, version="3.1.1", on_message=inbox) as connection:
            await connection.subscribe(["a"], timeout=20)
            await asyncio.gather(*(connection.publish("a", bytes([n]) * 50_000, timeout=20) for n in range(20)))
            assert len(await inbox.wait(20)) == 20


# ------------------------------------------------------------------------------------------------ means


class opened:  # noqa: N801  read as a verb, like `connected`
    """A connection to the first broker of a list that takes it."""

    def __init__(self, urls: list[str], **more: Any) -> None:
        settings = {key: more.pop(key) for key in list(more) if key in MqttOptions.model_fields}
        self._connection = Connection(MqttOptions(url=urls, **settings), client_id="test", **more)

    async def __aenter__(self) -> Connection:
        await self._connection.open()
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def fingerprint_of(path: str) -> str:
    der = ssl.PEM_cert_to_DER_cert(Path(path).read_text())
    return ":".join(re.findall("..", hashlib.sha256(der).hexdigest().upper()))


def self_signed(directory: Path) -> Certificates:
    """A broker that made its certificate itself, for another name, long expired: as one meets them."""
    directory.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker in the cellar")])
    begin = datetime.datetime(2015, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    (directory / "c.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "k.pem").write_bytes(key.private_bytes(*form))
    path = str(directory / "c.pem")
    return Certificates(path, path, str(directory / "k.pem"), "", "")


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[int]:
    """Serve handshakes, whatever comes of them."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(sock, server_side=True).close()
                except OSError:
                    sock.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(20)
