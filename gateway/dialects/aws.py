"""AWS IoT Core: readings as free JSON (gateway.dialects.rows), commands through the thing's shadow.

    out  {topic} or $aws/rules/{rule}/{topic}              [{"device", "ts", "values": {...}}, ...]
         $aws/things/{thing}/shadow[/name/{n}]/update      {"state": {"reported": {device: {tag: value}},
                                                                      "desired": {device: {tag: null}}}}
    in   ..../update/delta                                 {"version", "timestamp": s, "state": {device: {tag: value}}}
         ..../update/rejected                              {"code", "message"}

A desired value is a command: it is carried out once, what the device then says is reported, and the wish is taken
back, so that it is not carried out again after an outage. The platform takes 128 kB and 100 messages a second on a
connection; a topic has at most 256 bytes and seven slashes ($aws/rules/{rule}/ not counted). Authentication is by
client certificate over TLS.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.commands import Result
from gateway.dialects import (
    NOTHING,
    SECOND,
    Command,
    Credentials,
    Heard,
    Limits,
    Refused,
    Section,
    Subscription,
    Unreadable,
    achieved,
    json_object,
    member,
    note,
    text,
    unexpected,
    wishes,
)
from gateway.dialects.rows import gap_row, row_room, rows
from gateway.model import Gap, Message

if TYPE_CHECKING:
    from gateway.options import AwsOptions

_TOPIC_BYTES: Final = 256
_TOPIC_SLASHES: Final = 7


class Aws:
    """A thing on IoT Core. Raises ValueError for a topic that the platform does not take."""

    def __init__(self, options: AwsOptions) -> None:
        self._options = options
        name = f"/name/{options.shadow}" if options.shadow else ""
        self._shadow = f"$aws/things/{options.thing}/shadow{name}/update"
        self._basic = f"$aws/rules/{options.rule}/" if options.rule else ""
        self.limits = Limits(payload=131_072, messages=100, octets=524_288, keep_alive=(30, 1200), tls=True)
        self.quality = True
        if problem := topic_problem(self._place("")):
            raise ValueError(problem)

    def credentials(self, now: int) -> Credentials | None:
        return Credentials(self._options.thing)

    def subscriptions(self) -> tuple[Subscription, ...]:
        return Subscription(f"{self._shadow}/delta", commands=True), Subscription(f"{self._shadow}/rejected")

    def knows(self, device: str) -> bool:
        return not topic_problem(self._place(device))

    def name_problem(self, name: str) -> str:
        return ""

    def begin(self, now: int) -> list[Message]:
        return []

    def presence(self, devices: Sequence[str], online: bool, now: int) -> list[Message]:
        return []

    def waiting(self, now: int) -> bool:
        return False

    def tick(self, now: int) -> Heard:
        return NOTHING

    def _place(self, device: str) -> str:
        return self._options.topic.replace("{thing}", self._options.thing).replace("{device}", device)

    def together(self, section: Section) -> Hashable:
        return self._place(section.device)

    def room(self, section: Section) -> int:
        return row_room(section)

    def report(self, sections: Sequence[Section], now: int) -> tuple[str, bytes]:
        return self._basic + self._place(sections[0].device), rows(sections)

    def gap(self, gap: Gap, now: int) -> tuple[str, bytes] | None:
        return self._basic + self._place(gap.device or "gateway"), gap_row(gap)

    def received(self, topic: str, payload: bytes, now: int) -> Heard:
        try:
            body = json_object(payload)
            if topic == f"{self._shadow}/rejected":
                return Heard(troubles=(f"the shadow refused an update: {body.get('code')} {body.get('message')}",))
            if topic != f"{self._shadow}/delta":
                return unexpected(topic)
            return self._delta(topic, body)
        except Unreadable as error:
            return Heard(refused=(Refused(topic, str(error)),))

    def _delta(self, topic: str, body: dict[str, Any]) -> Heard:
        stamp = body.get("timestamp")
        issued = stamp * SECOND if isinstance(stamp, int) and 0 <= stamp < 2**33 else 0
        key = f"{self._options.thing}/{body.get('version')}"
        commands, refused = wishes(topic, member(body, "state", dict), key, issued)
        take_back = {each.device: None for each in refused}
        send = (self._update({"desired": take_back}),) if take_back else ()
        return Heard(send=send, commands=tuple(commands), refused=tuple(refused))

    def answer(self, command: Command, results: Sequence[Result], now: int) -> list[Message]:
        pairs = list(zip(command.values, results, strict=True))
        said = {tag: result.after for (tag, _), result in pairs if achieved(result) and result.after is not None}
        state: dict[str, Any] = {"desired": {command.device: {tag: None for tag, _ in command.values}}}
        if said:
            state["reported"] = {command.device: said}
        return [self._update(state)]

    def _update(self, state: dict[str, Any]) -> Message:
        return note(self._shadow, text({"state": state}))


def topic_problem(topic: str) -> str:
    """Say why the platform does not take this topic, or nothing where it does."""
    if len(topic.encode()) > _TOPIC_BYTES or topic.count("/") > _TOPIC_SLASHES:
        return f"a topic on AWS has at most {_TOPIC_BYTES} bytes and {_TOPIC_SLASHES} slashes: {topic}"
    return f"a topic must not contain + or #: {topic}" if set(topic) & {"+", "#"} else ""
