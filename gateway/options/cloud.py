"""Keys of the cloud side: stores, a stream, and ingest's subscription."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from gateway.options.addresses import HttpUrl, KafkaServers, NatsUrls
from gateway.options.northbound import MqttOptions, TlsOptions
from gateway.options.values import Duration, Options, Size


class DuckdbOptions(Options):
    """The embedded store: one file, one process."""

    type: Literal["duckdb"] = "duckdb"
    path: str = "plantbridge.duckdb"
    """The database file; relative to the `data` directory."""
    retention: Duration | None = None
    """How long readings are kept: whole UTC days that are older are deleted, once an hour. null: for ever."""
    retention_minutes: Duration | None = None
    """How long roll-ups of minutes are kept; at least as long as readings. null: for ever."""
    retention_hours: Duration | None = None
    """How long roll-ups of hours are kept, and declared gaps; at least as long as minutes. null: for ever."""
    memory: Size = Field(default=256_000_000, ge=48_000_000)
    """Most that the database keeps of its file in memory, with what queries need; what a query needs beyond it goes
    through temporary files. More makes queries over much data faster."""

    @model_validator(mode="after")
    def _what_is_coarser_is_kept_longer(self) -> Self:
        kept = (self.retention, self.retention_minutes, self.retention_hours)
        names = ("retention", "retention_minutes", "retention_hours")
        for finer, coarser in ((0, 1), (1, 2)):
            shorter, longer = kept[finer], kept[coarser]
            if longer is not None and (shorter is None or shorter > longer):
                raise ValueError(
                    f"{names[coarser]} is shorter than {names[finer]}: roll-ups are kept at least as long as what they"
                    " are made of"
                )
        return self


class InfluxdbOptions(Options):
    """InfluxDB 2 or 3, or anything that takes its v2 write API."""

    type: Literal["influxdb"]
    url: HttpUrl
    org: str = ""
    bucket: str
    token: str = Field(default="", repr=False)
    timeout: Duration = 10.0


class ParquetOptions(Options):
    """A folder of Parquet files, by gateway and day; on this machine or in an S3-like bucket."""

    type: Literal["parquet"]
    path: str = "parquet"
    """The folder, relative to the `data` directory; or s3://bucket/prefix."""
    every: Duration = 300.0
    """How often readings move into the folder. Until then they are in `data`, in staging.duckdb, on the disk."""
    endpoint: HttpUrl | None = None
    """Of the bucket: where it is not Amazon's. https://minio.example:9000"""
    region: str = "us-east-1"
    access_key: str = ""
    """Without it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment, or the machine's role."""
    secret_key: str = Field(default="", repr=False)
    bucket_in_host: bool = False
    """The endpoint's host begins with the bucket's name (virtual-hosted style), as some clouds demand."""
    timeout: Duration = 30.0
    """For a request to the bucket."""

    @model_validator(mode="after")
    def _a_bucket_has_a_name_and_a_folder_has_no_endpoint(self) -> Self:
        if self.path.startswith("s3://"):
            if not self.path.removeprefix("s3://").split("/")[0]:
                raise ValueError("path names no bucket: expected s3://bucket/prefix")
        elif self.endpoint or self.access_key or self.secret_key:
            raise ValueError("endpoint, access_key and secret_key are for path: s3://bucket/prefix")
        if bool(self.access_key) != bool(self.secret_key):
            raise ValueError("access_key and secret_key go together")
        return self


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


class KafkaOptions(Options):
    """A topic of Kafka, or of what speaks its protocol, that many workers read as one consumer group."""

    servers: KafkaServers
    """host:port, or a list of them: brokers of one cluster."""
    topic: str = Field(default="plantbridge", min_length=1)
    """The topic into which the MQTT broker's bridge writes what gateways publish."""
    mqtt_topic: str = Field(default="key", pattern="^(key|header:.+)$")
    """Where a record has its MQTT topic: key, or header:NAME."""
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How username and password are shown to the brokers (SASL)."""
    tls: TlsOptions | None = None
    """Its presence turns TLS on."""
    redeliver: Duration = Field(default=30.0, ge=1.0)
    """A worker that was not heard of for this time is taken for dead, and its partitions go to others."""

    @model_validator(mode="after")
    def _a_password_is_not_shown_to_everybody(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.mechanism == "PLAIN" and self.password is not None and self.tls is None:
            raise ValueError("PLAIN shows the password to whoever listens: add tls: {}, or use SCRAM-SHA-512")
        if self.tls is not None and self.tls.fingerprint:
            raise ValueError("a cluster's brokers are known by tls.ca; a fingerprint serves for MQTT only")
        return self


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
    kafka: KafkaOptions | None = None
    """Take readings from a topic of Kafka instead of the MQTT session, which still brings what is retained: where the
    MQTT broker hands what gateways publish to Kafka."""
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
        if self.stream is not None and self.kafka is not None:
            raise ValueError("stream and kafka are two places to take the same readings from; keep one")
        return self
