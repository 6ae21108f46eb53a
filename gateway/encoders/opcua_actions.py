"""Commands in OPC UA PubSub JSON: the Responder's side of Actions (OPC 10000-14 v1.05, 6.2.11.2 and 7.2.5.6).

    topic below {prefix}/json/                     retained  message
    action-responder/{publisher}                   yes       ua-action-responder: which actions there are
    action-metadata/{publisher}/{device}/set       yes       ua-action-metadata: fields of request and response
    action-request/{publisher}/{device}            (heard)   ua-action-request: {"Timestamp", "RequestorId", ...,
                                                             "Messages": [{"DataSetWriterId", "ActionTargetId": 1,
                                                             "RequestId", "ActionState": 1, "Payload": {tag: value}}]}
    action-response/{publisher}/{device}           no        ua-action-response: {"RequestorId", "CorrelationData",
                                                             "Messages": [{"DataSetWriterId", "ActionTargetId",
                                                             "RequestId", "ActionState": 2, "Status", "Payload"}]}

- Each device with tags that may be written has the action `set`, whose fields are those tags; a request names those
  that it wants set. The action `isolate` of the group "gateway" stops all writes; its field `reason` may be left out.
- The response has, for each tag asked for, its value now, `TAG.before` and `TAG.status`, then `reason` where something
  was not set, and `audit`. Its Status is Good, or that of the first value that was not set.
- A request is made when its Timestamp says, and expires TimeoutHint ms later. With CorrelationData the standard makes
  RequestId unique; without, a request with the same Timestamp is the same one.
- Who asks may choose the topic of the response (ResponseAddress) below action-response/ only: he is not to have this
  gateway, which may write more than he may, publish readings or commands for him.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

from gateway import quality as q
from gateway.commands import Cause, Result, Value
from gateway.dialects import (
    NOTHING,
    Command,
    Heard,
    Refused,
    Subscription,
    Unreadable,
    achieved,
    failures,
    json_object,
    member,
    moment,
    note,
    unexpected,
)
from gateway.encoders.opcua_words import (
    BOOLEAN,
    FLOAT,
    QUOTED,
    STATUS_CODE,
    STRING,
    Words,
    Writer,
    builtin_type,
    data_set,
)
from gateway.model import Message, TagTable

SET: Final = "set"
ISOLATE: Final = ("gateway", "isolate")
_TARGET: Final = 1  # each action has this one
_EXECUTING, _DONE = 1, 2  # ActionState
_LONGEST: Final = 200  # characters of what is only handed back


@dataclass(frozen=True, slots=True)
class _Request:
    """What the response to a request needs."""

    address: str
    requestor: str | None
    correlation: str | None
    action: Writer
    number: int


class Responder:
    """The actions of one publisher. `writer` gives number and version of one, by group and name."""

    def __init__(self, words: Words, tables: Iterable[TagTable], writer: Callable[[str, str], Writer]) -> None:
        self._words = words
        self.actions = [_isolation(writer(*ISOLATE))]
        for table in tables:
            tags = [tag for tag in table.tags if tag.writable is not None]
            if not tags:
                continue
            action = writer(table.device, SET)
            for tag in tags:
                action.fields[tag.name], action.tags[tag.name] = builtin_type(tag), tag
            if action not in self.actions:
                self.actions.append(action)

    def subscriptions(self) -> tuple[Subscription, ...]:
        return (Subscription(f"{self._words.topic('action-request')}/+", 1, commands=True),)

    def begin(self) -> list[Message]:
        """Say which actions there are; all of it retained."""
        words = self._words
        content = words.message("ua-action-responder", Timestamp=words.now(), Connection=words.connection(self.actions))
        return [note(words.topic("action-responder"), content, True), *map(self._metadata, self.actions)]

    def _metadata(self, action: Writer) -> Message:
        what = "stops all writes" if _isolates(action) else "sets values"
        content = self._words.message(
            "ua-action-metadata",
            DataSetWriterId=action.number,
            DataSetWriterName=action.name,
            Timestamp=self._words.now(),
            ActionTargets=[{"ActionTargetId": _TARGET, "Name": action.name, "Description": {"Text": what}}],
            Request=data_set(action, action.fields, self._words.options),
            Response=data_set(action, _answered(action), self._words.options),
        )
        return note(self._words.topic("action-metadata", action.group, action.name), content, True)

    # ------------------------------------------------------------------------------------------------ requests

    def received(self, topic: str, payload: bytes) -> Heard:
        """Read a NetworkMessage with requests."""
        group = next((each.group for each in self.actions if topic == self._place("request", each)), None)
        if group is None:
            return unexpected(topic)
        try:
            body = json_object(payload)
            if body.get("MessageType") != "ua-action-request":
                return Heard(refused=(Refused(topic, "the MessageType is not ua-action-request"),))
            if body.get("PublisherId") != self._words.publisher:
                said = f"it is for the publisher {body.get('PublisherId')!r}, and this is {self._words.publisher}"
                return Heard(refused=(Refused(topic, said, cause=Cause.FOREIGN),))
            requests = member(body, "Messages", list)
            envelope = _Envelope.read(body)
        except Unreadable as error:
            return Heard(refused=(Refused(topic, str(error)),))
        heard = [self._request(topic, group, envelope, each) for each in requests]
        return Heard(
            send=tuple(message for each in heard for message in each.send),
            commands=tuple(command for each in heard for command in each.commands),
            refused=tuple(refused for each in heard for refused in each.refused),
        )

    def _request(self, topic: str, group: str, envelope: _Envelope, body: object) -> Heard:
        if not isinstance(body, dict):
            return Heard(refused=(Refused(topic, "a request is not an object", device=group),))
        request: _Request | None = None
        try:
            action = self._action(group, body)
            request = _Request(
                self._place("response", action), envelope.requestor, envelope.correlation, action, _number(body)
            )
            state = body.get("ActionState", _EXECUTING)
            if state != _EXECUTING:
                return NOTHING  # over MQTT a request is made once, and there is nothing to be told of its end
            request = replace(request, address=self._address(envelope.address, action))
            return Heard(commands=(self._command(envelope, request, body),))
        except Unreadable as error:
            send = () if request is None else (self._response(request, q.BAD_DECODING_ERROR, {"reason": str(error)}),)
            return Heard(send=send, refused=(Refused(topic, str(error), device=group),))

    def _action(self, group: str, body: Mapping[str, Any]) -> Writer:
        """Give the action that a request is for. Raises Unreadable."""
        number = body.get("DataSetWriterId")
        found = next((each for each in self.actions if each.number == number and each.group == group), None)
        if found is None or body.get("ActionTargetId", _TARGET) != _TARGET:
            raise Unreadable("DataSetWriterId and ActionTargetId name no action of this group: see action-metadata")
        version = body.get("MetaDataVersion")
        if version is not None and version != found.configuration():
            raise Unreadable("its MetaDataVersion is not the present one: read the action-metadata again")
        return found

    def _address(self, asked: object, action: Writer) -> str:
        """Give the topic for the response. Raises Unreadable."""
        if asked is None or asked == "":
            return self._place("response", action)
        root = f"{self._words.options.prefix}/json/action-response/"
        if not isinstance(asked, str) or not asked.startswith(root) or len(asked) > 500 or set(asked) & set("+#\0"):
            raise Unreadable(f"ResponseAddress must be a topic below {root}")
        return asked

    def _command(self, envelope: _Envelope, request: _Request, body: Mapping[str, Any]) -> Command:
        action, values = request.action, body.get("Payload")
        key = envelope.key(action.number, request.number)
        who = envelope.requestor or ""
        if _isolates(action):
            reason = _plain(values.get("reason"), STRING) if isinstance(values, Mapping) else ""
            said = reason if isinstance(reason, str) else ""
            return Command(key, "", (), envelope.issued, reply=request, isolate=True, by=who, reason=said)
        if not isinstance(values, Mapping) or not values:
            raise Unreadable("the Payload names no value")
        wanted = tuple((name, _value(name, content, action.fields.get(name, 0))) for name, content in values.items())
        return Command(key, action.group, wanted, envelope.issued, envelope.expires, request, by=who)

    # ------------------------------------------------------------------------------------------------ responses

    def answer(self, command: Command, results: Sequence[Result]) -> list[Message]:
        """Reply to a request."""
        request: _Request = command.reply
        if command.isolate:
            return [self._response(request, 0, {"isolated": True})]
        said: dict[str, Any] = {}
        for (name, _), result in zip(command.values, results, strict=True):
            values = {name: result.after, f"{name}.before": result.before, f"{name}.status": result.quality}
            said |= {each: value for each, value in values.items() if value is not None}
        if reasons := failures(command, results):
            said.setdefault("reason", reasons)
        if results and results[0].audit:
            said.setdefault("audit", results[0].audit)
        status = next((result.quality for result in results if not achieved(result)), 0)
        return [self._response(request, status, said)]

    def _response(self, request: _Request, status: int, values: Mapping[str, Any]) -> Message:
        types = _answered(request.action)
        head = {"CorrelationData": request.correlation, "RequestorId": request.requestor}
        response = {
            "DataSetWriterId": request.action.number,
            "ActionTargetId": _TARGET,
            "DataSetWriterName": request.action.name,
            "WriterGroupName": request.action.group,
            "MetaDataVersion": request.action.configuration(),
            "Timestamp": self._words.now(),
            "Status": self._status(status),
            "RequestId": request.number,
            "ActionState": _DONE,
            "Payload": {name: self._written(types[name], value) for name, value in values.items() if name in types},
        }
        content = self._words.message(
            "ua-action-response",
            Timestamp=self._words.now(),
            **{name: value for name, value in head.items() if value is not None},
            Messages=[response],
        )
        return note(request.address, content)

    def _written(self, kind: int, value: Any) -> Any:
        """Write a field as the Variant that data have: with its type, or bare."""
        encoding = self._words.options.encoding
        content = self._status(value) if kind == STATUS_CODE else _typed(kind, value)
        if encoding == "plain":
            return content
        return {"Type": kind, "Body": content} if encoding == "reversible" else {"UaType": kind, "Value": content}

    def _status(self, status: int) -> Any:
        return status if self._words.options.encoding == "reversible" else {"Code": status}

    def _place(self, what: str, action: Writer) -> str:
        return self._words.topic(f"action-{what}", action.group)


@dataclass(frozen=True, slots=True)
class _Envelope:
    """What a NetworkMessage says of all requests in it."""

    issued: int  # ns
    expires: int  # ns, 0 where it does not say
    address: object
    requestor: str | None
    correlation: str | None
    stamp: str

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> _Envelope:
        """Raises Unreadable."""
        stamp = member(body, "Timestamp", str)
        issued = moment(stamp, "Timestamp")
        hint = body.get("TimeoutHint") or 0
        if isinstance(hint, bool) or not isinstance(hint, int | float) or not 0 <= hint < 1e10:
            raise Unreadable("TimeoutHint is not a number of milliseconds")
        requestor, correlation = _text(body, "RequestorId"), _text(body, "CorrelationData")
        try:
            base64.b64decode(correlation or "", validate=True)
        except binascii.Error:
            raise Unreadable("CorrelationData is not base64") from None
        expires = issued + round(hint * 1e6) if hint else 0
        return cls(issued, expires, body.get("ResponseAddress"), requestor, correlation, stamp)

    def key(self, action: int, number: int) -> str:
        """Give what tells a repetition of a request from another one."""
        unique = self.correlation or self.stamp
        said = "\0".join((self.requestor or "", unique, str(action), str(number)))
        return blake2b(said.encode(errors="surrogatepass"), digest_size=12).hexdigest()


def _isolation(action: Writer) -> Writer:
    action.fields = {"reason": STRING}
    return action


def _isolates(action: Writer) -> bool:
    return (action.group, action.name) == ISOLATE


def _answered(action: Writer) -> dict[str, int]:
    """Give the fields of a response, by their built-in types."""
    if _isolates(action):
        return {"isolated": BOOLEAN, "reason": STRING}
    fields: dict[str, int] = {}
    for name, kind in action.fields.items():
        fields |= {name: kind, f"{name}.before": kind, f"{name}.status": STATUS_CODE}
    return {"reason": STRING, "audit": STRING, **fields}  # a tag's own name counts


def _number(body: Mapping[str, Any]) -> int:
    number = body.get("RequestId")
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 65536:
        raise Unreadable("RequestId is not a number from 0 to 65535")
    return number


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > _LONGEST):
        raise Unreadable(f"{name} is not a text of at most {_LONGEST} characters")
    return value


def _value(name: str, content: object, kind: int) -> Value:
    """Read a field of a request. Raises Unreadable."""
    value = _plain(content, kind)
    if not isinstance(value, str | bool | int | float):
        raise Unreadable(f"the value of {name!r} is not a number, a truth value or a text")
    return value


def _typed(kind: int, value: Any) -> Any:
    """Give a value as its built-in type is written: what a device holds may be 1 for true, or 5.0 for 5."""
    if kind == BOOLEAN:
        return bool(value)
    if isinstance(value, float) and kind < FLOAT and value.is_integer():
        value = int(value)
    return str(value) if kind in QUOTED else value


def _plain(content: object, kind: int) -> object:
    """Take a value out of its Variant or DataValue, whichever it comes in; a 64-bit integer out of its quotes."""
    for _ in range(2):  # a DataValue of 1.04 has a Variant inside
        if isinstance(content, Mapping):
            content = content.get("Value", content.get("Body"))
    if kind in QUOTED and isinstance(content, str) and content.removeprefix("-").isdecimal() and len(content) < 21:
        return int(content)
    return content
