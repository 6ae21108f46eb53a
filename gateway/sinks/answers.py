"""What a broker's answer to a message means for the publisher."""

from __future__ import annotations

from gateway.contracts import Delivery
from gateway.errors import SinkUnavailable
from gateway.model import Message
from gateway.mqtt import Answer, Connection
from gateway.mqtt.reasons import BUSY, FOR_NOW, NOT_AUTHORIZED


class Denied(SinkUnavailable):
    """The broker refuses what all the rest depends on: somebody must act."""


def refusal(connection: Connection, message: Message, answer: Answer) -> str:
    """Say what was refused, where and why."""
    advice = ": check the broker's access rules" if answer.code == NOT_AUTHORIZED else ""
    return f"{connection.endpoint} refused a message for {message.topic}: {answer.name}{advice}"


def delivery(connection: Connection, message: Message, answer: Answer) -> Delivery:
    """Give the delivery that an answer stands for. Raises SinkUnavailable.

    "Quota exceeded" ends the session: the broker takes nothing now. What is refused for a reason that may pass is kept.
    A definition (retained, no readings) that is not authorised ends the session too: readings would be of no use
    without it, and the next session sends it again.
    """
    if answer.code in BUSY:
        raise SinkUnavailable(f"{connection.endpoint} takes no more now: {answer.name}")
    if answer.code in FOR_NOW:
        if message.retain and not message.readings:
            raise Denied(refusal(connection, message, answer))
        return Delivery.NOT_NOW
    return Delivery.REJECTED if answer.refused else Delivery.ACCEPTED
