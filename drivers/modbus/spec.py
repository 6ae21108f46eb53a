"""What the gateway must know of Modbus before it talks to anything: the YAML keys, and what an address means.

Loading this module imports no protocol library. `resolve` turns a tag's keys into ModbusSource values
(drivers.modbus.address has the grammar); `open` imports the driver.

What a link says about requests (max_registers, ...) holds for its devices, unless a device says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from drivers.modbus.address import (
    ENCODINGS,
    LAST,
    TYPES,
    ModbusSource,
    Type,
    Words,
    bit_range,
    full_order,
    nearest,
    parse,
)
from drivers.modbus.endpoint import Endpoint, parse_url
from gateway.contracts import Driver, DriverSpec, Resolved
from gateway.model import Kind, Link
from gateway.options import DeviceOptions, Duration, LinkOptions, LocalPath, Options, TagOptions

ByteOrder = Literal["ABCD", "CDAB", "BADC", "DCBA"]

SUNSPEC: Final[dict[str, tuple[int, ...]]] = {
    "int16": (0x8000,),
    "uint16": (0xFFFF,),
    "int32": (0x80000000,),
    "uint32": (0xFFFFFFFF,),
    "int64": (0x8000000000000000,),
    "uint64": (0xFFFFFFFFFFFFFFFF,),
    "float32": (0x7FC00000,),
    "float64": (0x7FF8000000000000,),
}
"""SunSpec's patterns for a point that is not implemented."""


class ModbusTls(Options):
    """Certificates of a tls:// link."""

    ca: LocalPath | None = None
    """File of the certificate authority that signed the device's certificate; the system's store where not given."""
    certificate: LocalPath | None = None
    """File of this gateway's certificate (Modbus/TCP Security asks for one)."""
    key: LocalPath | None = None
    """File of this gateway's private key."""
    server_name: str | None = None
    """Name that the device's certificate carries, where it differs from the host of the URL."""
    verify: bool = True
    """false accepts any certificate: the line is encrypted, but nobody knows to whom."""


class ModbusLink(LinkOptions):
    """A Modbus connection: a TCP endpoint, a serial line, a serial server."""

    url: str
    """tcp://HOST:PORT, tls://, udp://, rtu:///dev/ttyUSB0?baud=9600&parity=E&stop=1, ascii://, rtu+tcp://HOST:PORT or
    ascii+tcp://HOST:PORT."""
    tls: ModbusTls = ModbusTls()
    """Certificates of a tls:// link."""
    transactions: Literal["checked", "ignored"] = "checked"
    """ignored is for devices that do not give a request's transaction id back; late answers are then kept out by
    waiting, as on a serial line."""
    local_address: str | None = None
    """Address of the network card to connect from, where the machine has several."""
    pause_after_connect: Duration = 0.0
    """Pause between connecting and the first request, for devices that lose it."""
    pause_between_requests: Duration = 0.0
    """Least pause between an answer and the next request. A serial line keeps its 3.5 characters in any case."""
    close_after_idle: Duration | None = None
    """Close the connection after this long without a request, so that others can use a device that takes one client
    only; it is opened again for the next scan."""
    max_registers: int = Field(default=125, ge=1, le=125)
    """Most registers one request may ask for."""
    max_bits: int = Field(default=2000, ge=1, le=2000)
    """Most coils or discrete inputs one request may ask for."""
    max_gap: int | None = Field(default=None, ge=0)
    """Most registers (bits/16) that may be fetched in vain to save a request; without it, what costs less time."""
    no_read_across: tuple[int, ...] = ()
    """Zero-based addresses at which a new request must begin: a read must not cross these boundaries."""
    one_request_per_tag: bool = False
    """Never merge tags into one request, for devices that answer only single parameters."""

    @field_validator("url")
    @classmethod
    def _url_is_known(cls, url: str) -> str:
        parse_url(url)
        return url

    @model_validator(mode="after")
    def _tls_where_it_belongs(self) -> ModbusLink:
        if self.tls != ModbusTls() and self.endpoint.transport != "tls":
            raise ValueError("tls is given, but the url does not begin with tls://")
        if self.tls.key is not None and self.tls.certificate is None:
            raise ValueError("tls.key needs tls.certificate beside it")
        if self.local_address is not None and self.endpoint.transport == "serial":
            raise ValueError("local_address belongs to a network connection, not to a serial port")
        return self

    @cached_property
    def endpoint(self) -> Endpoint:
        """The URL, read."""
        return parse_url(self.url)


