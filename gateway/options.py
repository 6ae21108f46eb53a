"""What YAML may say about every link, device, poll group and tag, whatever the driver. Drivers extend these models.

The models are the single source: messages, the JSON schema and the reference pages come from them. Unknown keys are
errors. Durations are text with a unit ("500 ms", "1 s", "10 min"): a bare number could mean anything and is refused.
Scale and offset are kept as fractions of the decimal text, so that 0.1 x 231 is 23.1 and not 23.1000000000000014.
"""

from __future__ import annotations

import ipaddress
import math
import os.path
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema

_DURATION: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)\s*$")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)\s*$")
_HUGE: Final = re.compile(r"[eE][+-]?\d{4}")  # Fraction would compute all of its digits
_BYTES: Final = {
    "B": 1, "kB": 1000, "KB": 1000, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip


def seconds(text: object) -> float:
    """Read a duration such as "500 ms" as seconds. Raises ValueError."""
    match = _DURATION.match(text) if isinstance(text, str) else None
    if match is None:
        minutes = re.fullmatch(r"\s*(\d+)\s*(m|mins?|minutes?)\s*", text) if isinstance(text, str) else None
        hint = f"; for minutes write {minutes[1]} min" if minutes else ""
        raise ValueError(f"expected a duration with a unit such as 500 ms, 1 s, 10 min or 1 d, got {text!r}{hint}")
    return float(match[1]) * _SECONDS[match[2]]


def octets(text: object) -> int:
    """Read a size such as "64 MB" as bytes. Raises ValueError."""
    match = _SIZE.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"expected a size with a unit such as 500 kB, 64 MB or 2 GiB, got {text!r}")
    return round(float(match[1]) * _BYTES[match[2]])


def _fraction(value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ValueError(f"expected a number such as 0.1 or a fraction such as 1/3, got {value!r}")
    text = str(value).replace(" ", "")
    try:
        return Fraction("huge" if _HUGE.search(text) or len(text) > 100 else text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a number such as 0.1 or a fraction such as 1/3, got {value!r}") from None


Duration = Annotated[
    float,
    BeforeValidator(seconds),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(us|ms|s|min|h|d)\s*$", "examples": ["1 s"]}),
]
"""Seconds, written with a unit."""

Size = Annotated[
    int,
    BeforeValidator(octets),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([kKMG]i?)?B\s*$", "examples": ["64 MB"]}),
]
"""Bytes, written with a unit."""

_RATE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(messages|B|kB|KB|MB|KiB|MiB|bit|kbit|Mbit)\s*/\s*s\s*$")
_BITS: Final = {"bit": 1 / 8, "kbit": 125, "Mbit": 125_000}
_BUDGET: Final = re.compile(r"^\s*(.*?)\s*/\s*(hour|day|week|month)\s*$")


@dataclass(frozen=True, slots=True)
class Rate:
    """So much a second, at most."""

    octets: float = math.inf
    messages: float = math.inf


@dataclass(frozen=True, slots=True)
class VolumeBudget:
    """So many bytes in each hour, day, week or month of the calendar."""

    octets: int
    per: str
    text: str = ""

    def __str__(self) -> str:
        return self.text or f"{self.octets} B/{self.per}"


def rate(text: object) -> Rate:
    """Read a rate such as "64 kB/s" or "20 messages/s". Raises ValueError."""
    match = _RATE.match(text) if isinstance(text, str) else None
    if match is None or not float(match[1]):
        raise ValueError(f"expected a rate such as 64 kB/s, 512 kbit/s or 20 messages/s, got {text!r}")
    number, unit = float(match[1]), match[2]
    return Rate(messages=number) if unit == "messages" else Rate(octets=number * (_BITS | _BYTES)[unit])


def budget(text: object) -> VolumeBudget:
    """Read a budget such as "50 MB/day". Raises ValueError."""
    match = _BUDGET.match(text) if isinstance(text, str) else None
    if match is None or not _SIZE.match(match[1]):
        raise ValueError(f"expected a budget such as 50 MB/day, 2 MB/hour or 1 GB/month, got {text!r}")
    return VolumeBudget(octets(match[1]), match[2], f"{match[1]}/{match[2]}")


RateText = Annotated[
    Rate,
    GetPydanticSchema(lambda _source, _handler: core_schema.no_info_plain_validator_function(rate)),
    WithJsonSchema({"type": "string", "pattern": _RATE.pattern.replace("(?:", "("), "examples": ["64 kB/s"]}),
]
"""Bytes or messages a second, written with a unit."""

BudgetText = Annotated[
    VolumeBudget,
    GetPydanticSchema(lambda _source, _handler: core_schema.no_info_plain_validator_function(budget)),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\s*\d+(\.\d+)?\s*([kKMG]i?)?B\s*/\s*(hour|day|week|month)\s*$",
            "examples": ["50 MB/day"],
        }
    ),
]
"""Bytes in a period of the calendar."""

