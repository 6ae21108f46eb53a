"""Links for tests of the Modbus driver: built from a few words, as the configuration would build them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drivers.modbus.spec import ModbusDevice, ModbusLink, ModbusTag, resolve
from gateway.model import Batch, Device, Group, Link, Tag, TagTable, split_by_kind


def link_to(url: str, tags: Mapping[str, Any], *, link: Mapping[str, Any] | None = None, **device: Any) -> Link:
    """Build a link with one device, "press", and one group."""
    return link_of(url, {"press": {**device, "tags": tags}}, **(link or {}))


def link_of(url: str, devices: Mapping[str, Mapping[str, Any]], **options: Any) -> Link:
    """Build a link; each device's keys include `tags`."""
    link_options = ModbusLink.model_validate({"driver": "modbus", "url": url, "timeout": "2 s", **options})
    built = []
    for name, keys in devices.items():
        device = ModbusDevice.model_validate({key: value for key, value in keys.items() if key != "tags"})
        tags = []
        for tag_name, given in keys["tags"].items():
            tag = ModbusTag.model_validate(given)
            tags += [
                Tag(
                    tag_name + found.suffix, tag.address, found.source, found.kind, found.type,
                    scale=tag.scale, offset=tag.offset, writable=tag.writable is not None,
                )
                for found in resolve(tag, device, link_options)
            ]  # fmt: skip
        group = Group(name, "default", 10**9, 0, split_by_kind(name, "default", tags))
        built.append(Device(name, device, (group,)))
    return Link("line", "modbus", link_options, tuple(built))


def tables_of(link: Link, device: int = 0) -> tuple[TagTable, ...]:
    return link.devices[device].groups[0].tables


def rows(batches: list[Batch]) -> dict[str, tuple[Any, int]]:
    """Give value and quality by tag name."""
    return {
        batch.table.tags[tag].name: (value, quality)
        for batch in batches
        for tag, value, quality in zip(
            batch.tag.tolist(), batch.value.tolist(), batch.quality.tolist(), strict=True
        )
    }  # fmt: skip
