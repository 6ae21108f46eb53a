"""Journal records to messages, one module per format, and the table of their names.

An encoder does no I/O and keeps no time. What is common to several: `texts` (numbers as the source has them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from gateway.contracts import Encoder
from gateway.dialects import Dialect, Limits
from gateway.dialects.dialogue import Dialogue
from gateway.memory import Memory
from gateway.model import TagTable

if TYPE_CHECKING:
    from gateway.options import JsonOptions, OpcuaJsonOptions, PublisherOptions, SparkplugOptions, ThingsboardOptions


@runtime_checkable
class Numbering(Protocol):
    """An encoder that calls tables by the journal's numbers: it is told each one before a record that uses it."""

    def know(self, number: int, table: TagTable) -> None: ...


@runtime_checkable
class Sized(Protocol):
    """An encoder whose largest message may be made smaller while it works, because the peer takes no larger one."""

    max_message: int


@runtime_checkable
class Bounded(Protocol):
    """An encoder whose peer takes so much and no more."""

    @property
    def limits(self) -> Limits: ...


@runtime_checkable
class Windowed(Protocol):
    """An encoder that wants what comes within a time in one piece; 0: as it comes."""

    @property
    def window(self) -> float: ...


def encoder_for(
    options: PublisherOptions, gateway: str, journal: str, places: Mapping[str, Mapping[str, str]] | None = None
) -> Encoder:
    """Make the encoder of a publisher; `journal` is the journal's id. Raises ValueError for a topic that is none."""
    # the modules are imported here: a site with one format does not pay for the libraries of the others
    if options.format == "json":
        from gateway.encoders.json import Json, topic_for

        settings = cast("JsonOptions", options.settings)
        renamed = options.tags.names if options.tags is not None else {}
        shown = {renamed.get(device, device): place for device, place in (places or {}).items()}
        topic = options.topic or topic_for(settings)
        return Json(gateway, topic, options.max_message, settings, shown, most=options.max_readings)
    if options.format != "columns":
        raise ValueError(f"{options.format} is a conversation: see dialogue_for")
    from gateway.encoders.columns import Columns

    prefix = options.prefix.replace("{gateway}", gateway)
    return Columns(gateway, journal, prefix, options.max_message, options.max_readings)


def dialogue_for(
    name: str,
    options: PublisherOptions,
    gateway: str,
    tables: Sequence[TagTable],
    memory: Memory,
    commands: bool = False,
) -> Dialogue | None:
    """Make the dialogue of a publisher; None where its format is none. Raises ValueError for what its peer cannot take.

    `tables` are those of the configuration, `commands` whether values may be set from outside.
    """
    if options.format == "sparkplug":
        from gateway.encoders.sparkplug import EdgeNode

        settings = cast("SparkplugOptions", options.settings)
        return EdgeNode(
            settings,
            gateway,
            tables,
            memory,
            max_message=options.max_message,
            most=options.max_readings,
            brokers=len(options.url),
            commands=commands,
        )
    if options.format == "opcua-json":
        from gateway.encoders.opcua_json import OpcuaJson

        of = cast("OpcuaJsonOptions", options.settings)
        return OpcuaJson(
            of,
            gateway,
            tables,
            memory,
            max_message=options.max_message,
            most=options.max_readings,
            commands=commands,
        )
    dialect = _dialect(name, options, gateway)
    if dialect is None:
        return None
    from gateway.encoders.cloud import Cloud

    return Cloud(dialect, max_message=options.max_message, most=options.max_readings, commands=commands)


def _dialect(name: str, options: PublisherOptions, gateway: str) -> Dialect | None:
    if options.format == "thingsboard":
        from gateway.dialects.thingsboard import Thingsboard

        return Thingsboard(cast("ThingsboardOptions", options.settings), f"plantbridge-{gateway}-{name}")
    if options.huawei is not None:
        from gateway.dialects.huawei import Huawei

        return Huawei(options.huawei)
    if options.aliyun is not None:
        from gateway.dialects.aliyun import Aliyun

        return Aliyun(options.aliyun, tls=options.secure)
    if options.tencent is not None:
        from gateway.dialects.tencent import Tencent

        return Tencent(options.tencent)
    if options.aws is not None:
        from gateway.dialects.aws import Aws

        return Aws(options.aws)
    if options.azure is not None:
        from gateway.dialects.azure import Azure

        return Azure(options.azure)
    return None