Number = Annotated[
    Fraction,
    GetPydanticSchema(lambda _source, _handler: core_schema.no_info_plain_validator_function(_fraction)),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?\d+\s*/\s*\d+$"}]}),
]
"""An exact decimal or fraction."""


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


def _url_schema(schemes: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": rf"^({schemes})://|\$\{{", "examples": [example]})


_BROKER: Final = "mqtt://192.168.1.5:1883, mqtts://broker.example:8883 or wss://broker.example/mqtt"
_SCHEMES: Final = "mqtts?|wss?"
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
    WithJsonSchema(
        {
            "anyOf": [
                one := {
                    "type": "string",
                    "pattern": rf"^({_SCHEMES})://|\$\{{",
                    "examples": ["mqtt://192.168.1.5:1883"],
                },
                {"type": "array", "items": one, "minItems": 1},
            ]
        }
    ),
]
"""One URL, or several in the order in which they are tried."""


def _nats(text: str) -> str:
    """Check the URL of a NATS server."""
    _url("nats|tls", _NATS)(text)
    if "@" in text or text.count("/") > 2:
        raise ValueError(f"the URL has host and port only, such as {_NATS}; username and password have keys: {text!r}")
    return text


NatsUrls = Annotated[
    tuple[Annotated[str, AfterValidator(_nats)], ...],
    BeforeValidator(_one_or_more),
    Field(min_length=1),
    WithJsonSchema(
        {
            "anyOf": [
                nats_one := {
                    "type": "string",
                    "pattern": r"^(nats|tls)://|\$\{",
                    "examples": [_NATS],
                },
                {"type": "array", "items": nats_one, "minItems": 1},
            ]
        }
    ),
]
"""Servers of one NATS cluster."""


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

HttpUrl = Annotated[
    str, AfterValidator(_url("https?", "http://127.0.0.1:8086")), _url_schema("https?", "http://127.0.0.1:8086")
]


def _listen(text: str) -> str:
    match = re.fullmatch(r"(?:\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]*):(\d+)", text)
    if match is None or not int(match[1]) < 65536:
        raise ValueError(f"expected host:port such as 127.0.0.1:9464, got {text!r}")
    return text


Listen = Annotated[str, AfterValidator(_listen)]
"""host:port to listen on; port 0 takes a free one."""


def _switched(value: object) -> object:
    """Take what YAML makes of on and off back."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


OnOff = Annotated[
    Literal["on", "off"], BeforeValidator(_switched), WithJsonSchema({"enum": ["on", "off", True, False]})
]
"""on or off."""


class Options(BaseModel):
    """The base of every model of YAML keys: immutable, and an unknown key is an error."""

    # built at first use: the daemon gets its options checked, and never needs the validators
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True)


class WriteRule(Options):
    """What may be written to a tag, from the command line or from the cloud."""

    minimum: float | None = Field(default=None, alias="min")
    """The smallest value that may be written, in engineering units."""
    maximum: float | None = Field(default=None, alias="max")
    """The largest value that may be written, in engineering units."""
    interval: Duration | None = None
    """Shortest time between two commands for this tag; `tag_interval` of the site's `commands` where not given."""


class SignalOptions(Options):
    """A simulated signal; ignored by the gateway itself."""

    signal: Literal["ramp", "sine", "walk", "counter", "on-off", "states", "constant"] = "sine"
    low: float | None = None
    """Lowest value, in engineering units."""
    high: float | None = None
    """Highest value, in engineering units."""
    period: Duration = 60.0
    """Time of one cycle."""


