"""The straightforward Sparkplug encoder: an object per metric, serialised by Google's protobuf library.

The measure of our columnar one (bench.formats), and an independent reader of what it writes (tests). The message types
are described here at run time from the facts of the standard's schema (Sparkplug 3.0, 6.4.1); no generated code.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from gateway.encoders.sparkplug_payload import DataType
from gateway.model import Batch

_TYPES: Final = {
    "double": 1, "float": 2, "uint64": 4, "bool": 8, "string": 9, "message": 11, "bytes": 12, "uint32": 13,
}  # fmt: skip
_VALUES: Final = (("int", "uint32"), ("long", "uint64"), ("float", "float"), ("double", "double"),
                  ("boolean", "bool"), ("string", "string"))  # fmt: skip


def _message(name: str, fields: list[tuple[str, int, str, bool]], first_value: int = 0) -> Any:
    """Describe a message; `first_value` is the number of int_value where it has the oneof."""
    message = descriptor_pb2.DescriptorProto(name=name)
    for field, number, kind, repeated in fields:
        message.field.add(name=field, number=number, type=_TYPES.get(kind, 11), label=3 if repeated else 1)
        if kind not in _TYPES:
            message.field[-1].type_name = f".plantbridge.bench.{kind}"
    if first_value:
        message.oneof_decl.add(name="value")
        for place, (field, kind) in enumerate(_VALUES):
            number = first_value + place
            message.field.add(name=f"{field}_value", number=number, type=_TYPES[kind], label=1, oneof_index=0)
    return message


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="plantbridge_bench.proto", package="plantbridge.bench")
    file.syntax = "proto2"
    file.message_type.append(
        _message("PropertyValue", [("type", 1, "uint32", False), ("is_null", 2, "bool", False)], 3)
    )
    file.message_type.append(
        _message("PropertySet", [("keys", 1, "string", True), ("values", 2, "PropertyValue", True)])
    )
    metric = [("name", 1, "string", False), ("alias", 2, "uint64", False), ("timestamp", 3, "uint64", False),
              ("datatype", 4, "uint32", False), ("is_historical", 5, "bool", False), ("is_transient", 6, "bool", False),
              ("is_null", 7, "bool", False), ("properties", 9, "PropertySet", False)]  # fmt: skip
    file.message_type.append(_message("Metric", metric, 10))
    payload = [("timestamp", 1, "uint64", False), ("metrics", 2, "Metric", True), ("seq", 3, "uint64", False)]
    file.message_type.append(_message("Payload", payload))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("Payload", "Metric", "PropertySet", "PropertyValue")
    return {
        each: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"plantbridge.bench.{each}")) for each in names
    }


MESSAGES: Final = _messages()
Payload: Final = MESSAGES["Payload"]


def encode(batch: Batch, aliases: list[int], types: list[DataType], timestamp: int, seq: int) -> bytes:
    """Write a batch as the payload of a DDATA, one object a metric."""
    payload = Payload(timestamp=timestamp, seq=seq)
    for tag, value, time in zip(batch.tag.tolist(), batch.value.tolist(), batch.time.tolist(), strict=True):
        metric = payload.metrics.add()
        metric.alias = aliases[tag]
        metric.timestamp = time // 1_000_000
        kind = types[tag]
        if kind == DataType.DOUBLE:
            metric.double_value = value
        elif kind == DataType.FLOAT:
            metric.float_value = value
        elif kind == DataType.INT32:
            metric.int_value = int(value) & 0xFFFFFFFF
        else:
            metric.long_value = int(value) & 0xFFFFFFFFFFFFFFFF
    return bytes(payload.SerializeToString())
