"""Telegraf's inputs.modbus and inputs.opcua (TOML): every plug-in instance becomes a link with its devices.

All three styles of inputs.modbus are read: registers (holding_registers = [...]), requests and metrics. Addresses there
are zero-based, byte orders are our letters. FLOAT32 of the register style is an old name for an unsigned number with a
decimal point; an IEEE float is FLOAT32-IEEE. inputs.opcua names no types: values are held as float64. Certificates and
passwords are not taken over.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.lists import words
from gateway.lists.entries import ListedDevice, ListedTag, ListError, RegisterList
from gateway.lists.rows import Reading

_STYLES: Final = {
    "holding_registers": "holding", "input_registers": "input", "coils": "coil", "discrete_inputs": "discrete",
}  # fmt: skip
_HALVES: Final = {"INT8L": "int8 low", "INT8H": "int8 high", "UINT8L": "uint8 low", "UINT8H": "uint8 high"}
_SIZES: Final = {1: 2, 2: 4, 4: 8}


def read(text: str, file: str, reading: Reading) -> RegisterList:
    """Read a Telegraf configuration. Raises ListError where it is none."""
    try:
        inputs = tomllib.loads(text, parse_float=Decimal).get("inputs", {})
    except tomllib.TOMLDecodeError as error:
        raise ListError(f"{file} is no TOML: {error}") from None
    listed = RegisterList(covers=frozenset({"address", "scale"}))
    if not inputs.get("modbus") and not inputs.get("opcua"):
        raise ListError(f"{file} has neither inputs.modbus nor inputs.opcua")
    for index, plugin in enumerate(inputs.get("modbus", ())):
        _modbus(plugin, f"{file}: inputs.modbus[{index}]", listed, reading)
    for index, plugin in enumerate(inputs.get("opcua", ())):
        _opcua(plugin, f"{file}: inputs.opcua[{index}]", listed, reading)
    return listed


def _link(listed: RegisterList, name: str, keys: dict[str, Any]) -> str:
    """Find the link to this url, or make it."""
    for known, theirs in listed.links.items():
        if theirs["url"] == keys["url"]:
            return known
    wanted = name
    while wanted in listed.links:
        wanted = f"{name}-{len(listed.links) + 1}"
    listed.links[wanted] = keys
    return wanted


def _device(listed: RegisterList, name: str, driver: str, link: str, keys: dict[str, Any]) -> ListedDevice:
    for device in listed.devices:
        if device.link == link and device.keys == keys and driver == "modbus":
            return device
    names = {device.name for device in listed.devices}
    name = re.sub(r"[\s/+#]+", "-", name)
    if name in names:
        name = f"{name}-{keys['unit_id']}" if "unit_id" in keys and f"{name}-{keys['unit_id']}" not in names else name
    while name in names:
        name = f"{name}-{len(names) + 1}"
    device = ListedDevice(name, driver, keys, [], link)
    listed.devices.append(device)
    return device


def _duration(text: Any) -> str | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)", str(text))
    return f"{found[1]} {'min' if found[2] == 'm' else found[2]}" if found else None


# ------------------------------------------------------------------------------------------------ modbus


def _modbus(plugin: Mapping[str, Any], place: str, listed: RegisterList, reading: Reading) -> None:
    url = _url(plugin)
    if not url:
        listed.wrong(place, "this plug-in has no controller", 'controller = "tcp://HOST:502"')
        return
    name = str(plugin.get("name") or reading.device)
    keys: dict[str, Any] = {"driver": "modbus", "url": url}
    if timeout := _duration(plugin.get("timeout")):
        keys["timeout"] = timeout
    for key in ("pause_after_connect", "pause_between_requests"):
        if pause := _duration(plugin.get("workarounds", {}).get(key)):
            keys[key] = pause
    if plugin.get("workarounds", {}).get("one_request_per_field"):
        keys["one_request_per_tag"] = True
    link = _link(listed, re.sub(r"[\s/+#]+", "-", name), keys)
    interval = _duration(plugin.get("interval")) or "10 s"
    for unit, style, where, field in _fields(plugin):
        device = _device(listed, name, "modbus", link, {"unit_id": int(unit), "interval": interval})
        try:
            device.tags.append(_tag(field, style, f"{place}.{where}", device, listed))
        except ValueError as error:
            listed.wrong(f"{place}.{where}", str(error))
    listed.devices = [device for device in listed.devices if device.tags]


def _url(plugin: Mapping[str, Any]) -> str:
    controller = str(plugin.get("controller", ""))
    mode = str(plugin.get("transmission_mode", "")).lower()
    if controller.startswith("file://"):
        scheme = "ascii" if mode == "ascii" else "rtu"
        given = (("baud", "baud_rate"), ("parity", "parity"), ("stop", "stop_bits"), ("bits", "data_bits"))
        keys = "&".join(f"{ours}={plugin[theirs]}" for ours, theirs in given if theirs in plugin)
        return f"{scheme}://{urlsplit(controller).path}" + (f"?{keys}" if keys else "")
    scheme = {"rtuovertcp": "rtu+tcp", "asciiovertcp": "ascii+tcp"}.get(mode, "tcp")
    return re.sub(r"^tcp://", f"{scheme}://", controller)


def _fields(plugin: Mapping[str, Any]) -> Iterator[tuple[Any, str, str, dict[str, Any]]]:
    """Give every field with its unit id, its style, where it is, and the area and byte order that hold for it."""
    unit = plugin.get("slave_id", 1)
    for key, area in _STYLES.items():
        for index, field in enumerate(plugin.get(key, ())):
            yield unit, "register", f"{key}[{index}]", {**field, "area": area, "type": field.get("data_type", "")}
    for style in ("request", "metric"):
        for index, request in enumerate(plugin.get(style, ())):
            shared = {key: request[key] for key in ("byte_order", "measurement") if key in request}
            for number, field in enumerate(request.get("fields", ())):
                if field.get("omit"):
                    continue
                area = field.get("register", request.get("register", "holding"))
                whole = {**shared, **field, "area": area}
                yield request.get("slave_id", 0), style, f"{style}[{index}].fields[{number}]", whole


def _tag(field: Mapping[str, Any], style: str, place: str, device: ListedDevice, listed: RegisterList) -> ListedTag:
    name = re.sub(r"[/+#]+", "-", str(field.get("name", "")))
    if not name:
        raise ValueError("this field has no name")
    if any(tag.name == name for tag in device.tags):
        name = f"{field.get('measurement', 'modbus')}.{name}"
    if any(tag.name == name for tag in device.tags):
        raise ValueError(f"the field {name} is there twice for this unit")
    addresses = field.get("address")
    first = addresses[0] if isinstance(addresses, list) and addresses else addresses
    if not isinstance(first, int):
        raise ValueError(f"expected an address, got {addresses!r}")
    area = str(field["area"])
    line = f"{area}:{first}"
    if area not in ("coil", "discrete"):
        count = len(addresses) if isinstance(addresses, list) else 0
        line += _type(field, style, count, place, listed)
    keys: dict[str, Any] = {"address": line}
    scale = field.get("scale", 0)
    if scale not in (0, 1) and area not in ("coil", "discrete"):
        keys["scale"] = words.exact(Fraction(scale))
    return ListedTag(name, keys, place)


def _type(field: Mapping[str, Any], style: str, count: int, place: str, listed: RegisterList) -> str:
    given = str(field.get("type", "")).upper()
    if given in _HALVES:
        return f" {_HALVES[given]}"
    if given == "BIT":
        return f" bit {field.get('bit', 0)}"
    if given == "STRING":
        return f" text {2 * int(field.get('length', count or 1))}"
    if given in ("FIXED", "UFIXED") or (given == "FLOAT32" and style == "register"):
        bits = _SIZES.get(count, 2) * 8
        type_ = f"{'' if given == 'FIXED' else 'u'}int{bits}"
        if given == "FLOAT32":
            reason = f"FLOAT32 of this style is an unsigned number with a decimal point: {type_}"
            listed.wrong(place, reason, "an IEEE float would be FLOAT32-IEEE", "warning")
    else:
        type_ = given.removesuffix("-IEEE").lower()
    if type_ not in words.WIDTHS:
        raise ValueError(f"the type {given!r} is not known")
    order = words.order_for(words.order_of(str(field.get("byte_order") or "ABCD").replace("-", "")), type_)
    return f" {type_}{' ' + order if order else ''}"


# ------------------------------------------------------------------------------------------------ opcua


def _opcua(plugin: Mapping[str, Any], place: str, listed: RegisterList, reading: Reading) -> None:
    name = str(plugin.get("name") or reading.device)
    keys: dict[str, Any] = {"driver": "opcua", "url": str(plugin.get("endpoint", "opc.tcp://localhost:4840"))}
    policy, mode = str(plugin.get("security_policy", "auto")), str(plugin.get("security_mode", "auto"))
    if policy not in ("auto", "None"):
        keys["security_policy"] = policy
        if mode in ("Sign", "SignAndEncrypt"):
            keys["security_mode"] = mode
    if plugin.get("username") or plugin.get("certificate"):
        listed.note(f"{place}: user, password and certificates are not taken over: give them to the link yourself")
    link = _link(listed, re.sub(r"[\s/+#]+", "-", name), keys)
    interval = _duration(plugin.get("interval")) or "10 s"
    device = _device(listed, name, "opcua", link, {"interval": interval})
    listed.note(
        "Telegraf's list of nodes has no types: values are held as float64; plantbridge browse URL --yaml has them"
    )
    groups = [("", plugin), *((f"group[{index}].", group) for index, group in enumerate(plugin.get("group", ())))]
    for where, group in groups:
        for index, node in enumerate(group.get("nodes", ())):
            at = f"{place}.{where}nodes[{index}]"
            whole = {key: group[key] for key in ("namespace", "identifier_type") if key in group} | dict(node)
            tag = re.sub(r"[/+#]+", "-", str(whole.get("name", ""))).strip()
            if not tag or not whole.get("identifier"):
                listed.wrong(at, "this node has no name or no identifier")
                continue
            if any(each.name == tag for each in device.tags):
                tag = f"{group.get('name', 'opcua')}.{tag}"
            if any(each.name == tag for each in device.tags):
                listed.wrong(at, f"the name {tag} is there twice", "names are unique in a device")
                continue
            space = (
                f"nsu={whole['namespace_uri']}" if whole.get("namespace_uri") else f"ns={whole.get('namespace') or 0}"
            )
            node_id = f"{space};{whole.get('identifier_type') or 's'}={whole['identifier']}"
            device.tags.append(ListedTag(tag, {"address": node_id, "type": "float64"}, at))
    listed.devices = [each for each in listed.devices if each.tags]