class TagOptions(Options):
    """A tag: where it lives in the device and what its value means. Plain text is short for {address: text}."""

    address: str
    """Where the tag lives, in the driver's grammar, with its type: `holding:100 float32 CDAB`."""
    unit: str = ""
    """Engineering unit, UCUM where there is one: bar, °C, kW.h."""
    description: str = ""
    scale: Number = Fraction(1)
    """value = raw x scale + offset, computed without decimal noise."""
    offset: Number = Fraction(0)
    minimum: float | None = Field(default=None, alias="min")
    """Lower end of the plausible range, in engineering units."""
    maximum: float | None = Field(default=None, alias="max")
    """Upper end of the plausible range, in engineering units."""
    out_of_range: Literal["uncertain", "bad", "clamp"] = "uncertain"
    """What a value outside min..max becomes: Uncertain, Bad, or moved to the end of the range."""
    deadband: float | str | None = None
    """Report only changes larger than this: a number in engineering units, or "2 %" of max - min. 0 reports every
    change. Without it every reading is reported."""
    max_silence: Duration | None = None
    """Report at least this often, changed or not."""
    not_available: tuple[float, ...] = ()
    """Raw values by which the device says that it has no value; they become Bad."""
    simulate: SignalOptions | None = None
    """What the simulator shows for this tag; without it a signal is chosen that fits its type and range."""
    states: dict[int, str] = Field(default_factory=dict)
    """Names of the values of an enumeration: {0: stopped, 1: running}."""
    writable: WriteRule | Literal[True] | None = None
    """Allow writing; without this key a tag is read-only. The limits are in engineering units."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"address": data} if isinstance(data, str) else data


class GroupOptions(Options):
    """A poll group: tags of a device that are read together."""

    interval: Duration = 1.0
    """Time between scans. Scans sit on multiples of it on the wall clock."""
    phase: Duration = 0.0
    """Shift of the scans against the multiples of the interval."""
    deadband: float | str | None = None
    """Default deadband of the group's tags."""
    max_silence: Duration | None = None
    """Default max_silence of the group's tags."""


class DeviceOptions(GroupOptions):
    """A device on a link. Its keys interval, phase, deadband and max_silence are the defaults of its groups."""

    template: str | None = None
    """A device template whose tags this device has: a file beside the site file, or one of the shipped templates."""
    description: str = ""
    location: dict[str, str] = Field(default_factory=dict, examples=[{"line": "L1", "cell": "press"}])
    """Where the device stands: levels for topics and bodies of `format: json`, beside those of the site."""
    timeout: Duration | None = None
    """How long one request to this device may take; the link's timeout where not given."""
    retries: int = Field(default=1, ge=0, le=10)
    """How often a request is tried again before the device counts as silent."""


class LinkOptions(Options):
    """A connection to one or more devices."""

    driver: str
    """The protocol: modbus, opcua, replay, or the name of an installed third-party driver."""
    url: str = ""
    """Where the peer is, in the driver's grammar."""
    description: str = ""
    timeout: Duration = 1.0
    """How long one request may take."""
    connect_timeout: Duration = 5.0
    """How long making the connection may take."""
    retry_first: Duration = 0.5
    """Pause before the first attempt to reconnect; doubles with each failure, with jitter."""
    retry_longest: Duration = 30.0
    """Longest pause between attempts to reconnect or to probe a silent device."""


# ------------------------------------------------------------------------------------------------ northbound


class JournalOptions(Options):
    """The buffer on disk between devices and brokers."""

    directory: str = "journal"
    """Where the journal lives; relative to the site file's `data` directory."""
    durability: Literal["power", "process"] = "power"
    """power: a commit survives a power cut (fsync). process: it survives the end of the process only."""
    commit_interval: Duration = 0.2
    """A reading is on disk at most this long after it was taken, and published right after."""
    commit_size: Size = 1_000_000
    """Commit earlier where this much has gathered."""
    max_size: Size = 1_000_000_000
    """Most disk that records may take."""
    max_age: Duration | None = None
    """Records older than this are dropped, with a gap record, delivered or not."""
    when_full: Literal["drop-oldest", "hold-scans"] = "drop-oldest"
    """What gives way when max_size is reached: the oldest records, or new scans."""