class ModbusDevice(DeviceOptions):
    """A Modbus device: one unit id on its link."""

    unit_id: int = Field(default=1, ge=0, le=255)
    """The device's address on the line: 1 to 247; 255 (some devices: 0 or 1) for a TCP device itself."""
    order: ByteOrder = "ABCD"
    """Byte order of values where the tag gives none: ABCD, CDAB, BADC or DCBA."""
    absent: Literal["sunspec"] | None = None
    """sunspec: the patterns by which SunSpec marks points that are not implemented count as no value for all tags."""
    pause_between_requests: Duration | None = None
    """The link's, unless given here."""
    max_registers: int | None = Field(default=None, ge=1, le=125)
    """The link's, unless given here."""
    max_bits: int | None = Field(default=None, ge=1, le=2000)
    """The link's, unless given here."""
    max_gap: int | None = Field(default=None, ge=0)
    """The link's, unless given here."""
    no_read_across: tuple[int, ...] | None = None
    """The link's, unless given here."""
    one_request_per_tag: bool | None = None
    """The link's, unless given here."""
    bit_writes: Literal["mask", "read-modify-write"] = "mask"
    """How a bit of a holding register is written: mask asks the device to do it (FC 22). read-modify-write is for
    devices that cannot; a change that the device makes between the two is then lost."""


class ModbusTag(TagOptions):
    """A Modbus tag. Either one line, `holding:100 float32 CDAB`, or the same in keys."""

    type: str | None = None
    """bool, (u)int8/16/32/64, float16/32/64, bcd16, bcd32, text, iec-time, unix32 or bcd-time; [n] behind it makes
    n tags. Registers are uint16, coils bool where not given."""
    order: str | None = None
    """Order in which the value's bytes arrive: ABCD, CDAB, BADC, DCBA, or eight letters for 64 bits."""
    bit: int | None = Field(default=None, ge=0, le=63)
    """One bit of the register as a bool; 0 is the least significant."""
    bits: str | None = None
    """Several bits as an unsigned number: "4..7"."""
    half: Literal["high", "low"] | None = None
    """Which half of a register an eight-bit type is in; for text: one character per register, in this half."""
    length: int | None = Field(default=None, ge=1, le=250)
    """Bytes of a text."""
    encoding: Literal["ascii", "utf-8", "gbk", "latin-1"] | None = None
    """Encoding of a text; ascii where not given."""
    padding: Literal["nul", "space"] = "nul"
    """What fills the rest of a text that is written. Both are cut off when reading."""
    absent: tuple[int, ...] | Literal["sunspec"] | None = None
    """Bit patterns by which the device says it has no value: [0x7FFFFFFF], or sunspec for those of SunSpec. Compared
    exactly, before sign, scale and type."""
    scale_power: str | None = None
    """Address of a 16-bit register holding n: the value is scaled by 10^n (SunSpec: sunssf)."""
    flags: dict[int, str] = Field(default_factory=dict)
    """Names of the bits of a flag word; the tag's value is then a text, the names of the bits that are set."""

    @model_validator(mode="before")
    @classmethod
    def _reference_as_number(cls, data: Any) -> Any:
        """YAML reads a bare 40101 as a number."""
        if isinstance(data, int) and not isinstance(data, bool):
            return {"address": str(data)}
        if isinstance(data, dict) and isinstance(data.get("address"), int) and not isinstance(data["address"], bool):
            return {**data, "address": str(data["address"])}
        return data


