"""AWS IoT Core: readings as free JSON (gateway.dialects.rows), commands through the thing's shadow.

    out  {topic} or $aws/rules/{rule}/{topic}              [{"device", "ts", "values": {...}}, ...]
         $aws/things/{thing}/shadow[/name/{n}]/update      {"state": {"desired": {device: {tag: null}}, "reported":
                                                           {"plantbridge": {"version", "device", "values":
                                                           [{"tag", "before", "after", "quality", "reason"}]}}}}
    in   ..../update/delta                                 {"version", "timestamp": s, "state": {device: {tag: value}},
                                                           "metadata": {device: {tag: {"timestamp": s}}}}
         ..../update/rejected                              {"code", "message"}

- A desired value is a command. It is carried out once, and the wish is taken back, so that it is not carried out again
  after an outage. What became of the last command is in the reported state, under "plantbridge". It is not reported
  as the device's own value: the platform tells no wish that equals what was reported, and a value may have been
  changed at the machine since. A delta has all wishes that stand, those too that were made while we were away: each
  is as old as its metadata say. Where a true "isolate" is desired beside the devices, all writes are stopped.
- Refused: the topics $aws/commands/... . A subscription there ends the session where the account's policy or its region
  does not have them, and with it the readings; a shadow is everywhere.
- The platform takes 128 kB and 100 messages a second on a connection; a topic has at most 256 bytes and seven slashes
  ($aws/rules/{rule}/ not counted). Authentication is by client certificate over TLS.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.commands import Result
from gateway.dialects import (
    SECOND,
    Command,
    Credentials,
    Dialect,
    Heard,
    Limits,
    Refused,
    Section,
    Subscription,
    Unreadable,
    isolation,
    json_object,
    member,
    note,
    text,
    told,
    unexpected,
    wishes,
)
from gateway.dialects.rows import gap_row, row_room, rows
from gateway.model import Gap, Message

if TYPE_CHECKING:
    from gateway.options import AwsOptions

_TOPIC_BYTES: Final = 256
_TOPIC_SLASHES: Final = 7
_ANSWER: Final = "plantbridge"  # what became of the last command, among the devices of the reported state
_ISOLATE: Final = "isolate"


class Aws(Dialect):
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
        version, newest = body.get("version"), _seconds(body.get("timestamp"))
        key = f"{self._options.thing}/{version}"
        asked, stamps = dict(member(body, "state", dict)), _object(body.get("metadata"))
        isolate = asked.pop(_ISOLATE, None)
        commands: list[Command] = []
        refused: list[Refused] = []
        for issued, wish in _by_age(asked, stamps, newest).items():
            made, wrong = wishes(topic, wish, f"{key}/{issued}", issued * SECOND, reply=version)
            commands, refused = [*commands, *made], [*refused, *wrong]
        if isolate is True:
            commands = [isolation(key, True, issued=newest * SECOND, reply=version), *commands]
        take_back: dict[str, Any] = {each.device: None for each in refused}
        if isolate is not None and isolate is not True:
            refused.append(
                Refused(topic, "isolation can be switched on from outside, and off at the gateway only", key)
            )
            take_back[_ISOLATE] = None
        send = (self._update({"desired": take_back}),) if take_back else ()
        return Heard(send=send, commands=tuple(commands), refused=tuple(refused))

    def answer(self, command: Command, results: Sequence[Result], now: int) -> list[Message]:
        if command.isolate:
            answer: dict[str, Any] = {"version": command.reply, "isolated": True, "device": None, "values": None}
            return [self._update({"desired": {_ISOLATE: None}, "reported": {_ANSWER: answer}})]
        # a list, for a shadow merges objects: what an earlier command named would stay
        became = [{"tag": tag, **each} for tag, each in told(command, results).items()]
        answer = {"version": command.reply, "isolated": None, "device": command.device, "values": became}
        nothing = {command.device: {tag: None for tag, _ in command.values}}
        return [self._update({"desired": nothing, "reported": {**nothing, _ANSWER: answer}})]

    def _update(self, state: dict[str, Any]) -> Message:
        return note(self._shadow, text({"state": state}))


def topic_problem(topic: str) -> str:
    """Say why the platform does not take this topic, or nothing where it does."""
    if len(topic.encode()) > _TOPIC_BYTES or topic.count("/") > _TOPIC_SLASHES:
        return f"a topic on AWS has at most {_TOPIC_BYTES} bytes and {_TOPIC_SLASHES} slashes: {topic}"
    return f"a topic must not contain + or #: {topic}" if set(topic) & {"+", "#"} else ""


def _by_age(asked: dict[str, Any], stamps: dict[str, Any], newest: int) -> dict[int, dict[str, Any]]:
    """Part wishes by when each was made (s), the oldest first: a delta also has those that were never carried out."""
    parts: dict[int, dict[str, Any]] = {}
    for device, values in asked.items():
        if not isinstance(values, dict) or not values:
            parts.setdefault(newest, {})[device] = values
            continue
        known = _object(stamps.get(device))
        for tag, value in values.items():
            stamp = _seconds(_object(known.get(tag)).get("timestamp")) or newest
            parts.setdefault(stamp, {}).setdefault(device, {})[tag] = value
    return dict(sorted(parts.items()))


def _seconds(stamp: object) -> int:
    return stamp if isinstance(stamp, int) and 0 <= stamp < 2**33 else 0


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