class TlsOptions(Options):
    """TLS towards a broker; the key's presence turns it on for mqtt:// too."""

    ca: LocalPath | None = None
    """File of the certificate authority; the system's store where not given."""
    certificate: LocalPath | None = None
    """File of the client certificate."""
    key: LocalPath | None = None
    """File of the client's private key."""
    server_name: str | None = None
    """Name the server's certificate must carry, where it differs from the host of the URL."""
    key_password: str | None = Field(default=None, repr=False)
    """Password of the private key, where the file is encrypted."""
    fingerprint: Fingerprints = ()
    """SHA-256 fingerprint of the broker's own certificate, or several of which one must match. Without `ca` it stands
    in place of authority, name and date: for a broker with a self-signed certificate."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if self.key is not None and self.certificate is None:
            raise ValueError("a key is of no use without its certificate: give both")
        return self


class MqttOptions(Options):
    """An MQTT connection."""

    url: BrokerUrls
    """mqtt://host:1883, mqtts://host:8883, ws://host:80/mqtt or wss://host:443/mqtt. Of a list each is tried in order
    when a connection is made."""
    source: IpAddress | None = None
    """Address of this machine to connect from: that of the interface that leads to the broker. The system chooses one
    where not given."""
    version: Literal["5", "3.1.1"] = "5"
    """MQTT version."""
    client_id: str | None = None
    """Client id; made from the gateway's and the publisher's name where not given."""
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    """Best given as ${env:NAME} or ${file:PATH}."""
    tls: TlsOptions | None = None
    keep_alive: Duration = 30.0
    """A silent broker is noticed after twice this time at the latest; on a metered link choose it long."""
    connect_timeout: Duration = 10.0
    """How long making the connection to one broker may take."""
    retry_first: Duration = 0.5
    """Pause before the first attempt to reconnect; doubles with each failure, with jitter."""
    retry_longest: Duration = 30.0
    """Longest pause; also the pause after a refusal that will not pass by itself."""

    @property
    def secure(self) -> bool:
        """Whether every connection is made with TLS."""
        return self.tls is not None or all(url.startswith(("mqtts:", "wss:")) for url in self.url)


Format = Literal[
    "columns", "json", "sparkplug", "opcua-json", "thingsboard", "huawei", "aliyun", "tencent", "aws", "azure"
]
_WITH_SETTINGS: Final = ("huawei", "aliyun", "tencent", "aws", "azure")  # what they need cannot be guessed


class JsonOptions(Options):
    """JSON messages of a shape of your own."""

    per: Literal["scan", "tag", "window"] = "scan"
    """What makes a message: one scan of a device's group, one reading, or all scans of a window (an array)."""
    window: Duration = Field(default=10.0, gt=0)
    """Time between messages of `per: window`."""
    body: dict[str, Any] | None = Field(default=None, examples=[{"value": "{value}", "at": "{time}"}])
    """Keys of a message and what they hold: placeholders, plain values or further keys. The full form where not
    given."""
    retain: bool = False
    """Have the broker keep the newest message of each topic for those who come later."""

    @field_validator("body")
    @classmethod
    def _body_is_plain_data(cls, body: Any) -> Any:
        """Leave the places in the file behind: options are handed to a process that never reads YAML."""
        if isinstance(body, dict):
            return {str(key): cls._body_is_plain_data(value) for key, value in body.items()}
        return str(body) if isinstance(body, str) else body


class SparkplugOptions(Options):
    """Sparkplug B 3.0: this gateway as an edge node, its devices as Sparkplug devices."""

    group: str = "PlantBridge"
    """Sparkplug group id."""
    node: str | None = None
    """Edge node id; the gateway's id where not given. Group and node together must be unique on the broker."""
    primary_host: str | None = None
    """Host application whose STATE decides: nothing is sent until it is online, and when it goes offline the gateway
    disconnects and tries the next broker."""
    datatype_in_data: bool = False
    """Repeat each metric's data type in DATA messages. The standard advises against it; some readers need it."""


class OpcuaJsonOptions(Options):
    """OPC UA PubSub, JSON (Part 14)."""

    prefix: str = "opcua"
    """First level of the topics."""
    publisher_id: str | None = None
    """The gateway's id where not given."""
    fields: Literal["data-value", "variant", "raw"] = "data-value"
    """data-value: value, status and source time. variant: value, or the status where it is Bad. raw: the value."""
    encoding: Literal["plain", "reversible", "compact"] = "plain"
    """plain: values without their type (1.04 non-reversible). reversible: {"Type", "Body"} (1.04). compact:
    {"UaType", "Value"} (1.05)."""


