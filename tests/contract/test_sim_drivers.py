"""Drivers against simulators: two independent codings of the same address grammar must agree on every value.

Registers are encoded by shifting in simulators/registers.py and decoded by gathering in drivers/modbus; the expected
engineering value is a fraction here and a float computation in gateway/stages. A mistake on either side shows.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway import quality as q
from gateway.config import Site, load_site
from gateway.names import driver_spec
from gateway.stages.normalise import normalise
from simulators.site import SiteSimulator, expected

ROOT = Path(__file__).resolve().parents[2]

HEAD = "gateway: g\npublish: {c: {url: mqtt://127.0.0.1}}\nlinks:\n"
NUMBERS = ("int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", "bcd16", "bcd32")
OPCUA_TYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "text",
    "datetime", "guid", "bytestring",
)  # fmt: skip
ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")


def every_modbus_tag() -> dict[str, str]:
    """Give tags of every type, byte order, field and text that the grammar knows, at addresses of their own."""
    tags: dict[str, str] = {}
    at = 0
    for area in ("holding", "input"):
        for type_ in NUMBERS:
            for order in ORDERS:
                tags[f"{area}-{type_}-{order}"] = f"'{area}:{at} {type_}{'' if type_.endswith('16') else ' ' + order}'"
                at += 4
    for order in ("EFGHABCD", "BADCFEHG", "CDABGHEF", "GHEFCDAB"):
        tags[f"wide-{order}"] = f"'holding:{at} uint64 {order}'"
        at += 4
    for bits in ("bit 0", "bit 7", "bit 8", "bits 1..6", "bits 9..15"):
        tags[f"field-{bits.replace(' ', '-')}"] = f"'holding:{at} {bits}'"
    for order in ORDERS:
        at += 4
        for bits in ("bits 0..3", "bits 6..17", "bit 18", "bits 20..31"):
            tags[f"field32-{order}-{bits.replace(' ', '-')}"] = f"'holding:{at} uint32 {order} {bits}'"
    at += 4
    tags |= {"half-high": f"'holding:{at} int8 high'", "half-low": f"'holding:{at} uint8 low'"}
    tags |= {"bytes": f"'holding:{at + 1} uint8[5] high'", "row": f"'holding:{at + 4} int32[6] CDAB'"}
    at += 20
    for number, text in enumerate(("11", "12 BA", "8 gbk", "9 utf-8 BA", "6 latin-1", "5 high", "5 low")):
        tags[f"text-{number}"] = f"'holding:{at} text {text}'"
        at += 10
    for type_ in ("iec-time", "unix32", "bcd-time"):
        tags[type_] = f"'holding:{at} {type_}'"
        at += 4
    tags["flags"] = f"{{address: 'holding:{at}', flags: {{0: one, 3: two, 15: three}}}}"
    tags["scaled"] = f"{{address: 'holding:{at + 1} int16', scale: 0.1, offset: -40}}"
    tags["third"] = f"{{address: 'holding:{at + 2} uint32', scale: 1/3, min: 0, max: 50000}}"
    tags["power"] = f"{{address: 'holding:{at + 4} int16', scale_power: 'holding:{at + 5}'}}"
    tags["absent"] = f"{{address: 'holding:{at + 6} int16', absent: [0x8000, 0, 1, 2]}}"
    for number in (0, 1, 7, 8, 9, 30):
        tags |= {f"coil-{number}": f"coil:{number}", f"contact-{number}": f"discrete:{number}"}
    return tags


def modbus_site(folder: Path) -> Site:
    tags = every_modbus_tag()
    link = ["  line:", "    driver: modbus", "    url: tcp://127.0.0.1:1", "    devices:"]
    for unit, order in enumerate(ORDERS, 1):
        link += [f"      plc-{unit}:", f"        unit_id: {unit}", f"        order: {order}", "        tags:"]
        link += [f"          {name}: {address}" for name, address in tags.items()]
    (folder / "site.yaml").write_text(HEAD + "\n".join(link) + "\n")
    return load_site(folder / "site.yaml")


def opcua_site(folder: Path) -> Site:
    tags = [f"          {type_}: ns=2;s=One.{type_} {type_}" for type_ in OPCUA_TYPES]
    tags += [f"          many-{type_}: 'ns=3;s=Many.{type_} [0:2] {type_}'" for type_ in OPCUA_TYPES]
    tags += ["          path: /Objects/2:House/3:Room 1/2:T double", "          number: i=4711 int32"]
    tags += [
        f"          scaled-{t}: {{address: 'ns=2;s=Scaled.{t} {t}', scale: 0.01, max: 1000000}}"
        for t in ("int64", "uint64")
    ]
    link = ["  house:", "    driver: opcua", "    url: opc.tcp://127.0.0.1:1", "    devices:", "      boiler:"]
    text = HEAD + "\n".join([*link, "        namespace: urn:house", "        tags:", *tags]) + "\n"
    (folder / "site.yaml").write_text(text)
    return load_site(folder / "site.yaml")


def demo_site(folder: Path) -> Site:
    (folder / "site.yaml").write_text((ROOT / "config" / "demo" / "site.yaml").read_text())
    return load_site(folder / "site.yaml")


@pytest.mark.parametrize("make", [modbus_site, opcua_site, demo_site])
async def test_every_value_that_a_driver_reads_is_what_the_simulator_shows(tmp_path: Path, make: object) -> None:
    assert callable(make)
    site: Site = make(tmp_path)
    checks = expected(site)
    compared = set()
    async with asyncio.timeout(100), SiteSimulator(site, own_addresses=False) as simulator:
        for link in load_site(tmp_path / "site.yaml", links=simulator.urls).links:
            driver = driver_spec(link.driver).open(link)
            await driver.connect()
            for device in link.devices:
                for group in device.groups:
                    for batch in await driver.read(driver.plan(group.tables)):
                        done = normalise(batch.table)(batch)
                        for row, tag in enumerate(batch.table.tags):
                            here, name = slice(row, row + 1), (device.name, tag.name)
                            assert done.quality[row] == q.GOOD, name
                            check = checks[name]
                            right = check.signal.matches(done.time[here], done.value[here], check.tolerance)
                            assert right.all(), (name, done.value[row], check.signal.value(done.time[here]))
                            compared.add(name)
            await driver.close()
    assert compared == {(table.device, tag.name) for link in site.links for table in link.tables for tag in table.tags}