def resolve(tag: ModbusTag, device: ModbusDevice, link: ModbusLink) -> list[Resolved]:
    """Compile a tag's address and keys: one entry, or one per element of an array. Raises ValueError."""
    area, address, words = parse(tag.address)
    _add_keys(words, tag)
    in_bits = area in ("coil", "discrete")
    type_ = TYPES[words.type or ("bool" if in_bits else "uint16")]
    if tag.writable is not None and area in ("discrete", "input"):
        raise ValueError(f"{tag.address!r} cannot be writable: {area} is read-only in Modbus")
    if in_bits:
        if type_.name != "bool" or words.order or words.bits or words.half or words.length or words.encoding:
            raise ValueError(f"{tag.address!r}: a {area} is a single bit, its only type is bool")
        first = ModbusSource(area, address, 1, "bool")
    elif type_.name == "bool":
        raise ValueError(f"{tag.address!r}: a register has no bool, write bit N for one of its bits")
    elif type_.name == "text":
        first = _text(ModbusSource(area, address, 0, "text"), words, tag, device)
    else:
        first = _number(ModbusSource(area, address, 0, type_.name), type_, words, tag, device)
    first = replace(first, power=_power(tag.scale_power), flags=tuple(sorted(tag.flags.items())))
    _check(first, type_, tag)
    return _elements(first, _kind(first, type_, tag), words.elements, tag)


def _add_keys(words: Words, tag: ModbusTag) -> None:
    """Add what the long form's keys say to what the address line said."""
    if tag.type is not None:
        name, _, rest = tag.type.partition("[")
        if name not in TYPES or (rest and not rest[:-1].isdigit()) or (rest and rest[-1] != "]"):
            choices = tuple(TYPES)
            raise ValueError(f"unknown type {tag.type!r}{nearest(name, choices) or ', expected ' + ', '.join(choices)}")
        words.set("type", name, tag.address)
        if rest:
            words.set("elements", int(rest[:-1]), tag.address)
    if tag.bit is not None:
        words.set("bits", (tag.bit, tag.bit), tag.address)
    if tag.bits is not None:
        words.set("bits", bit_range("bits", tag.bits), tag.address)
    for name in ("order", "half", "length", "encoding"):
        if (value := getattr(tag, name)) is not None:
            words.set(name, value, tag.address)


def _text(source: ModbusSource, words: Words, tag: ModbusTag, device: ModbusDevice) -> ModbusSource:
    if not words.length:
        raise ValueError(f"{tag.address!r}: text needs its length in bytes, as in text 20")
    if words.length > 250:
        raise ValueError(f"{tag.address!r}: text of {words.length} bytes does not fit into one request (250)")
    if words.elements is not None or words.bits:
        raise ValueError(f"{tag.address!r}: text has no elements and no bits; its length is written as text 20")
    default = "BA" if device.order in ("BADC", "DCBA") else "AB"
    order = words.order or default
    if order not in ("AB", "BA"):
        raise ValueError(f"{tag.address!r}: the byte order of text is AB or BA (bytes of each register swapped)")
    count = words.length if words.half else (words.length + 1) // 2
    if count > 125:
        raise ValueError(f"{tag.address!r}: text in {count} registers does not fit into one request (125)")
    encoding = words.encoding or ENCODINGS[0]
    return replace(
        source,
        count=count,
        order="" if words.half else order,
        half=words.half or "",
        length=words.length,
        encoding=encoding,
        padding=tag.padding,
        absent=(0,) if _sunspec(tag, device) else (),  # nothing but NUL
    )