class ThingsboardOptions(Options):
    """ThingsBoard, gateway API."""

    token: str | None = Field(default=None, repr=False)
    """Access token of the gateway device; without it the publisher's username and password are used."""
    device_type: str = "default"
    """Device profile of devices that ThingsBoard does not know yet."""
    quality: bool = True
    """Publish `<tag>.quality` for readings that are not Good; a Bad reading has nothing else."""


class HuaweiOptions(Options):
    """Huawei Cloud IoTDA: a gateway with sub-devices."""

    device_id: str
    """Device id of the gateway."""
    secret: str = Field(repr=False)
    check_time: bool = False
    """Let the platform compare the hour in the signature with its own: a gateway with a wrong clock is locked out."""
    devices: dict[str, str] = Field(default_factory=dict)
    """Device ids of the sub-devices, by the names they have here; {device} where not listed: see sub_device."""
    sub_device: str = "{device}"
    """Device id of sub-devices that are not listed."""
    service: str = "{group}"
    """Service id of the product model; {device} and {group} are replaced."""


class DeviceIdentity(Options):
    """Who a sub-device is on the platform."""

    product: str
    """Product key or product id."""
    name: str
    """Device name."""
    secret: str = Field(default="", repr=False)
    """Device secret, where the platform wants each sub-device to log in."""


class AliyunOptions(Options):
    """Alibaba Cloud IoT (Alink JSON): a gateway with sub-devices."""

    product: str
    """Product key of the gateway."""
    name: str
    """Device name of the gateway."""
    secret: str = Field(repr=False)
    client_id: str | None = None
    """First part of the MQTT client id; product.name where not given."""
    devices: dict[str, DeviceIdentity] = Field(default_factory=dict)
    """The sub-devices by the names they have here; devices that are not listed are not published."""


class TencentOptions(Options):
    """Tencent Cloud IoT Explorer: a gateway with sub-devices."""

    product: str
    """Product id of the gateway."""
    name: str
    """Device name of the gateway."""
    secret: str = Field(repr=False)
    """Device secret (PSK), base64."""
    devices: dict[str, DeviceIdentity] = Field(default_factory=dict)
    """The sub-devices by the names they have here; devices that are not listed are not published."""
    validity: Duration = 86400.0
    """How long a user name that we sign is valid; a new session is made before that."""


class AwsOptions(Options):
    """AWS IoT Core: free JSON, commands by the thing's shadow."""

    thing: str
    """Name of the thing; also the client id."""
    topic: str = "plantbridge/{thing}/{device}"
    """Topic of the data; {thing} and {device} are replaced. At most seven slashes."""
    rule: str | None = None
    """Basic Ingest: send to this rule without a publish charge ($aws/rules/RULE/...)."""
    shadow: str | None = None
    """Name of the shadow whose desired state are commands; the unnamed shadow where not given."""


class AzureOptions(Options):
    """Azure IoT Hub: free JSON, commands by direct method or by the twin's desired properties."""

    hub: str
    """Host name of the hub: NAME.azure-devices.net."""
    device_id: str
    key: str | None = Field(default=None, repr=False)
    """Device key, base64, for SAS tokens; null with a client certificate."""
    validity: Duration = 3600.0
    """How long a SAS token is valid; a new session is made before that."""
    method: str = "set"
    """Name of the direct method that sets values: {"device": "press-1", "values": {"setpoint": 5}}."""


