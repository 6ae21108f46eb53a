"""The MQTT connection against a real mosquitto."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import SinkUnavailable
from gateway.mqtt import Arrived, Connection, Will, endpoints
from gateway.options import MqttOptions
from tests.servers import Mosquitto, certificates, free_port, mosquitto

__all__ = ["mosquitto"]


def options(broker: Mosquitto | str, **more: Any) -> MqttOptions:
    return MqttOptions(url=broker if isinstance(broker, str) else broker.url, **more)


@asynccontextmanager
async def connected(broker: Mosquitto | str, client_id: str = "test", **more: Any) -> AsyncIterator[Connection]:
    settings = {key: more.pop(key) for key in list(more) if key in MqttOptions.model_fields}
    connection = Connection(options(broker, **settings), client_id=client_id, **more)
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()


async def refusal(target: Mosquitto | str, **more: Any) -> str:
    connection = Connection(options(target, **more), client_id="test")
    with pytest.raises(SinkUnavailable) as caught:
        await connection.open()
    assert not connection.connected
    return str(caught.value)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


class Inbox:
    def __init__(self) -> None:
        self.messages: list[Arrived] = []
        self.acknowledge: Callable[[Arrived], None] = lambda _: None
        self._more = asyncio.Event()

    def __call__(self, message: Arrived) -> None:
        self.messages.append(message)
        self.acknowledge(message)
        self._more.set()

    async def wait(self, count: int) -> list[Arrived]:
        async with asyncio.timeout(20):
            while len(self.messages) < count:
                self._more.clear()
                await self._more.wait()
        return self.messages


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_message_is_acknowledged_and_arrives_whole(mosquitto: Mosquitto, version: str) -> None:
    inbox = Inbox()

    def take(message: Arrived) -> None:
        reader.acknowledge(message)
        inbox(message)

    async with connected(mosquitto, "reader", version=version, on_message=take) as reader:
        assert [answer.refused for answer in await reader.subscribe(["a/#", "b/+"], timeout=10)] == [False, False]
        async with connected(mosquitto, "writer", version=version) as writer:
            answers = await asyncio.gather(
                *(writer.publish("a/b", bytes([n]) * 100_000, timeout=10, properties={"n": str(n)}) for n in range(60))
            )
        assert not any(answer.refused for answer in answers)
        messages = await inbox.wait(60)
        assert [message.payload for message in messages] == [bytes([n]) * 100_000 for n in range(60)]
        if version == "5":
            assert messages[7].properties == {"n": "7"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets the receiver say so")
@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_what_was_read_is_acknowledged_to_the_kernel_at_once(mosquitto: Mosquitto, version: str) -> None:
    """Else a broker that gathers small messages holds each command back for 40 ms."""
    async with connected(mosquitto, version=version) as connection:
        for _ in range(3):  # once we have spoken, the kernel waits with its own acknowledgements
            await connection.publish("a/b", b"x" * 2000, timeout=10)
            assert connection._client is not None
            sock = connection._client.socket()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1


async def test_what_is_not_acknowledged_comes_again_in_the_next_session(mosquitto: Mosquitto) -> None:
    """Ingest acknowledges after the store's commit: what it had not stored when it died must come again."""
    keep: dict[str, Any] = {"clean": False, "session_expiry": 600.0}
    first, second = Inbox(), Inbox()
    async with connected(mosquitto, "keeper", on_message=first, **keep) as reader:
        await reader.subscribe(["a"], timeout=10)
        async with connected(mosquitto, "writer") as writer:
            for text in (b"one", b"two"):
                await writer.publish("a", text, timeout=10)
        await first.wait(2)
        reader.acknowledge(first.messages[0])
        await reader.subscribe(["b"], timeout=10)  # the acknowledgement is before this on the wire
    async with connected(mosquitto, "keeper", on_message=second, **keep) as reader:
        assert reader.session_present
        again = (await second.wait(1))[0]
        assert (again.payload, again.duplicate) == (b"two", True)