def _number(source: ModbusSource, type_: Type, words: Words, tag: ModbusTag, device: ModbusDevice) -> ModbusSource:
    if words.length or words.encoding:
        what = f"a length ({words.length})" if words.length else f"an encoding ({words.encoding})"
        raise ValueError(f"{tag.address!r}: {what} belongs to text, not to {type_.name}")
    if type_.width == 1:
        if words.order:
            raise ValueError(f"{tag.address!r}: {type_.name} is half a register: write high or low, not an order")
        source = replace(source, half=words.half or "low")
    elif words.half:
        raise ValueError(f"{tag.address!r}: {words.half} belongs to int8, uint8 and text, not to {type_.name}")
    order = words.order
    if order is not None:
        order = full_order(order, type_.width) if len(order) == type_.width or type_.width != 2 else order
        if len(order) != type_.width:
            raise ValueError(f"{tag.address!r}: {order} orders {len(order)} bytes, {type_.name} has {type_.width}")
    else:
        order = full_order(device.order, type_.width)
    absent = SUNSPEC.get(type_.name, ()) if _sunspec(tag, device) else tag.absent or ()
    assert not isinstance(absent, str)
    for pattern in absent:
        if not 0 <= pattern < 1 << (type_.width * 8):
            raise ValueError(f"absent: {pattern:#x} does not fit into {type_.name}, it has {type_.width * 8} bits")
    source = replace(source, count=max(type_.width // 2, 1), order=order, absent=tuple(absent))
    if words.bits is None:
        return source
    first, last = words.bits
    if type_.name not in ("uint16", "uint32", "uint64"):
        raise ValueError(f"{tag.address!r}: bits are taken from uint16, uint32 or uint64, not from {type_.name}")
    if last >= type_.width * 8:
        raise ValueError(f"{tag.address!r}: {type_.name} has bits 0 to {type_.width * 8 - 1}, bit {last} is not in it")
    if last - first >= 53:
        raise ValueError(f"{tag.address!r}: at most 53 bits make a number")
    return replace(source, bit=first, bits=last - first + 1)


def _sunspec(tag: ModbusTag, device: ModbusDevice) -> bool:
    return tag.absent == "sunspec" or (tag.absent is None and device.absent == "sunspec")


def _power(line: str | None) -> ModbusSource | None:
    if line is None:
        return None
    area, address, words = parse(line)
    if area in ("coil", "discrete") or words != Words(type=words.type) or words.type not in (None, "int16"):
        raise ValueError(f"scale_power: expected the address of one 16-bit register, such as holding:75, got {line!r}")
    return ModbusSource(area, address, 1, "int16", "AB", absent=(0x8000,))


def _kind(source: ModbusSource, type_: Type, tag: ModbusTag) -> Kind:
    if source.flags:
        return Kind.TEXT
    if source.bits:
        return Kind.BOOL if source.bits == 1 else Kind.FLOAT
    scaled = source.power is not None or tag.scale != 1 or tag.offset != 0
    return Kind.FLOAT if scaled and type_.kind in (Kind.INT, Kind.UINT) else type_.kind


def _check(source: ModbusSource, type_: Type, tag: ModbusTag) -> None:
    if source.flags and (not type_.name.startswith("uint") or source.bits == 1):
        raise ValueError(f"flags name the bits of an unsigned number, not of {type_.name}")
    width = source.bits or type_.width * 8
    for bit, _ in source.flags:
        if not 0 <= bit < width:
            raise ValueError(f"flags: there is no bit {bit}, {source} has bits 0 to {width - 1}")
    if source.power is not None and (type_.kind not in (Kind.FLOAT, Kind.INT, Kind.UINT) or source.flags):
        raise ValueError(f"scale_power scales numbers, not {type_.name}")
    if isinstance(tag.absent, tuple) and tag.absent and not source.absent:
        raise ValueError(f"absent gives patterns of a number, {type_.name} has none")


def _elements(first: ModbusSource, kind: Kind, elements: int | None, tag: ModbusTag) -> list[Resolved]:
    shown = first.type if not first.bits else "bit" if first.bits == 1 else "bits"
    if elements is None:
        _fits(first, tag)
        return [Resolved(first, kind, shown)]
    if not 1 <= elements <= 2000:
        raise ValueError(f"{tag.address!r}: an array has 1 to 2000 elements, not {elements}")
    sources = [replace(first, address=first.address + first.count * index) for index in range(elements)]
    if first.type in ("int8", "uint8") and first.half:
        # bytes in a row: two to a register, the given half first
        other = {"high": "low", "low": "high"}[first.half]
        sources = [
            replace(first, address=first.address + index // 2, half=other if index % 2 else first.half)
            for index in range(elements)
        ]
    _fits(sources[-1], tag)
    return [Resolved(source, kind, shown, f"[{index}]") for index, source in enumerate(sources)]


def _fits(source: ModbusSource, tag: ModbusTag) -> None:
    if source.end - 1 > LAST:
        raise ValueError(f"{tag.address!r} ends at {source.area}:{source.end - 1}, beyond the last address {LAST}")


def _open(link: Link) -> Driver:
    from drivers.modbus.driver import ModbusDriver  # pymodbus is imported only where it is used

    return ModbusDriver(link)


def _resolve(tag: Any, device: Any, link: Any) -> Sequence[Resolved]:
    return resolve(tag, device, link)


SPEC: Final = DriverSpec("modbus", ModbusLink, ModbusDevice, ModbusTag, _resolve, _open)