class TagSelection(Options):
    """What a publisher may tell. A list of globs is short for {include: list}."""

    include: tuple[str, ...] = ("*",)
    """Globs over DEVICE/TAG: press-1/*, "*/energy*"; a glob without a slash means a device."""
    exclude: tuple[str, ...] = ()
    """Globs of tags that stay out, whatever includes them."""
    names: dict[str, str] = Field(default_factory=dict, alias="as")
    """Other names: {press-1: machine-a, press-1/hyd_p2: pressure}. A device by its name, a tag by DEVICE/TAG."""
    hide: tuple[Literal["address", "description", "unit", "limits", "states", "group"], ...] = ("address",)
    """Parts of the definitions that are not told. address: also scale and offset. limits: min and max. states: names of
    values."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"include": data} if isinstance(data, list | tuple) else data


class PublisherOptions(MqttOptions):
    """One northbound connection with its own cursor in the journal."""

    format: Format = "columns"
    """columns: Arrow with zstd, the native form. json: one message per device and scan. sparkplug: an edge node of
    Sparkplug B 3.0. opcua-json: OPC UA PubSub. The others are cloud platforms."""
    json_settings: JsonOptions | None = Field(default=None, alias="json")
    """Settings of `format: json`."""
    sparkplug: SparkplugOptions | None = None
    """Settings of `format: sparkplug`."""
    opcua_json: OpcuaJsonOptions | None = None
    """Settings of `format: opcua-json`."""
    thingsboard: ThingsboardOptions | None = None
    """Settings of `format: thingsboard`."""
    huawei: HuaweiOptions | None = None
    """Settings of `format: huawei`; needed for it."""
    aliyun: AliyunOptions | None = None
    """Settings of `format: aliyun`; needed for it."""
    tencent: TencentOptions | None = None
    """Settings of `format: tencent`; needed for it."""
    aws: AwsOptions | None = None
    """Settings of `format: aws`; needed for it."""
    azure: AzureOptions | None = None
    """Settings of `format: azure`; needed for it."""
    topic: str | None = None
    """Topic template. columns: the prefix, default `plantbridge/{gateway}`. json: default
    `plantbridge/{gateway}/json/{device}/{group}`, also with {tag} and the levels of `location`."""
    tags: TagSelection | None = None
    """The tags that are published, and what is told of them; all of everything where not given."""
    backlog: Literal["oldest", "newest"] = "oldest"
    """After an outage new data goes at once, and what was left behind beside it: the oldest or the newest first."""
    rate: RateText | None = None
    """Send at most so much: 64 kB/s, 512 kbit/s or 20 messages/s. New data goes first, the backlog takes what is
    left."""
    budget: BudgetText | None = None
    """Send at most so many bytes in each hour, day, week or month (local time): 50 MB/day. New data goes first, the
    backlog with what is left; when it is used up the journal keeps what comes. TLS is not counted."""
    widen: float = Field(default=1.0, ge=1, le=1000)
    """Widen the tags' deadbands by this factor while the budget is nearly used up. What is left out is told as a gap
    with the reason `thinned`."""
    window: int = Field(default=32, ge=1, le=1000)
    """Messages that may wait for their acknowledgement at once."""
    max_message: Size = 256_000
    """Largest payload of one message."""
    ack_timeout: Duration = 20.0
    """A message not acknowledged in this time ends the session, and is sent again in the next."""
    unheard: Literal["keep", "deliver"] | None = None
    """What a message is that the broker took and nobody is subscribed to (MQTT 5 says so): kept in the journal and sent
    again until somebody is, the default of `columns`; or delivered, the default of other formats. Set deliver where a
    rule inside the broker takes the messages."""
    acknowledge: Literal["broker", "store"] = "broker"
    """Who must have a reading before the journal lets go of it. broker: whoever answers the PUBLISH. store: ingest,
    which says so once the store has committed it; then nothing is lost in a broker either. Format columns, all tags."""
    patience: Duration = Field(default=60.0, ge=1.0)
    """With `acknowledge: store`: after this time a record that is not stored is sent again, where later ones are."""
    key: str | None = Field(default=None, repr=False, min_length=16)
    """Shared with ingest's `key`: signs what this gateway sums up for it, and is asked of what it says is stored."""
    settle: Duration = 5.0
    """What the broker acknowledged in this time before a session broke is sent again in the next: a broker that was
    killed may not have written it down. Stores drop what comes twice."""
    commands: OnOff = "on"
    """off: nothing can be set through this publisher, whatever the site's `commands` say. on: as the site says."""

    @model_validator(mode="after")
    def _settings_of_the_format(self) -> Self:
        for name in ("sparkplug", "opcua_json", "thingsboard", "huawei", "aliyun", "tencent", "aws", "azure"):
            given, wanted = getattr(self, name) is not None, self.format == name.replace("_", "-")
            if given and not wanted:
                raise ValueError(f"{name} has the settings of another format than {self.format}")
            if wanted and not given and name in _WITH_SETTINGS:
                raise ValueError(f"format {self.format} needs the key {name} with its settings")
        plain = [url for url in self.url if not url.startswith(("mqtts:", "wss:"))]
        if self.format in ("aws", "azure") and self.tls is None and plain:
            raise ValueError(f"{self.format} takes connections over TLS only: write the url as mqtts://HOST")
        if self.json_settings is not None and self.format != "json":
            raise ValueError(f"json has the settings of another format than {self.format}")
        return self

    message_expiry: Duration | None = None
    """Age after which the broker need not deliver a message any more (MQTT 5); without it never."""
    content_type: str | None = None
    """Content type that goes with each message (MQTT 5)."""
    user_properties: dict[str, str] = Field(default_factory=dict)
    """Names and values that go with each message (MQTT 5)."""

    @property
    def expiry(self) -> int | None:
        """`message_expiry` as MQTT counts it, in whole seconds."""
        return None if self.message_expiry is None else min(max(1, round(self.message_expiry)), 0xFFFFFFFF)

    @model_validator(mode="after")
    def _only_under_5(self) -> Self:
        given = [key for key in ("message_expiry", "content_type", "user_properties") if getattr(self, key)]
        if given and self.version != "5":
            raise ValueError(f"{' and '.join(given)} need MQTT 5: leave out version: 3.1.1")
        return self

    @model_validator(mode="after")
    def _the_store_can_tell(self) -> Self:
        if self.acknowledge == "store" and (self.format != "columns" or self.tags is not None or self.widen > 1):
            raise ValueError(
                "acknowledge: store needs format: columns, and all that is read: no tags, no widen; ingest cannot tell"
                " what is lost from what it was not told"
            )
        return self

    @model_validator(mode="after")
    def _a_budget_to_live_on(self) -> Self:
        if self.widen > 1 and self.budget is None:
            raise ValueError("widen needs a budget: deadbands widen when that is nearly used up")
        if self.budget is not None:
            seconds_of = {"hour": 3600.0, "day": 86400.0, "week": 604800.0, "month": 2678400.0}[self.budget.per]
            pings = round(84 * seconds_of / max(1.0, self.keep_alive))
            if self.budget.octets < max(100_000, 2 * pings):
                raise ValueError(
                    f"a budget of {self.budget} is too small: keep-alives alone take about {pings // 1000} kB of it,"
                    " and 100 kB are the least; give a longer keep_alive or period"
                )
        return self

    def prefix(self, gateway: str) -> str:
        """Give the topic prefix of the native format, under which every publisher tells its status too."""
        template = self.topic if self.format == "columns" and self.topic else "plantbridge/{gateway}"
        return template.replace("{gateway}", gateway).rstrip("/")


