"""The keys of whole files, and the composed models of each driver's links: what the JSON schema is made from.

A site file's links are checked piece by piece (gateway.config.links), each piece by the very models that are composed
here, so that one wrong tag does not hide another.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Union, get_args

from pydantic import BaseModel, Field, create_model

from gateway.contracts import DriverSpec
from gateway.options import (
    ClockOptions,
    CommandOptions,
    DuckdbOptions,
    Duration,
    IngestOptions,
    JournalOptions,
    Listen,
    LogOptions,
    MetricsOptions,
    OnOff,
    Options,
    PublisherOptions,
    StoreOptions,
    Unlinked,
    UnlinkedOptions,
)


class SiteOptions(Options):
    """A site: one gateway, the links to its devices, and where the data goes."""

    gateway: str = Field(examples=["press-shop"])
    """The gateway's name: short, unique among the gateways of one broker, part of every topic."""
    data: str = "./data"
    """Directory for the journal and everything else the gateway keeps; relative to this file."""
    location: dict[str, str] = Field(default_factory=dict, examples=[{"enterprise": "Acme", "site": "Hangzhou"}])
    """Where the site is: levels for topics and bodies of `format: json`; a device's `location` adds to them."""
    include: list[str] = Field(default_factory=list, examples=[["lines/*.yaml"]])
    """Files with more links: names or patterns, relative to this file."""
    links: dict[str, Any] = Field(default_factory=dict)
    """Connections to devices, by name."""
    inventory: dict[str, Unlinked | UnlinkedOptions] = Field(default_factory=dict, examples=[{"lathe-7": "planned"}])
    """Machines of the plant that have no link, by name: planned, or not-connectable; or keys and values."""
    publish: dict[str, PublisherOptions] = Field(default_factory=dict)
    """Brokers to publish to, by name. Each has a cursor of its own in the journal."""
    watch: bool = False
    """Load a change of these files without being asked to, a second or two after the last write."""
    probation: Duration = 30.0
    """A device that a reload has changed and that does not answer within this time gets its old definition back; 0 s:
    the new one stays."""
    commands: OnOff | CommandOptions = "off"
    """Let tags that are `writable` be set from outside: on, or keys and values of how; off where not given."""
    journal: JournalOptions = JournalOptions()
    clock: ClockOptions = ClockOptions()
    metrics: MetricsOptions = MetricsOptions()
    log: LogOptions = LogOptions()


class FragmentOptions(Options):
    """A file that a site file includes."""

    include: list[str] = Field(default_factory=list)
    """Files with more links; relative to this file."""
    links: dict[str, Any] = Field(default_factory=dict)
    """Connections to devices, by name."""
    inventory: dict[str, Unlinked | UnlinkedOptions] = Field(default_factory=dict)
    """Machines that have no link, by name."""


class TemplateOptions(Options):
    """What a device template says about itself; its other keys are those of a device."""

    driver: str
    """The driver whose devices it describes."""
    description: str = ""
    """Make and model."""
    source: str = ""
    """Where the addresses come from: manual, edition, page."""
    trust: str = ""
    """How well it is proven: documented, simulated or hardware-verified."""
    template: str | None = None
    """Another template that this one begins from."""


class CloudMetrics(MetricsOptions):
    """Prometheus metrics and health of ingest over HTTP."""

    listen: Listen | None = "127.0.0.1:9465"
    """host:port of /metrics and /healthz; null turns them off. Any address but loopback must be asked for here."""


class CloudFrame(Options):
    """The keys of a cloud file beside broker and store."""

    data: str = "./cloud-data"
    """Directory for the embedded store and the dead letters; relative to this file."""
    dead_letters: str = "dead-letters"
    """Directory for messages that cannot be decoded or stored; relative to `data`."""
    metrics: CloudMetrics = CloudMetrics()
    log: LogOptions = LogOptions()


class CloudOptions(CloudFrame):
    """The cloud side: a broker to take messages from, and a store to put them into."""

    broker: IngestOptions
    store: Annotated[StoreOptions, Field(discriminator="type")] = DuckdbOptions()


STRUCTURE: Final = {"link": ("devices",), "device": ("tags", "groups"), "group": ("tags",), "site": ("links",)}
"""Keys that hold the next level; they are checked on their own."""


def link_model(spec: DriverSpec) -> type[BaseModel]:
    """Compose what a whole link of this driver may say: its keys, its devices, their groups and tags."""
    title = spec.name.capitalize()
    tag: Any = Annotated[Union[spec.tag, str], Field(description=spec.tag.__doc__)]  # noqa: UP007  # made at run time
    tags = _named(tag, "Tags by name. Plain text is short for {address: text}.")
    group: Any = create_model(f"{title}Group", __base__=spec.groups, __doc__=spec.groups.__doc__, tags=tags)
    groups = _named(group, "Poll groups by name, for tags with an interval of their own.")
    device: Any = create_model(
        f"{title}DeviceWithTags", __base__=spec.device, __doc__=spec.device.__doc__, tags=tags, groups=groups
    )
    driver: Any = (Literal[spec.name], Field(description="The protocol."))
    devices = _named(device, "Devices by name; names are unique in the whole site.")
    link: type[BaseModel] = create_model(
        f"{title}LinkWithDevices", __base__=spec.link, __doc__=spec.link.__doc__, driver=driver, devices=devices
    )
    return link


def _named(model: Any, description: str | None) -> Any:
    """Make the field of a mapping from names to models."""
    return (dict[str, model], Field(default={}, description=description))


def template_model(specs: list[DriverSpec]) -> Any:
    """Compose what a template file may say: what it is about, and a device's keys; told apart by `driver`."""
    models = []
    for spec in specs:
        device: Any = link_model(spec).model_fields["devices"].annotation
        driver: Any = (Literal[spec.name], Field(description="The driver whose devices it describes."))
        models.append(
            create_model(
                f"{spec.name.capitalize()}Template",
                __base__=(TemplateOptions, get_args(device)[1]),
                __doc__="A device template: the tags of one make and model.",
                driver=driver,
            )
        )
    return Annotated[Union[tuple(models)], Field(discriminator="driver")] if len(models) > 1 else models[0]  # noqa: UP007


def any_link(specs: list[DriverSpec]) -> Any:
    """Compose the union of all drivers' links, told apart by `driver`."""
    models = tuple(link_model(spec) for spec in specs)
    return Annotated[Union[models], Field(discriminator="driver")] if len(models) > 1 else models[0]  # noqa: UP007  # made at run time


def with_links(frame: type[Options], name: str, specs: list[DriverSpec]) -> type[BaseModel]:
    """Compose the model of a whole site file or fragment from its frame and the drivers' links."""
    links = _named(any_link(specs), frame.model_fields["links"].description)
    model: type[BaseModel] = create_model(name, __base__=frame, __doc__=frame.__doc__, links=links)
    return model
