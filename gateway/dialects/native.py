"""Commands for publishers whose format has none of its own (columns, json): JSON, below the publisher's prefix.

    in   {prefix}/commands   {"gateway": "press-shop", "id": "7f3a", "time": "2026-11-22T08:15:00.250Z",
                              "device": "press-1", "values": {"setpoint": 4.5, "mode": "manual"},
                              "expires": "2026-11-22T08:15:05Z", "by": "maria"}
                             {"gateway": "press-shop", "id": "7f3b", "time": …, "isolate": true, "reason": "drill"}
    out  {prefix}/replies    {"gateway", "id", "time", "ok": true, "device", "values": {"setpoint": {"before": 4.0,
                              "after": 4.5, "quality": "Good"}}, "audit": "41:9c1e..."}
                             {"gateway", "id", "time", "ok": false, "reason": "setpoint may be set from 0 to 10, …"}

- `expires` and `by` may be left out, `time` and `id` may not. A time is ISO 8601 with its zone, or ms since 1970. An id
  is a text that the sender uses once; who sends a command again after a lost reply sends the same id.
- What names another gateway is not answered, for that gateway may be listening, too. A key that is not in this list
  is a mistake, and the command is refused: a misspelt "expires" must not make it valid for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.audit import stamp
from gateway.commands import Cause, Result
from gateway.contracts import Record
from gateway.dialects import (
    MILLISECOND,
    NOTHING,
    Command,
    Heard,
    Limits,
    Refused,
    Subscription,
    Unreadable,
    failures,
    isolation,
    json_object,
    member,
    moment,
    note,
    text,
    told,
    unexpected,
    wanted,
)
from gateway.model import Batch, Message

_KEYS: Final = frozenset(("gateway", "id", "time", "expires", "device", "values", "by", "isolate", "reason"))


class Native:
    """The commands' side of a publisher whose readings go their own way: a Talk (gateway.dialects.dialogue)."""

    def __init__(self, gateway: str, prefix: str, clock: Callable[[], int]) -> None:
        self.commands = f"{prefix}/commands"
        self._replies = f"{prefix}/replies"
        self._gateway = gateway
        self._clock = clock

    limits = Limits(payload=256_000)
    ready = True
    ordered = False

    def subscriptions(self) -> tuple[Subscription, ...]:
        return (Subscription(self.commands, 1, commands=True),)

    def begin(self, current: Sequence[Batch] = (), upto: int = 0) -> list[Message]:
        return []

    def prepare(self, records: Sequence[Record]) -> list[Message]:
        return []

    def tick(self) -> Heard:
        return NOTHING

    def end(self) -> list[Message]:
        return []

    def received(self, topic: str, payload: bytes) -> Heard:
        if topic != self.commands:
            return unexpected(topic)
        key, device = "", ""
        try:
            body = json_object(payload)
            key, device = _text(body, "id"), _text(body, "device")
            if body.get("gateway") != self._gateway:
                reason = f"it is for gateway {body.get('gateway')!r}, and this is {self._gateway}"
                return Heard(refused=(Refused(topic, reason, key, device, Cause.FOREIGN),))
            return Heard(commands=(_command(body),))
        except Unreadable as error:
            reply = self._reply({"id": key or None, "ok": False, "reason": str(error)})
            return Heard(send=(reply,), refused=(Refused(topic, str(error), key, device),))

    def answer(self, command: Command, results: Sequence[Result]) -> list[Message]:
        body: dict[str, Any] = {"id": command.key, "ok": True}
        if command.isolate:
            return [self._reply({**body, "isolated": True})]
        reasons = failures(command, results)
        values = told(command, results)
        for each in values.values():
            if not each["reason"]:
                del each["reason"]
        body |= {"ok": not reasons, "device": command.device, "values": values}
        if reasons:
            body["reason"] = reasons
        if results and results[0].audit:
            body["audit"] = results[0].audit
        return [self._reply(body)]

    def _reply(self, body: dict[str, Any]) -> Message:
        return note(self._replies, text({"gateway": self._gateway, "time": stamp(self._clock()), **body}))


def _command(body: dict[str, Any]) -> Command:
    if unknown := sorted(set(body) - _KEYS):
        raise Unreadable(f"unknown key {unknown[0]!r}: a command has {', '.join(sorted(_KEYS))}")
    key = member(body, "id", str)
    if not key:
        raise Unreadable("'id' is empty")
    by, reason = _text(body, "by"), _text(body, "reason")
    issued = _time(body, "time")
    if "isolate" in body:
        if "values" in body:
            raise Unreadable("'isolate' comes without values")
        return isolation(key, body["isolate"], issued=issued, by=by, reason=reason)
    expires = _time(body, "expires") if "expires" in body else 0
    return Command(key, member(body, "device", str), wanted(body.get("values")), issued, expires, by=by, reason=reason)


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name, "")
    return value if isinstance(value, str) else ""


def _time(body: dict[str, Any], name: str) -> int:
    """Read a time as ns. Raises Unreadable."""
    value = body.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**43:
        return value * MILLISECOND
    if isinstance(value, str):
        return moment(value, name)
    raise Unreadable(f"{name!r} is not a time such as 2026-11-22T08:15:00Z, or ms since 1970")