class CommandOptions(Options):
    """Commands: values that others set through the gateway."""

    expires: Duration = Field(default=10.0, gt=0)
    """A command older than this is refused. It may say a shorter time itself."""
    clock_skew: Duration = 2.0
    """How far the sender's clock may differ from the gateway's: a command from further in the future is refused, and
    this much is added to `expires`."""
    tag_interval: Duration = 1.0
    """Shortest time between two commands for one tag; a tag's `writable: {interval: ...}` is for that tag."""
    rate: float = Field(default=10.0, gt=0, le=1000)
    """Values that may be set in a second, all tags together; as many may come at once after a pause."""
    largest: Size = 64_000
    """Largest payload of a command; larger ones are not even read."""
    values: int = Field(default=100, ge=1, le=10_000)
    """Most values in one command."""
    repeat: Duration = 600.0
    """A command whose id was seen in this time is answered as before, and not carried out again. Never shorter than
    `expires` and twice `clock_skew` together, so that a recorded command cannot be played again later."""
    audit: Size = Field(default=200_000_000, ge=1_000_000)
    """Most disk that the audit log may take; the oldest files go, and the log says so."""

    @property
    def window(self) -> float:
        """Seconds in which ids are remembered."""
        return max(self.repeat, self.expires + 2 * self.clock_skew)


class MetricsOptions(Options):
    """Prometheus metrics and health over HTTP."""

    listen: Listen | None = "127.0.0.1:9464"
    """host:port of /metrics and /healthz; null turns them off. Any address but loopback must be asked for here."""


class LogOptions(Options):
    """The daemon's log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, JSON elsewhere."""


class DuckdbOptions(Options):
    """The embedded store: one file, one process."""

    type: Literal["duckdb"] = "duckdb"
    path: str = "plantbridge.duckdb"
    """The database file; relative to the `data` directory."""
    retention: Duration | None = None
    """How long readings and gaps are kept: whole UTC days that are older are deleted, once an hour. null: for ever."""


