"""Keys of the inventory: what the plant has, whether it is connected, and what the indicators of a plant count."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from gateway.options.values import Options

_MEANS: Final = {"yes": True, "no": False, "on": True, "off": False}


def _process(value: Any) -> Any:
    """Take a process by its name, or true where the device is one by itself."""
    if isinstance(value, str):
        if value.strip().lower() in _MEANS:
            raise ValueError(f"expected true, false or the name of a process, got {value!r}")
        if not value.strip():
            raise ValueError("expected true, false or the name of a process, got nothing")
        return value.strip()
    return value


KeyProcess = Annotated[
    bool | str,
    BeforeValidator(_process),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string"}], "examples": ["stamping"]}),
]
"""Whether a device carries out a key process, or the name of the process that it has a part in."""

Linked = Literal["connected", "planned", "not-connectable", "auxiliary"]
Unlinked = Literal["planned", "not-connectable"]


class EquipmentOptions(Options):
    """What the inventory says of a piece of equipment."""

    vendor: str = Field(default="", examples=["Schuler"])
    """Who made it."""
    model: str = Field(default="", examples=["MSP 400"])
    """Its type, as on the name plate."""
    serial: str = ""
    """Its serial number, as on the name plate: in quotes where it is digits only."""
    location: str = Field(default="", examples=["hall 2, bay 5"])
    """Where it stands. A device on a link has this from its own key `location` where it is not given here."""
    key_process: KeyProcess = False
    """Whether it carries out a key process: true, or the name of the process, where several machines have a part in it.
    A process without a name is called as the device."""
    numerically_controlled: bool = False
    """Whether it is numerically controlled: by CNC, PLC, DCS or the like, connected or not."""


class InventoryOptions(EquipmentOptions):
    """The inventory's entry of a device that stands on a link."""

    state: Linked = "connected"
    """Connected counts as connected equipment; planned and not-connectable as equipment that is not; auxiliary is no
    production equipment (a meter, a room sensor) and not counted at all."""


class UnlinkedOptions(EquipmentOptions):
    """The inventory's entry of a machine that has no link."""

    state: Unlinked
    """Whether it is to be connected, or cannot be."""
