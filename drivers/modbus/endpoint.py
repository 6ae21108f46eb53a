"""Link URLs: one text says transport, framing, place and serial parameters. Pure; imports no protocol library.

    tcp://192.168.1.20            Modbus TCP, port 502             tcp://[fe80::1%eth0]:1502
    tls://plc.example             Modbus/TCP Security, port 802    (certificates: the link's `tls` key)
    udp://192.168.1.20            Modbus TCP frames in datagrams, port 502
    rtu:///dev/ttyUSB0?baud=9600&parity=E&stop=1       serial line, RTU frames
    ascii:///dev/ttyUSB0?baud=9600&parity=E&bits=7     serial line, ASCII frames
    rtu+tcp://192.168.1.30:4001   RTU frames through a serial server
    ascii+tcp://192.168.1.30:4001

Parameters of a serial line: baud (9600), parity N, E or O (N), stop 1 or 2 (1), bits 7 or 8 (8; ASCII may use 7) and
echo=1 for an adapter that sends back what it sends. With rtu+tcp and ascii+tcp the same parameters describe the line
behind the serial server, so that the plan can estimate its times; they change nothing there.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

Framing = Literal["mbap", "rtu", "ascii"]
Transport = Literal["tcp", "tls", "udp", "serial"]

SCHEMES: Final[dict[str, tuple[Transport, Framing, int]]] = {
    "tcp": ("tcp", "mbap", 502),
    "tls": ("tls", "mbap", 802),
    "udp": ("udp", "mbap", 502),
    "rtu": ("serial", "rtu", 0),
    "ascii": ("serial", "ascii", 0),
    "rtu+tcp": ("tcp", "rtu", 0),
    "ascii+tcp": ("tcp", "ascii", 0),
}
_PARAMETERS: Final = ("baud", "parity", "stop", "bits", "echo")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a link's peer is, and how frames travel. `path` is the serial port's device file."""

    transport: Transport
    framing: Framing
    host: str = ""
    port: int = 0
    path: str = ""
    baud: int = 9600
    parity: Literal["N", "E", "O"] = "N"
    stop: int = 1
    bits: int = 8
    echo: bool = False

    @property
    def character(self) -> float:
        """Seconds one character takes on the serial line: start, data, parity and stop bits."""
        return (1 + self.bits + (self.parity != "N") + self.stop) / self.baud

    @property
    def silence(self) -> float:
        """Seconds of silence between RTU frames: 3.5 characters, or 1.75 ms above 19200 baud (Serial Line V1.02)."""
        return 0.00175 if self.baud > 19200 else 3.5 * self.character

    @property
    def paced(self) -> bool:
        """Whether a serial line is in the way, here or behind a serial server: one request at a time, drained."""
        return self.framing != "mbap"

    def __str__(self) -> str:
        if self.transport == "serial":
            return f"{self.path} {self.baud} {self.bits}{self.parity}{self.stop}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_url(url: str) -> Endpoint:
    """Read a link's URL. Raises ValueError with what was expected."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or "://" not in url:
        close = difflib.get_close_matches(parts.scheme or url.split(":")[0], SCHEMES, 1, 0.5)
        meant = {"modbus": "tcp", "serial": "rtu", "modbus+tcp": "tcp", "rtuovertcp": "rtu+tcp"}.get(parts.scheme)
        guess = f", did you mean {meant or close[0]}://?" if meant or close else ""
        if "://" not in url:
            guess = f", did you mean tcp://{url}?"
        raise ValueError(f"expected a URL that begins with {', '.join(f'{s}://' for s in SCHEMES)}, got {url!r}{guess}")
    transport, framing, default = SCHEMES[parts.scheme]
    settings = _parameters(parts.query, url)
    if framing == "mbap" and settings:
        raise ValueError(f"{url!r}: serial parameters ({', '.join(settings)}) do not belong to {parts.scheme}://")
    if transport == "serial":
        path = unquote(parts.netloc + parts.path)
        if not path or path == "/":
            raise ValueError(f"{url!r}: expected a serial port, as in {parts.scheme}:///dev/ttyUSB0?baud=9600")
        return _endpoint(url, transport, framing, settings, path=path)
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{url!r}: the port must be a number from 1 to 65535") from None
    if not parts.hostname:
        raise ValueError(f"{url!r}: expected a host, as in {parts.scheme}://192.168.1.20")
    if parts.path not in ("", "/") or parts.username:
        raise ValueError(
            f"{url!r}: expected {parts.scheme}://HOST:PORT and nothing after it (unit_id is a device's key)"
        )
    if not port and not default:
        raise ValueError(f"{url!r}: expected the serial server's port, as in {parts.scheme}://{parts.hostname}:4001")
    return _endpoint(url, transport, framing, settings, host=unquote(parts.hostname), port=port or default)


def _parameters(query: str, url: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _PARAMETERS:
            close = difflib.get_close_matches(name, _PARAMETERS, 1, 0.5)
            guess = f", did you mean {close[0]}?" if close else f", expected {', '.join(_PARAMETERS)}"
            raise ValueError(f"{url!r}: unknown parameter {name!r}{guess}")
        if name in settings:
            raise ValueError(f"{url!r}: {name} is given twice")
        settings[name] = value
    return settings


def _endpoint(
    url: str,
    transport: Transport,
    framing: Framing,
    given: dict[str, str],
    host: str = "",
    port: int = 0,
    path: str = "",
) -> Endpoint:
    allowed = {"parity": ("N", "E", "O"), "stop": ("1", "2"), "bits": ("7", "8"), "echo": ("0", "1")}
    for name, choices in allowed.items():
        if name in given and given[name] not in choices:
            raise ValueError(f"{url!r}: {name} must be {' or '.join(choices)}, got {given[name]!r}")
    baud = given.get("baud", "9600")
    if not baud.isdigit() or not 50 <= int(baud) <= 4_000_000:
        raise ValueError(f"{url!r}: baud must be a number such as 9600, got {baud!r}")
    if framing == "rtu" and given.get("bits") == "7":
        raise ValueError(f"{url!r}: RTU needs 8 data bits")
    return Endpoint(
        transport,
        framing,
        host,
        port,
        path,
        baud=int(baud),
        parity=given.get("parity", "N"),  # type: ignore[arg-type]  # one of the choices above
        stop=int(given.get("stop", "1")),
        bits=int(given.get("bits", "8")),
        echo=given.get("echo") == "1",
    )
