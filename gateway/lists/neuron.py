"""Neuron's JSON: its whole configuration, exported drivers, or the tags of one group.

    {"nodes": [{"name", "plugin"}], "groups": [{"driver", "group", "interval"}],
     "tags": [{"driver", "group", "tags": [{"name", "address", "type", "attribute", "decimal", "bias", ...}]}],
     "settings": [{"node", "params"}]}
    {"nodes": [{"name", "plugin", "params", "groups": [{"group", "interval", "tags"}]}]}      and one such node alone

A Modbus address is UNIT!REFERENCE[.BIT][#ORDER][.LENGTH[H|L|D|E]]: #LL is ABCD, #LB BADC, #BL CDAB, #BB DCBA, #B swaps
the bytes of 16 bits; a text's first byte is the high one of its register only where H is said. Every unit id of a node
becomes a device. An OPC UA address is NAMESPACE!ID. Other plug-ins are findings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from gateway.lists import words
from gateway.lists.addresses import LAST
from gateway.lists.entries import ListedDevice, ListedTag, ListError, RegisterList
from gateway.lists.rows import Reading, duration

TYPES: Final = {
    1: "int8", 2: "uint8", 3: "int16", 4: "uint16", 5: "int32", 6: "uint32", 7: "int64", 8: "uint64", 9: "float32",
    10: "float64", 11: "bit", 12: "bool", 13: "text", 16: "uint16", 17: "uint32", 18: "uint64",
}  # fmt: skip
WRITE: Final = 2
"""The bit of `attribute` that allows writing."""

_ORDERS: Final = {"LL": "ABCD", "LB": "BADC", "BL": "CDAB", "BB": "DCBA", "L": "ABCD", "B": "BADC"}
_ENDIANNESS: Final = {1: "ABCD", 2: "BADC", 3: "DCBA", 4: "CDAB"}
_BAUD: Final = {0: 115200, 1: 57600, 2: 38400, 3: 19200, 4: 9600, 5: 4800}
_PARITY: Final = {0: "N", 1: "O", 2: "E"}
_AREAS: Final = {"0": "coil", "1": "discrete", "3": "input", "4": "holding"}
_ADDRESS: Final = re.compile(
    r"(?P<unit>\d{1,3})!(?P<area>[0134])(?P<number>\d{1,5})(?:\.(?P<rest>\d{1,3})(?P<bytes>[HLDE])?)?"
    r"(?:#(?P<order>[LB]{1,2}))?",
    re.IGNORECASE,
)


def read(text: str, file: str, reading: Reading) -> RegisterList:
    """Read Neuron's JSON. Raises ListError where it is none."""
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise ListError(f"{file}:{error.lineno}:{error.colno}: this is no JSON: {error.msg}") from None
    listed = RegisterList(covers=frozenset({"address", "scale", "offset", "description"}))
    nodes = list(_nodes(body, reading.device))
    if not nodes:
        raise ListError(f"{file} has no nodes with tags, as Neuron exports them")
    for place, node in nodes:
        _node(node, f"{file}: {place}", listed, reading)
    listed.devices = [device for device in listed.devices if device.tags]
    return listed


