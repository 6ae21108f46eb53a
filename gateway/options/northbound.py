"""Keys of connections to brokers, and of publishers: what is told, in which format, and how fast."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from gateway.options.addresses import BrokerUrls, Fingerprints, IpAddress, LocalPath
from gateway.options.formats import (
    WITH_SETTINGS,
    AliyunOptions,
    AwsOptions,
    AzureOptions,
    Format,
    HuaweiOptions,
    JsonOptions,
    OpcuaJsonOptions,
    SparkplugOptions,
    TencentOptions,
    ThingsboardOptions,
)
from gateway.options.values import BudgetText, Duration, OnOff, Options, RateText, Size


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
    def trust(self) -> TlsOptions:
        """The settings of TLS, where it is used."""
        return self.tls or TlsOptions()

    @property
    def secure(self) -> bool:
        """Whether every connection is made with TLS."""
        return self.tls is not None or all(url.startswith(("mqtts:", "wss:")) for url in self.url)


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
    max_readings: int | None = Field(default=None, ge=1)
    """Readings in one message at most, where a peer takes only so many; the limits of the platforms hold anyway. A
    birth of Sparkplug shows all metrics of its device, however many these are."""
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
            if wanted and not given and name in WITH_SETTINGS:
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

    @property
    def prefix(self) -> str:
        """The topic prefix of the native format, with {gateway}; under it every publisher tells its status too."""
        return (self.topic if self.format == "columns" and self.topic else "plantbridge/{gateway}").rstrip("/")

    @property
    def settings(self) -> Options | None:
        """The settings of the format, its defaults where none are given; None where it has none."""
        name = "json_settings" if self.format == "json" else self.format.replace("-", "_")
        defaults: dict[str, type[Options]] = {
            "json": JsonOptions,
            "sparkplug": SparkplugOptions,
            "opcua-json": OpcuaJsonOptions,
            "thingsboard": ThingsboardOptions,
        }
        given: Options | None = getattr(self, name, None)
        return defaults[self.format]() if given is None and self.format in defaults else given
