"""The table of names: what YAML calls a driver, and where its DriverSpec lives. Loaded when first used.

A new driver is one line here. Third-party drivers register a DriverSpec through the entry-point group
`plantbridge.drivers`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Final

from gateway.contracts import Driver, DriverSpec
from gateway.model import Link

DRIVERS: Final = {
    "modbus": "drivers.modbus.spec",
    "opcua": "drivers.opcua.spec",
    "replay": "drivers.replay.spec",
}

_LEAN: Final = {"modbus": ("drivers.modbus.driver", "ModbusDriver"), "opcua": ("drivers.opcua.driver", "OpcuaDriver")}
"""Drivers that can be made without their spec, and so without the library of its models."""

ENTRY_POINTS: Final = "plantbridge.drivers"


def driver_names() -> list[str]:
    """Give the names that `driver:` may have on this machine."""
    return sorted(DRIVERS) + sorted(point.name for point in entry_points(group=ENTRY_POINTS))


@cache
def driver_spec(name: str) -> DriverSpec:
    """Load a driver's spec; `SPEC` of its module. Raises KeyError where no such driver is installed."""
    if name in DRIVERS:
        spec: DriverSpec = import_module(DRIVERS[name]).SPEC
        return spec
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            loaded: DriverSpec = point.load()
            return loaded
    raise KeyError(name)


def open_driver(link: Link) -> Driver:
    """Make the driver of a link; its protocol library is imported here. Raises KeyError where it is not installed."""
    if link.driver in _LEAN:
        module, name = _LEAN[link.driver]
        driver: Driver = getattr(import_module(module), name)(link)
        return driver
    return driver_spec(link.driver).open(link)
