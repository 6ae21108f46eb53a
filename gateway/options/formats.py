"""Formats of publishers, and the settings of those that have any: JSON, Sparkplug, OPC UA PubSub, cloud platforms."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, field_validator

from gateway.options.values import Duration, Options

Format = Literal[
    "columns", "json", "sparkplug", "opcua-json", "thingsboard", "huawei", "aliyun", "tencent", "aws", "azure"
]
WITH_SETTINGS: Final = ("huawei", "aliyun", "tencent", "aws", "azure")  # what they need cannot be guessed


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
