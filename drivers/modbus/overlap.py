"""Registers that two tags of one device read as different things: legal, and mostly a slip in the register list.

Cut-out bits, half registers and flag words share a register on purpose, and so do two tags that read the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from drivers.modbus.address import ModbusSource
from gateway.model import Tag, TagTable


def overlaps(tables: Iterable[TagTable]) -> list[tuple[str, str, str, str]]:
    """Give device, tag, finding and hint for every tag that reads another one's registers as something else."""
    devices: dict[str, list[Tag]] = {}
    for table in tables:
        devices.setdefault(table.device, []).extend(tag for tag in table.tags if _whole(tag.source))
    return [found for device, tags in devices.items() for found in _overlaps(device, tags)]


def _whole(source: object) -> bool:
    return (
        isinstance(source, ModbusSource)
        and source.area in ("input", "holding")
        and not (source.bits or source.half or source.flags)
    )


def _overlaps(device: str, tags: list[Tag]) -> Iterable[tuple[str, str, str, str]]:
    widest: Tag | None = None  # the tag before this one that reaches furthest
    for tag in sorted(tags, key=lambda each: (each.source.area, each.source.address, -each.source.count)):
        source = tag.source
        if widest is not None and widest.source.area == source.area and _end(widest) > source.address:
            other = widest.source
            if (other.address, other.type, other.order) != (source.address, source.type, source.order):
                finding = f"{source.area}:{source.address} is {_said(source)} here and {_said(other)} in {widest.name}"
                if other.address != source.address:
                    finding += f", from {other.address} on"
                yield device, tag.name, finding, "one of the two is misread, unless the device means both"
        if widest is None or widest.source.area != source.area or _end(tag) > _end(widest):
            widest = tag


def _end(tag: Tag) -> int:
    return int(tag.source.address + tag.source.count)


def _said(source: ModbusSource) -> str:
    return f"{source.type} {source.order}" if source.count > 1 and source.order else source.type
