"""A subscriber of OPC UA PubSub JSON that knows Part 14 and Part 6, and trusts the metadata alone.

As a Requestor it builds requests from the action-metadata alone, and reads responses by them.

It keeps what is retained as a broker would, reads DataSetMessages by the types that the metadata say, and raises
AssertionError for what a strict reader would not understand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from gateway.dialects import Will
from gateway.model import Message

_RANGES = {
    2: (-(2**7), 2**7 - 1), 3: (0, 2**8 - 1), 4: (-(2**15), 2**15 - 1), 5: (0, 2**16 - 1),
    6: (-(2**31), 2**31 - 1), 7: (0, 2**32 - 1), 8: (-(2**63), 2**63 - 1), 9: (0, 2**64 - 1),
}  # fmt: skip


NOW = "2025-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Response:
    """What a Requestor understands of a response."""

    topic: str
    number: int
    status: int
    values: dict[str, Any]
    head: dict[str, Any]


class Reader:
    """One subscriber. `values` are (group, writer, field) to a list of (value, status, source time in ns or None)."""

    def __init__(self, prefix: str, publisher: str, fields: str, encoding: str) -> None:
        self._root = f"{prefix}/json"
        self._publisher, self._fields, self._encoding = publisher, fields, encoding
        self.retained: dict[str, Any] = {}
        self.metadata: dict[tuple[str, str], Any] = {}
        self.sequence: dict[int, int] = {}
        self.values: dict[tuple[str, str, str], list[tuple[Any, int, int | None]]] = {}
        self.kinds: list[str] = []
        self._ids: set[str] = set()
        self.offered: dict[int, tuple[str, str]] = {}  # group and name of each action, by its writer's id
        self.actions: dict[int, Any] = {}  # action-metadata by writer's id
        self.responses: list[Response] = []

    def will(self, will: Will | None) -> None:
        assert will is not None
        assert will.retain
        body = orjson.loads(will.payload)
        assert (body["MessageType"], body["Status"], body["IsCyclic"]) == ("ua-status", 3, False)
        assert "Timestamp" not in body
        assert will.topic == f"{self._root}/status/{self._publisher}"

    def take(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._take(message)

    def _take(self, message: Message) -> None:
        body = orjson.loads(message.payload)
        word = message.topic.removeprefix(self._root + "/").split("/")[0]
        assert body["MessageType"] == f"ua-{word}"
        assert body["PublisherId"] == self._publisher
        assert body["MessageId"] not in self._ids
        self._ids.add(body["MessageId"])
        assert message.retain is (word not in ("data", "action-response"))
        if message.retain:
            self.retained[message.topic] = body
        if word in ("metadata", "action-metadata"):
            sets = [body[name] for name in ("MetaData", "Request", "Response") if name in body]
            for field in (field for each in sets for field in each["Fields"]):
                self._described(field)
        if word == "metadata":
            group, writer = body["WriterGroupName"], body["DataSetWriterName"]
            assert message.topic.endswith(f"/{group}/{writer}")
            assert body["MetaData"]["ConfigurationVersion"]["MajorVersion"] > 0
            self.metadata[group, writer] = body
        elif word == "action-metadata":
            assert body["Request"]["ConfigurationVersion"] == body["Response"]["ConfigurationVersion"]
            assert body["Request"]["Name"] == body["Response"]["Name"]
            self.actions[body["DataSetWriterId"]] = body
        elif word == "action-responder":
            self.offered = {
                writer["DataSetWriterId"]: (group["Name"], writer["Name"])
                for group in body["Connection"]["WriterGroups"]
                for writer in group["DataSetWriters"]
            }
        elif word == "action-response":
            self.responses += [self._response(message.topic, body, each) for each in body["Messages"]]
        elif word == "data":
            for each in body["Messages"]:
                self._data_set(body["WriterGroupName"], each)

    def _described(self, field: Any) -> None:
        """Read a FieldMetaData as Part 6 has it now where the encoding is compact, else as its annex H has it."""
        compact = self._encoding == "compact"
        assert field["DataType"] == (f"i={field['BuiltInType']}" if compact else {"Id": field["BuiltInType"]})
        structures = {"EngineeringUnits": "i=887", "EURange": "i=884", "EnumValues": "i=7594"}
        for each in field.get("Properties", ()):
            name = each["Key"] if compact else each["Key"]["Name"]
            value = each["Value"]["Value"]
            for one in value if isinstance(value, list) else [value]:
                assert one.get("UaTypeId") == (structures[name] if compact else None)

    # ------------------------------------------------------------------------------------------------ requests

    def request(
        self, group: str, name: str, values: dict[str, Any], number: int = 1, when: str = NOW, **more: Any
    ) -> tuple[str, bytes]:
        """Make topic and payload of a request from what the Responder says of its actions, and from nothing else."""
        (writer,) = (each for each, place in self.offered.items() if place == (group, name))
        metadata = self.actions[writer]
        fields = {field["Name"] for field in metadata["Request"]["Fields"]}
        assert set(values) <= fields, "a Requestor finds no such field in the metadata"
        body = {
            "MessageId": f"request {number} {when}",
            "MessageType": "ua-action-request",
            "PublisherId": self._publisher,
            "Timestamp": when,
            "RequestorId": "scada",
            **{
                key: value
                for key, value in more.items()
                if key in ("ResponseAddress", "CorrelationData", "TimeoutHint")
            },
            "Messages": [
                {
                    "DataSetWriterId": writer,
                    "ActionTargetId": metadata["ActionTargets"][0]["ActionTargetId"],
                    "MetaDataVersion": metadata["Request"]["ConfigurationVersion"],
                    "RequestId": number,
                    "ActionState": 1,
                    "Payload": values,
                }
            ],
        }
        return f"{self._root}/action-request/{self._publisher}/{group}", orjson.dumps(body)

    def _response(self, topic: str, body: Any, message: Any) -> Response:
        metadata = self.actions[message["DataSetWriterId"]]
        assert message["ActionTargetId"] == metadata["ActionTargets"][0]["ActionTargetId"]
        assert message["ActionState"] == 2, "Done"
        assert "ResponseAddress" not in body
        _time(body["Timestamp"])
        fields = {field["Name"]: field["BuiltInType"] for field in metadata["Response"]["Fields"]}
        values = {}
        for name, content in message["Payload"].items():
            value = content
            if self._encoding != "plain":
                found, value = self._variant(content)
                assert found == fields[name]
            values[name] = self._status(value) if fields[name] == 19 else self._value(fields[name], value)
        status = self._status(message["Status"])
        head = {key: body.get(key) for key in ("RequestorId", "CorrelationData")}
        return Response(topic, message["RequestId"], status, values, head)

    # ------------------------------------------------------------------------------------------------ data

    def _data_set(self, group: str, message: Any) -> None:
        metadata = self.metadata[group, message["DataSetWriterName"]]
        assert message["DataSetWriterId"] == metadata["DataSetWriterId"]
        assert message["MetaDataVersion"] == metadata["MetaData"]["ConfigurationVersion"]
        number = message["DataSetWriterId"]
        assert message["SequenceNumber"] == self.sequence.get(number, 0) + 1
        self.sequence[number] = message["SequenceNumber"]
        fields = {field["Name"]: field["BuiltInType"] for field in metadata["MetaData"]["Fields"]}
        whole = set(message["Payload"]) == set(fields)
        assert message["MessageType"] == ("ua-keyframe" if whole else "ua-deltaframe")
        self.kinds.append(message["MessageType"])
        for name, content in message["Payload"].items():
            read = self._field(fields[name], content, _time(message["Timestamp"]))
            self.values.setdefault((group, message["DataSetWriterName"], name), []).append(read)

    def _field(self, kind: int, content: Any, when: int) -> tuple[Any, int, int | None]:
        if self._fields == "raw":
            return (None if content is None else self._value(kind, content)), 0, when
        if self._fields == "variant":
            if self._encoding == "plain":
                bad = isinstance(content, dict)
                return (None, content["Code"], when) if bad else (self._value(kind, content), 0, when)
            found, value = self._variant(content)
            if found == 19:
                return None, self._status(value), when
            assert found == kind
            return self._value(kind, value), 0, when
        status = self._status(content["Status"]) if "Status" in content else 0
        assert status or "Status" not in content, "a Good status is left out"
        value = content["Value"]
        if value is not None:
            if self._encoding == "reversible":
                found, value = self._variant(value)
                assert found == kind
            elif self._encoding == "compact":
                assert content["UaType"] == kind
            value = self._value(kind, value)
        return value, status, _time(content["SourceTimestamp"])

    def _variant(self, content: Any) -> tuple[int, Any]:
        if self._encoding == "reversible":
            assert set(content) == {"Type", "Body"}
            return content["Type"], content["Body"]
        assert set(content) == {"UaType", "Value"}
        return content["UaType"], content["Value"]

    def _status(self, content: Any) -> int:
        if self._encoding == "reversible":
            assert isinstance(content, int)
            return content
        assert set(content) == {"Code"}
        return int(content["Code"])

    def _value(self, kind: int, content: Any) -> Any:
        if kind == 1:
            assert isinstance(content, bool)
            return content
        if kind in (12, 13):
            assert isinstance(content, str)
            return content
        if kind in (10, 11):
            if isinstance(content, str):
                return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[content]
            return float(content)
        if kind in (8, 9):
            assert isinstance(content, str), "64-bit integers are strings"
        else:
            assert isinstance(content, int)
        low, high = _RANGES[kind]
        assert low <= int(content) <= high
        return int(content)


def _time(text: str) -> int:
    assert text.endswith("Z")
    whole, _, fraction = text[:-1].partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0"))
