"""Keys of links, devices, poll groups and tags, whatever the driver. Drivers extend these models."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, model_validator

from gateway.options.inventory import InventoryOptions, Linked
from gateway.options.values import Duration, Number, Options


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
    inventory: Linked | InventoryOptions = "connected"
    """How the device is counted by `plantbridge report`: its state alone, or keys and values."""
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
