"""Where things are: files, URLs of brokers and servers, addresses to listen on, and fingerprints of who is there."""

from __future__ import annotations

import ipaddress
import os.path
import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema


def _beside(text: str, info: ValidationInfo) -> str:
    return os.path.join((info.context or {}).get("directory", ""), text)


LocalPath = Annotated[str, AfterValidator(_beside)]
"""A file or directory; relative paths are relative to the YAML file they stand in."""


def _url(schemes: str, example: str) -> Callable[[str], str]:
    """Make the check of a URL with one of these schemes, a host, and perhaps a port."""
    host = r"(?:\[[0-9a-fA-F:.%]+\]|[^\s/:@\[\]]+)"
    pattern = re.compile(rf"(?:{schemes})://(?:[^@/\s]*@)?{host}(?::(\d+))?(?:[/?#]\S*)?")

    def check(text: str) -> str:
        match = pattern.fullmatch(text)
        if match is None or not 0 < int(match[1] or 1) < 65536:
            raise ValueError(f"expected a URL such as {example}, got {text!r}")
        return text

    return check


def _url_schema(schemes: str, example: str) -> dict[str, Any]:
    return {"type": "string", "pattern": rf"^({schemes})://|\$\{{", "examples": [example]}


def _urls_schema(schemes: str, example: str) -> WithJsonSchema:
    """Describe one URL, or a list of them."""
    one = _url_schema(schemes, example)
    return WithJsonSchema({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})


_BROKER: Final = "mqtt://192.168.1.5:1883, mqtts://broker.example:8883 or wss://broker.example/mqtt"
_SCHEMES: Final = "mqtts?|wss?"
_NATS_SCHEMES: Final = "nats|tls"
_NATS: Final = "nats://192.168.1.5:4222"


def _broker(text: str) -> str:
    """Check the URL of a broker; a path only where there is a WebSocket."""
    _url(_SCHEMES, _BROKER)(text)
    scheme, _, rest = text.partition("://")
    place, _, path = rest.partition("/")
    if "@" in place or (scheme in ("mqtt", "mqtts") and (path or "?" in place or "#" in place)):
        raise ValueError(
            "the URL has host and port only, and a path where it begins with ws: user name, password and topic have"
            f" keys of their own, got {text!r}"
        )
    return text


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


BrokerUrls = Annotated[
    tuple[Annotated[str, AfterValidator(_broker)], ...],
    BeforeValidator(_one_or_more),
    Field(min_length=1),
    _urls_schema(_SCHEMES, "mqtt://192.168.1.5:1883"),
]
"""One URL, or several in the order in which they are tried."""


def _nats(text: str) -> str:
    """Check the URL of a NATS server."""
    _url(_NATS_SCHEMES, _NATS)(text)
    if "@" in text or text.count("/") > 2:
        raise ValueError(f"the URL has host and port only, such as {_NATS}; username and password have keys: {text!r}")
    return text


NatsUrls = Annotated[
    tuple[Annotated[str, AfterValidator(_nats)], ...],
    BeforeValidator(_one_or_more),
    Field(min_length=1),
    _urls_schema(_NATS_SCHEMES, _NATS),
]
"""Servers of one NATS cluster."""


def _bootstrap(text: str) -> str:
    """Check the address of a Kafka broker."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or "/" in text or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"expected host:port such as 192.168.1.5:9092, got {text!r}")
    return text


KafkaServers = Annotated[
    tuple[Annotated[str, AfterValidator(_bootstrap)], ...],
    BeforeValidator(_one_or_more),
    Field(min_length=1),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
            "examples": ["192.168.1.5:9092"],
        }
    ),
]
"""Brokers of one Kafka cluster, of which one must answer."""


def _fingerprint(text: object) -> object:
    """Read a SHA-256 fingerprint as openssl and browsers write it."""
    if not isinstance(text, str):
        return text
    plain = re.sub(r"^sha-?256( fingerprint)?[:=]", "", text.strip().lower()).replace(":", "").replace(" ", "")
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError(f"expected a SHA-256 fingerprint of 64 hexadecimal digits, got {text!r}")
    return plain


Fingerprints = Annotated[
    tuple[Annotated[str, BeforeValidator(_fingerprint)], ...],
    BeforeValidator(_one_or_more),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "examples": ["AB:CD:..."]}
    ),
]
"""One SHA-256 fingerprint, or several of which one must match."""


def _address(text: object) -> object:
    if isinstance(text, str):
        try:
            return str(ipaddress.ip_address(text.strip()))
        except ValueError:
            raise ValueError(f"expected an IP address of this machine such as 192.168.1.5, got {text!r}") from None
    return text


IpAddress = Annotated[str, BeforeValidator(_address), WithJsonSchema({"type": "string", "examples": ["192.168.1.5"]})]
"""An address without a port."""

_HTTP: Final = ("https?", "http://127.0.0.1:8086")

HttpUrl = Annotated[str, AfterValidator(_url(*_HTTP)), WithJsonSchema(_url_schema(*_HTTP))]
"""The URL of a server that is spoken to over HTTP."""


def _listen(text: str) -> str:
    match = re.fullmatch(r"(?:\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]*):(\d+)", text)
    if match is None or not int(match[1]) < 65536:
        raise ValueError(f"expected host:port such as 127.0.0.1:9464, got {text!r}")
    return text


Listen = Annotated[str, AfterValidator(_listen)]
"""host:port to listen on; port 0 takes a free one."""