async def test_the_broker_sends_no_more_than_the_receive_maximum(mosquitto: Mosquitto) -> None:
    inbox = Inbox()
    async with connected(mosquitto, "reader", on_message=inbox, receive_maximum=3) as reader:
        await reader.subscribe(["a"], timeout=10)
        async with connected(mosquitto, "writer") as writer:
            await asyncio.gather(*(writer.publish("a", b"%d" % n, timeout=10) for n in range(10)))
        await inbox.wait(3)
        await reader.subscribe(["b"], timeout=10)
        assert len(inbox.messages) == 3
        for n in range(10):
            reader.acknowledge((await inbox.wait(n + 1))[n])


async def test_a_refused_publish_is_told_with_its_reason_under_mqtt_5(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m", acl="topic write allowed/#\n") as broker:
        async with connected(broker) as connection:
            assert not (await connection.publish("allowed/a", b"", timeout=10)).refused
            answer = await connection.publish("forbidden/a", b"x", timeout=10)
            assert (answer.code, answer.refused) == (0x87, True)
            assert "Not authorized" in answer.name


async def test_each_refused_connection_says_where_why_and_what_to_do(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m", users={"edge": "secret"}) as broker:
        for version in ("5", "3.1.1"):
            text = await refusal(broker, version=version, username="edge", password="wrong")
            assert f"mqtt://127.0.0.1:{broker.port} refused" in text
            assert "check username" in text
            assert "wrong" not in text.replace("wrong user name", "")  # the password is never told
        async with connected(broker, username="edge", password="secret") as connection:
            assert connection.connected
        plain_broker = await refusal(f"mqtts://127.0.0.1:{broker.port}")
        assert "does it expect TLS" in plain_broker


async def test_a_port_where_nothing_listens_is_told_at_once() -> None:
    assert "nothing listens there" in await refusal(f"mqtt://127.0.0.1:{free_port()}")


async def test_a_peer_that_accepts_and_says_nothing_is_given_up_within_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        assert "no answer within 0.3 s" in await refusal(url, connect_timeout="300 ms")


async def test_a_peer_that_speaks_something_else_is_an_unavailable_sink() -> None:
    async with speaking(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 20) as url:
        assert url in await refusal(url, connect_timeout="5 s")
    for byte in range(0, 256, 5):  # any packet type, well framed, with a body that makes no sense
        async with speaking(bytes([byte, 6, 0xFF, 0xFF, 0xFF, 0, 1, 2])) as url:
            assert url in await refusal(url, connect_timeout="200 ms")


async def test_a_lost_connection_fails_all_that_waits_and_all_that_follows(mosquitto: Mosquitto) -> None:
    async with connected(mosquitto) as connection:
        mosquitto.pause()
        waiting = [asyncio.ensure_future(connection.publish("a", b"x", timeout=60)) for _ in range(3)]
        await asyncio.sleep(0)
        mosquitto.kill()
        for publish in waiting:
            with pytest.raises(SinkUnavailable, match="lost"):
                await publish
        with pytest.raises(SinkUnavailable):
            await connection.publish("a", b"x", timeout=60)
        assert connection.lost.is_set()


async def test_a_silent_broker_ends_the_session_after_the_acknowledgement_timeout(mosquitto: Mosquitto) -> None:
    """A dead modem: sockets stay open and bytes are accepted, but nothing is acknowledged any more."""
    async with connected(mosquitto) as connection:
        mosquitto.pause()
        with pytest.raises(SinkUnavailable, match=r"not acknowledged within 0\.5 s"):
            await connection.publish("a", b"x", timeout=0.5)
        assert connection.lost.is_set()
    mosquitto.resume()


async def test_an_idle_session_with_a_silent_broker_is_noticed_by_the_keep_alive(mosquitto: Mosquitto) -> None:
    async with connected(mosquitto, keep_alive="1 s") as connection:
        mosquitto.pause()
        async with asyncio.timeout(30):
            await connection.lost.wait()
    mosquitto.resume()


async def test_a_sign_of_life_is_an_answer_and_comes_when_asked_for(mosquitto: Mosquitto) -> None:
    async with connected(mosquitto) as connection:
        assert connection.heard > 0
        for _ in range(2):
            before = connection.heard
            connection.ask()
            connection.ask()
            await until(lambda before=before: connection.heard > before)
        mosquitto.pause()
        before = connection.heard
        connection.ask()
        with pytest.raises(SinkUnavailable):
            await connection.publish("a", b"x", timeout=0.3)
        assert connection.heard == before
    mosquitto.resume()


async def test_what_lay_unread_while_the_loop_stood_still_is_no_sign_of_life(mosquitto: Mosquitto) -> None:
    """After a suspended night the first thing read is what the broker said last evening; it may be dead since."""
    async with connected(mosquitto) as connection:
        before = connection.heard
        connection._looked -= 60
        await connection.publish("a", b"x", timeout=10)
        assert connection.heard == before

        def heard() -> bool:
            connection.ask()
            return connection.heard > before

        await until(heard)


async def test_the_will_is_published_on_loss_and_not_on_close(mosquitto: Mosquitto) -> None:
    inbox = Inbox()
    async with connected(mosquitto, "reader", on_message=inbox) as reader:
        await reader.subscribe(["status/+"], timeout=10)
        async with connected(mosquitto, "closes", will=Will("status/closes", b"gone")):
            pass
        async with connected(mosquitto, "dies", will=Will("status/dies", b"gone")) as dies:
            dies._client.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            await inbox.wait(1)
        assert [message.topic for message in inbox.messages] == ["status/dies"]


@asynccontextmanager
async def speaking(*packets: bytes) -> AsyncIterator[str]:
    """Serve a peer that answers CONNECT with these packets and closes when the client does; gives its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.writelines(packets)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"


CONNACK = b"\x20\x03\x00\x00\x00"


async def test_a_taken_over_session_says_that_client_ids_must_differ() -> None:
    async with speaking(CONNACK, b"\xe0\x02\x8e\x00") as url:
        connection = Connection(options(url), client_id="test")
        await connection.open()
        async with asyncio.timeout(20):
            await connection.lost.wait()
        assert "client_id of its own" in connection.reason
        assert connection.act


async def test_a_session_that_another_machine_takes_over_ends(mosquitto: Mosquitto) -> None:
    """mosquitto 2.0.11 does not say why (see Sessions for what is made of that)."""
    async with connected(mosquitto, "same") as first, connected(mosquitto, "same", exclusive=False):
        async with asyncio.timeout(20):
            await first.lost.wait()
        assert first.cut


async def test_a_client_id_is_used_once_on_this_machine(mosquitto: Mosquitto) -> None:
    """Two daemons with one site file would throw each other out for ever."""
    async with connected(mosquitto, "same") as first:
        second = Connection(options(mosquitto), client_id="same")
        with pytest.raises(SinkUnavailable, match=r"another connection of this gateway.* client id same"):
            await second.open()
        assert second.act
        assert first.connected
        with Mosquitto(mosquitto.directory / "other") as other:
            async with connected(other, "same"):  # at another broker it is another matter
                pass
    async with connected(mosquitto, "same"):
        pass


async def test_a_client_id_in_use_names_the_process_and_is_free_when_that_dies(mosquitto: Mosquitto) -> None:
    program = (
        "import sys, time; from gateway.mqtt.claim import claim\n"
        f"held = claim(('127.0.0.1', {mosquitto.port}), 'same'); print(flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            text = await refusal(mosquitto, client_id="same")
            assert f"process {holder.pid} on this machine" in text
        finally:
            holder.kill()
            holder.wait()
    async with connected(mosquitto, "same"):
        pass


async def test_a_broker_without_qos_1_is_refused_at_once() -> None:
    async with speaking(b"\x20\x05\x00\x00\x02\x24\x00") as url:
        assert "QoS 0 only" in await refusal(url)


async def test_a_message_over_the_brokers_limit_is_refused_without_ending_the_session(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m", lines=["max_packet_size 2000"]) as broker:
        async with connected(broker) as connection:
            assert (await connection.publish("a", b"x" * 5000, timeout=10)).code == 0x95
            assert not (await connection.publish("a", b"x" * 500, timeout=10)).refused


async def test_tls_trusts_the_given_authority_only(tmp_path: Path) -> None:
    files = certificates(tmp_path / "pki")
    with Mosquitto(tmp_path / "m", tls=files) as broker:
        assert "certificate is not accepted" in await refusal(broker)
        inbox = Inbox()
        async with connected(broker, tls={"ca": files.ca}, on_message=inbox) as connection:
            await connection.subscribe(["a"], timeout=10)
            await asyncio.gather(*(connection.publish("a", b"x" * 200_000, timeout=20) for _ in range(20)))
            assert {len(message.payload) for message in await inbox.wait(20)} == {200_000}
        by_name = options(broker, tls={"ca": files.ca, "server_name": "localhost"})
        named = Connection(by_name, client_id="named")
        await named.open()
        await named.close()
        assert "not accepted" in await refusal(broker, tls={"ca": files.ca, "server_name": "elsewhere"})
        assert "cannot be read" in await refusal(broker, tls={"ca": str(tmp_path / "none.pem")})


async def test_a_client_certificate_is_shown_where_the_broker_asks_for_one(tmp_path: Path) -> None:
    files = certificates(tmp_path / "pki")
    with Mosquitto(tmp_path / "m", tls=files, client_certificates=True) as broker:
        assert str(broker.port) in await refusal(broker, tls={"ca": files.ca})
        own = {"ca": files.ca, "certificate": files.client_certificate, "key": files.client_key}
        async with connected(broker, tls=own) as connection:
            assert connection.connected


async def test_connecting_can_be_cancelled(mosquitto: Mosquitto) -> None:
    mosquitto.pause()
    connection = Connection(options(mosquitto), client_id="test")
    opening = asyncio.ensure_future(connection.open())
    await asyncio.sleep(0.05)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    mosquitto.resume()
    fresh = Connection(options(mosquitto), client_id="test")
    await fresh.open()
    await fresh.close()


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("mqtt://broker", "mqtt://broker:1883"),
        ("mqtts://broker", "mqtts://broker:8883"),
        ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
        ("ws://broker", "ws://broker:80/mqtt"),
        ("wss://broker/a/b?signature=secret", "wss://broker:443/a/b"),
    ],
)
def test_a_url_has_the_usual_ports_and_its_message_no_signature(url: str, wanted: str) -> None:
    assert [str(each) for each in endpoints(options(url))] == [wanted]


def test_tls_settings_turn_tls_on(tmp_path: Path) -> None:
    made = MqttOptions(url=["mqtt://a", "ws://b:8080/x", "mqtts://c"], tls={})
    assert [str(each) for each in endpoints(made)] == ["mqtts://a:8883", "wss://b:8080/x", "mqtts://c:8883"]
    assert made.secure
    assert not options("ws://a").secure


@pytest.mark.parametrize(
    "url",
    ["broker:1883", "http://broker", "mqtt://", "mqtt://u:p@broker", "mqtt://b/topic", "mqtt://b?x", "ws://u@b/m"],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"mqtt://|host and port"):
        options(url)


def test_it_works_on_uvloop_too(tmp_path: Path) -> None:
    """The daemon runs on uvloop where there is one; its readers and writers are stricter than asyncio's."""
    uvloop = pytest.importorskip("uvloop")
    files = certificates(tmp_path / "pki")

    async def session(broker: Mosquitto) -> None:
        inbox = Inbox()
        tls = {"ca": files.ca} if broker.url.startswith("mqtts") else None
        async with connected(broker, tls=tls, on_message=inbox) as connection:
            await connection.subscribe(["a"], timeout=10)
            await asyncio.gather(*(connection.publish("a", b"x" * 200_000, timeout=20) for _ in range(20)))
            await inbox.wait(20)
            broker.kill()
            async with asyncio.timeout(20):
                await connection.lost.wait()
        assert "nothing listens" in await refusal(broker, tls=tls)

    for broker in (Mosquitto(tmp_path / "plain"), Mosquitto(tmp_path / "tls", tls=files)):
        with broker:
            uvloop.run(session(broker))