def _nodes(body: Any, otherwise: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every southbound node with its groups and parameters, whichever form the file has."""
    if not isinstance(body, dict):
        return
    if isinstance(body.get("tags"), list) and isinstance(body.get("nodes"), list):
        settings = {each.get("node"): each.get("params", {}) for each in body.get("settings", ())}
        for index, node in enumerate(body["nodes"]):
            groups = []
            for at, part in enumerate(body["tags"]):
                if part.get("driver") == node.get("name"):
                    same = (each for each in body.get("groups", ()) if each.get("driver") == node.get("name"))
                    interval = next((g.get("interval") for g in same if g.get("group") == part.get("group")), None)
                    groups.append({**part, "interval": interval, "place": f"tags[{at}]"})
            if groups:
                params = settings.get(node.get("name"), node.get("params", {}))
                yield f"nodes[{index}]", {**node, "params": params, "groups": groups}
    elif isinstance(body.get("nodes"), list):
        for index, node in enumerate(body["nodes"]):
            if node.get("groups"):
                yield f"nodes[{index}]", _placed(node, f"nodes[{index}].")
    elif isinstance(body.get("groups"), list):
        yield "node", _placed(body, "")
    elif isinstance(body.get("tags"), list):
        group = {"group": body.get("group", ""), "tags": body["tags"], "place": ""}
        yield "node", {"name": body.get("node", otherwise), "plugin": "Modbus TCP", "groups": [group]}


def _placed(node: Mapping[str, Any], lead: str) -> dict[str, Any]:
    groups = [{**group, "place": f"{lead}groups[{index}]"} for index, group in enumerate(node["groups"])]
    return {**node, "groups": groups}


def _node(node: Mapping[str, Any], place: str, listed: RegisterList, reading: Reading) -> None:
    plugin = str(node.get("plugin", ""))
    name = re.sub(r"[\s/+#]+", "-", str(node.get("name") or reading.device))
    opcua = "opc" in plugin.lower()
    if not opcua and "modbus" not in plugin.lower():
        listed.wrong(place, f"the plug-in {plugin!r} of {name} has no driver here")
        return
    params = node.get("params") or {}
    link = {"driver": "opcua" if opcua else "modbus", "url": _url(params, opcua=opcua, listed=listed, place=place)}
    if link["url"]:
        listed.links[name] = link
    for group in node["groups"]:
        for index, tag in enumerate(group.get("tags", ())):
            where = f"{place.split(': ')[0]}: {group['place']}{'.' if group['place'] else ''}tags[{index}]"
            try:
                unit, made = _opcua_tag(tag, where) if opcua else _tag(tag, where, params, reading)
            except ValueError as error:
                listed.wrong(where, str(error))
                continue
            made.group = re.sub(r"[\s/+#]+", "-", str(group.get("group", "")))
            made.interval = duration(str(group.get("interval") or ""))
            device = _device(listed, name, link["driver"], unit, linked=bool(link["url"]))
            if any(each.name == made.name for each in device.tags):
                made.name = f"{made.group}.{made.name}"
            device.tags.append(made)


def _url(params: Mapping[str, Any], *, opcua: bool, listed: RegisterList, place: str) -> str:
    if opcua:
        return str(params.get("url") or params.get("endpoint_url") or "")
    if params.get("connection_mode") == 1:
        listed.wrong(place, "here Neuron waits for the device to connect; this gateway connects to it", "", "warning")
    if params.get("device"):
        given = (
            ("baud", _BAUD.get(params.get("baud", 4), 9600)), ("parity", _PARITY.get(params.get("parity", 0), "N")),
            ("stop", 2 if params.get("stop") == 1 else 1),
        )  # fmt: skip
        return f"rtu://{params['device']}?" + "&".join(f"{key}={value}" for key, value in given)
    if not params.get("host"):
        return ""
    serial = "link" in params or params.get("transport_mode") == 1
    return f"{'rtu+tcp' if serial else 'tcp'}://{params['host']}:{params.get('port', 502)}"


def _device(listed: RegisterList, name: str, driver: str, unit: int | None, *, linked: bool) -> ListedDevice:
    link = name if linked else ""
    for device in listed.devices:
        if device.source == name and device.keys.get("unit_id") == unit:
            return device
    taken = {device.name for device in listed.devices}
    wanted = name if name not in taken else f"{name}-{unit}"
    while wanted in taken:
        wanted += "-2"
    device = ListedDevice(wanted, driver, {} if unit is None else {"unit_id": unit}, [], link, name)
    listed.devices.append(device)
    return device


def _tag(tag: Mapping[str, Any], place: str, params: Mapping[str, Any], reading: Reading) -> tuple[int, ListedTag]:
    text = str(tag.get("address", ""))
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no Modbus address of Neuron, such as 1!400001")
    area = _AREAS[found["area"]]
    number = int(found["number"]) - (0 if params.get("address_base") == 0 else 1)
    if not 0 <= number <= LAST:
        raise ValueError(f"{text!r} is beyond the area's end")
    line = f"{area}:{number}"
    if area not in ("coil", "discrete"):
        line += _type(tag, found, _ENDIANNESS.get(params.get("endianess", 1), "ABCD"))
    made = _made(tag, line, place)
    if reading.writable and int(tag.get("attribute", 1)) & WRITE and area in ("coil", "holding"):
        made.keys["writable"] = True
    return int(found["unit"]), made


def _type(tag: Mapping[str, Any], found: re.Match[str], usual: str) -> str:
    type_ = TYPES.get(tag.get("type", 0))
    if type_ is None:
        raise ValueError(f"the type {tag.get('type')} has no counterpart here")
    if type_ in ("bit", "bool"):
        if found["rest"] is None:
            raise ValueError(f"a bit of {tag.get('address')} is wanted, and not said which")
        return f" bit {int(found['rest'])}"
    if type_ == "text":
        form = (found["bytes"] or "L").upper()
        if found["rest"] is None:
            raise ValueError(f"the text at {tag.get('address')} needs its length")
        return f" text {int(found['rest'])}" + {"H": "", "L": " BA", "D": " low", "E": " high"}[form]
    order = _ORDERS[found["order"].upper()] if found["order"] else "ABCD" if words.WIDTHS[type_] == 2 else usual
    shown = words.order_for(order, type_)
    return f" {type_}{' ' + shown if shown else ''}"


def _opcua_tag(tag: Mapping[str, Any], place: str) -> tuple[None, ListedTag]:
    space, mark, name = str(tag.get("address", "")).partition("!")
    if not mark or not space.isdigit() or not name:
        raise ValueError(f"{tag.get('address')!r} is no OPC UA address of Neuron, such as 2!Boiler.T1")
    form = "i" if name.isdigit() else "s"
    try:
        UUID(name)
        form = "g"
    except ValueError:
        pass
    made = _made(tag, f"ns={space};{form}={name}", place)
    type_ = TYPES.get(tag.get("type", 0), "float64")
    made.keys = {"address": made.keys.pop("address"), "type": "bool" if type_ == "bit" else type_, **made.keys}
    return None, made


def _made(tag: Mapping[str, Any], line: str, place: str) -> ListedTag:
    name = re.sub(r"[/+#]+", "-", str(tag.get("name", ""))).strip()
    if not name:
        raise ValueError("this tag has no name")
    keys: dict[str, Any] = {"address": line}
    if tag.get("description"):
        keys["description"] = str(tag["description"])
    for ours, theirs, neutral in (("scale", "decimal", (0, 1)), ("offset", "bias", (0,))):
        if tag.get(theirs, 0) not in neutral:
            keys[ours] = words.exact(Fraction(str(tag[theirs])))
    return ListedTag(name, keys, place)
