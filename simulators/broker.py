"""An embedded MQTT 3.1.1 broker (amqtt) for demonstrations and tests: sessions and messages live in memory.

amqtt as it comes forgets a QoS 1 message whose PUBACK takes longer than five seconds, or whose subscriber goes before
it, keeps nothing for clients without a password, and lets a returning client wait for the acknowledgement of all it
missed before it hears its SUBSCRIBE. Ingest acknowledges only what its store has committed, and so needs a broker
that waits: these three are put right here. It is no broker for a plant: what it holds is gone when it ends.

As a process (`python -m simulators.broker`) it prints its port and runs until SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from typing import Any, Self

import amqtt.broker
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import OUTGOING, Session


class Everybody(BaseAuthPlugin):  # type: ignore[misc]  # amqtt has no types here
    """Lets everybody in, and keeps their sessions: not `anonymous`, whose sessions amqtt drops."""

    async def authenticate(self, *, session: Session) -> bool:
        session.is_anonymous = False
        return True


class PatientHandler(BrokerProtocolHandler):  # type: ignore[misc]
    """Keeps a QoS 1 message for its subscriber until it is acknowledged, over reconnects."""

    _flows: set[asyncio.Task[None]]

    async def _handle_qos1_message_flow(self, message: Any) -> None:
        if message.direction != OUTGOING:
            await super()._handle_qos1_message_flow(message)
            return
        session = self.session
        session.inflight_out[message.packet_id] = message
        packet = message.build_publish_packet(dup=message.publish_packet is not None)
        message.publish_packet = packet
        acknowledged = self._puback_waiters[message.packet_id] = asyncio.get_running_loop().create_future()
        try:
            await self._send_packet(packet)
            message.puback_packet = await acknowledged
            session.inflight_out.pop(message.packet_id, None)
        finally:
            self._puback_waiters.pop(message.packet_id, None)

    async def _retry_deliveries(self) -> None:
        """Send again what was not acknowledged, without waiting for it."""
        self._flows = {
            asyncio.create_task(self._quietly(message)) for message in list(self.session.inflight_out.values())
        }

    async def _quietly(self, message: Any) -> None:
        try:
            await self._handle_message_flow(message)
        except Exception:  # noqa: BLE001  the connection went again; the message is still in flight
            return


class PatientBroker(Broker):  # type: ignore[misc]
    """Gives a returning client what it missed without waiting for acknowledgements."""

    async def _publish_session_retained_messages(self, session: Session) -> None:
        handler = self._get_handler(session)
        while handler is not None and not session.retained_messages.empty():
            kept = session.retained_messages.get_nowait()
            self._tasks_queue.append(
                asyncio.create_task(handler.mqtt_publish(kept.topic, kept.data, kept.qos, retain=False))
            )


class EmbeddedBroker:
    """A broker on one port of 127.0.0.1. `async with` starts and stops it."""

    def __init__(self, port: int = 0) -> None:
        self.port = port

    async def start(self) -> int:
        """Listen; give the port."""
        amqtt.broker.BrokerProtocolHandler = PatientHandler  # amqtt makes its handlers by this name
        config = BrokerConfig(
            listeners={"default": ListenerConfig(bind=f"127.0.0.1:{self.port}")},
            plugins={f"{__name__ if __name__ != '__main__' else 'simulators.broker'}.Everybody": {}},
        )
        self._broker = PatientBroker(config)
        await self._broker.start()
        self.port = self._broker._servers["default"].instance.sockets[0].getsockname()[1]
        return self.port

    async def close(self) -> None:
        """Stop, forgetting everything."""
        await self._broker.shutdown()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def serve(port: int) -> None:
    """Run until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with EmbeddedBroker(port) as broker:
        print(broker.port, flush=True)
        await stop.wait()


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="An embedded MQTT 3.1.1 broker that keeps everything in memory.")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; one of the system's choice by default")
    logging.basicConfig(level=logging.CRITICAL)
    asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
