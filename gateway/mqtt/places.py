"""Where brokers are. The options have checked the URLs; here they become hosts and ports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from gateway.options import MqttOptions


_PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_PATH: Final = "/mqtt"  # of a WebSocket, where the URL has none


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a broker is, and how it is spoken to."""

    scheme: str  # mqtt, mqtts, ws, wss
    host: str
    port: int
    path: str = ""  # of a WebSocket, with its query

    @property
    def tls(self) -> bool:
        return self.scheme in ("mqtts", "wss")

    @property
    def websocket(self) -> bool:
        return self.scheme in ("ws", "wss")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path.partition('?')[0]}"  # a query may hold a signature


def endpoints(options: MqttOptions) -> tuple[Endpoint, ...]:
    """Give the brokers in the order in which they are tried."""
    return tuple(_endpoint(url, secure=options.tls is not None) for url in options.url)


def _endpoint(url: str, *, secure: bool) -> Endpoint:
    parts = urlsplit(url)
    scheme = {"mqtt": "mqtts", "ws": "wss"}.get(parts.scheme, parts.scheme) if secure else parts.scheme
    path = ""
    if scheme in ("ws", "wss"):
        path = (parts.path or _PATH) + (f"?{parts.query}" if parts.query else "")
    return Endpoint(scheme, parts.hostname or "", parts.port or _PORTS[scheme], path)