class InfluxdbOptions(Options):
    """InfluxDB 2 or 3, or anything that takes its v2 write API."""

    type: Literal["influxdb"]
    url: HttpUrl
    org: str = ""
    bucket: str
    token: str = Field(default="", repr=False)
    timeout: Duration = 10.0


class ParquetOptions(Options):
    """A folder of Parquet files, by gateway and day."""

    type: Literal["parquet"]
    path: str = "parquet"
    """The folder; relative to the `data` directory."""
    every: Duration = 300.0
    """How often readings move into the folder. Until then they are in `data`, in staging.duckdb, on the disk."""


class PostgresOptions(Options):
    """PostgreSQL 13 or later, or TimescaleDB."""

    type: Literal["postgres"]
    url: str = Field(examples=["postgresql://plantbridge@db.example/plant"])
    """The database: a URL or libpq's keywords, also for TLS (sslmode=verify-full, sslrootcert=...)."""
    password: str = Field(default="", repr=False)
    db_schema: str = Field(default="plantbridge", alias="schema")
    """Where the tables are; made where it is missing."""
    timeout: Duration = 10.0


class VictoriametricsOptions(Options):
    """VictoriaMetrics: floats at milliseconds, 64-bit integers exact as a pair of metrics, texts as labels."""

    type: Literal["victoriametrics"]
    url: HttpUrl
    username: str = ""
    password: str = Field(default="", repr=False)
    token: str = Field(default="", repr=False)
    """A bearer token, where vmauth or a hosted service asks for one; username and password otherwise."""
    settle: Duration = 12.0
    """How long after the server's answer the broker is told: when the server has it on its disk. 12 s suits version
    1.79 (measured) and newer ones with their -inmemoryDataFlushInterval of 5 s. 0 s: what the server had in memory
    when it was killed is lost."""
    timeout: Duration = 10.0


StoreOptions = DuckdbOptions | InfluxdbOptions | ParquetOptions | PostgresOptions | VictoriametricsOptions

STORES: Final[dict[str, type[StoreOptions]]] = {
    "duckdb": DuckdbOptions,
    "influxdb": InfluxdbOptions,
    "parquet": ParquetOptions,
    "postgres": PostgresOptions,
    "victoriametrics": VictoriametricsOptions,
}
"""What a cloud file may say under `store`, by its type."""


class StreamOptions(Options):
    """A stream that many workers read as one consumer."""

    url: NatsUrls
    """nats://host:4222 or tls://host:4222, or a list of them: servers of one cluster."""
    redeliver: Duration = Field(default=30.0, ge=1.0)
    """A message that a worker was given, and that it neither acknowledged nor said to be at work on for this time, is
    given to another: the worker was killed, or cut off."""


class IngestOptions(MqttOptions):
    """The cloud side's subscription."""

    topic: str = "plantbridge/+"
    """Topic prefix of the gateways to take in."""
    share: str | None = None
    """Group of a shared subscription (MQTT 5): workers that name the same group share the load, each with a client_id
    of its own. mosquitto 2.0 drops what is for a shared subscription while none of its workers is connected, and over
    its own restart: with one worker leave it out."""
    stream: StreamOptions | None = None
    """Take readings from a stream of NATS JetStream instead of the MQTT session, which still brings what is retained:
    where gateways publish to nats-server. Same user, password and tls as for `url`."""
    batch_interval: Duration = 0.25
    """Messages are stored together at least this often."""
    in_flight: int = Field(default=200, ge=1, le=65535)
    """Messages that may wait for the store before the broker stops sending (receive maximum)."""
    session_expiry: Duration = 7 * 86400.0
    """How long the broker keeps messages for an ingest that is away (MQTT 5)."""
    key: str | None = Field(default=None, repr=False, min_length=16)
    """Shared with the gateways' `key`: signs what ingest tells them, and is asked of what they tell."""

    @model_validator(mode="after")
    def _a_stream_is_known_by_its_authority(self) -> Self:
        if self.stream is not None and self.tls is not None and self.tls.fingerprint and self.tls.ca is None:
            raise ValueError("a stream's servers are known by tls.ca; a fingerprint alone serves for MQTT only")
        return self
