"""Simulators for a whole site: one for every link of a site file, and the signal behind every tag.

A link is simulated at its own host and port where that is an address of this machine, so that the site file runs as
it is; else on 127.0.0.1, at a port counted up from a base or of the system's choice. The simulated urls go to
`plantbridge run --links`. A serial line becomes RTU (or ASCII) frames over TCP, or a pseudo terminal if asked. TLS is
served with a certificate made up for the occasion, which a site file takes only with `verify: false`; a link without
any `tls` keys becomes plain TCP. Links that need no peer (replay) and links of drivers that nobody simulates are left
alone, and told.

With the steps of a scenario (simulators.scenario) `play` lets things go wrong. A link whose connection is to suffer is
simulated behind a proxy.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

from gateway.config import Site
from gateway.model import Link
from simulators import scenario
from simulators.faults import FaultProxy, Mode
from simulators.playing import Playing
from simulators.scenario import Heal, Step
from simulators.signals import TICK, Signal

SELF_CONTAINED: Final = ("replay",)


class Simulator(Protocol):
    """A running peer of one link."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Simulated:
    """One link: the url to use instead of its own, and a word about it where there is something to say."""

    link: Link
    url: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a stored reading of a tag is compared with: its signal, and how far its time may be behind (ns).

    Where the source gives the time, it is exact. Elsewhere a reading is stamped when the answer arrives, and its value
    is of some moment since the request: at most the link's time-out earlier.
    """

    signal: Signal
    tolerance: int


class PortTaken(Exception):
    """A loopback address of the site file is in use; somebody simulates already?"""


def expected(site: Site, tick: int = TICK, playing: Playing | None = None) -> dict[tuple[str, str], Expected]:
    """Give what is behind each (device, tag) that can be compared; simulated links only."""
    found = {}
    for link in site.links:
        exact = {device.name for device in link.devices if link.driver == "opcua" and device.options.time == "source"}
        slack = round(max(link.options.timeout, 1.0) * 1e9)
        for (device, tag), signal in signals(link, tick, playing).items():
            if signal is not None:
                found[device, tag] = Expected(signal, 0 if device in exact else slack)
    return found


def signals(link: Link, tick: int = TICK, playing: Playing | None = None) -> Mapping[tuple[str, str], Signal | None]:
    """Give the signal behind each (device, tag) of a link; None, or nothing, where there is none to compare with."""
    if link.driver == "modbus":
        from simulators import modbus_map

        return modbus_map.signals(link, tick, playing)
    if link.driver == "opcua":
        from simulators import opcua  # asyncua is heavy

        return opcua.signals(link, tick, playing)
    return {}


class SiteSimulator:
    """The simulators of a site. `async with` starts and closes them."""

    def __init__(
        self,
        site: Site,
        *,
        tick: int = TICK,
        port_base: int = 0,
        own_addresses: bool = True,
        terminals: bool = False,
        holes: bool = True,
        steps: Sequence[Step] = (),
        pki: Path | None = None,
        playing: Playing | None = None,
        note: Callable[[dict[str, int]], Any] = lambda _entry: None,
    ) -> None:
        """Prepare. `note` is told of each step: {"step": place in `steps`, "begin" or "end": ns}."""
        self.links: list[Simulated] = []
        self._site = site
        self._tick = tick
        self._next = port_base
        self._own = own_addresses
        self._terminals = terminals
        self._holes = holes
        self._steps = tuple(steps)
        self._pki = pki
        self._playing = playing
        self._note = note
        self._running: list[Simulator] = []
        self._servers: dict[str, Any] = {}  # by link
        self._proxies: dict[str, FaultProxy] = {}  # of links whose connection is to suffer

    @property
    def urls(self) -> dict[str, str]:
        """Give the url of every simulated link, by name."""
        return {each.link.name: each.url for each in self.links if each.url}

    async def start(self) -> None:
        """Start a simulator for every link. Raises PortTaken."""
        for link in self._site.links:
            if link.driver == "modbus":
                self.links.append(await self._modbus(link))
            elif link.driver == "opcua":
                self.links.append(await self._opcua(link))
            else:
                known = link.driver in SELF_CONTAINED
                note = "needs no device" if known else f"nobody simulates the driver {link.driver}"
                self.links.append(Simulated(link, "", note))

    async def close(self) -> None:
        """Stop them all."""
        running, self._running = [*self._proxies.values(), *self._running], []
        self._servers, self._proxies = {}, {}
        for simulator in running:
            await simulator.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def play(self, say: Callable[[str], Any] = lambda _text: None) -> None:
        """Let the scenario's steps happen; return when the last is over."""
        await scenario.play(self._steps, self.begin, say)

    async def begin(self, step: Step) -> Heal:
        """Carry out one step; give what ends it."""
        now = time.time_ns()
        place = next((place for place, each in enumerate(self._steps) if each is step), -1)
        self._note({"step": place, "begin": now})
        heal = await self._begin(step, now)

        async def heal_and_note() -> None:
            await heal()
            self._note({"step": place, "end": time.time_ns()})

        return heal_and_note

    async def _begin(self, step: Step, now: int) -> Heal:
        if step.fault == "restart":
            return await self._restart(step)
        if step.proxied:
            return await self._disturb(self._proxies[step.link], step)
        server = self._servers[step.link]
        if step.link in {each.name for each in self._site.links if each.driver == "modbus"}:
            from simulators import modbus_faults

            return modbus_faults.begin(server, step, now)
        from simulators import opcua_faults

        return opcua_faults.begin(server, step, now)

    async def _disturb(self, proxy: FaultProxy, step: Step) -> Heal:
        async def put(*, on: bool) -> None:
            match step.fault:
                case "drop":
                    await (proxy.down() if on else proxy.up())
                case "slow":
                    proxy.delay = (step.options.delay or 0.0) if on else 0.0
                case "hang":
                    proxy.mode = Mode.HOLD if on else Mode.FORWARD
                case "garble":
                    proxy.mode = Mode.GARBLE if on else Mode.FORWARD

        await put(on=True)
        return lambda: put(on=False)

    async def _restart(self, step: Step) -> Heal:
        proxy = self._proxies[step.link]
        await proxy.down()
        await self._servers[step.link].restart(reindex=bool(step.options.reindex))
        proxy.target = self._servers[step.link].port or proxy.target

        async def heal() -> None:
            await proxy.up()

        return heal

    async def _listen(
        self, link: Link, host: str, port: int, listen: Callable[[str, int], Awaitable[int]]
    ) -> tuple[str, int]:
        """Let a server listen there, or a proxy in front of it; give where."""
        host, port = self._place(host, port)
        if not any(step.link == link.name and step.proxied for step in self._steps):
            return host, await listen(host, port)
        proxy = FaultProxy("127.0.0.1", await listen("127.0.0.1", 0), listen=host, listen_port=port)
        self._proxies[link.name] = proxy
        return host, await proxy.up()

    def _place(self, host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> tuple[str, int]:
        """Choose where to listen for a link that lives at host:port."""
        if self._own and (here := local(host)) is not None:
            if bindable(here, port, kind):
                return here, port
            if ipaddress.ip_address(here).is_loopback:
                raise PortTaken(f"{host}:{port} cannot be listened on: in use, or not allowed")
        if not self._next:
            return "127.0.0.1", 0
        port, self._next = self._next, self._next + 1
        return "127.0.0.1", port

    async def _modbus(self, link: Link) -> Simulated:
        from simulators.modbus import ModbusServer

        endpoint: Any = link.options.endpoint
        server = ModbusServer(link, tick=self._tick, holes=self._holes, playing=self._playing)
        self._running.append(server)
        self._servers[link.name] = server
        query = urlsplit(link.options.url).query
        serial = "&".join(part for part in query.split("&") if part and not part.startswith("echo="))
        if endpoint.transport == "serial" and self._terminals:
            path = server.listen_terminal(endpoint.framing)
            return Simulated(link, _url(f"{endpoint.framing}://{path}", serial), f"for {endpoint.path}")
        if endpoint.transport == "udp":
            host, port = self._place(endpoint.host, endpoint.port, socket.SOCK_DGRAM)
            port = await server.listen_udp(host, port)
            return Simulated(link, f"udp://{_host(host)}:{port}")
        framing, tls = endpoint.framing, None
        if endpoint.transport == "tls" and link.options.tls.model_fields_set:
            framing, tls = "mbap", _self_signed(local(endpoint.host) or "127.0.0.1")
        host, port = await self._listen(
            link, endpoint.host or "", endpoint.port if endpoint.host else 0,
            lambda host, port: server.listen(host, port, framing, tls),
        )  # fmt: skip
        if tls is not None:
            return Simulated(link, f"tls://{_host(host)}:{port}", "certificate made up: needs tls: {verify: false}")
        scheme = "tcp" if endpoint.framing == "mbap" else f"{endpoint.framing}+tcp"
        notes = {"serial": f"in frames over TCP, for {endpoint.path}", "tls": "without TLS"}
        return Simulated(link, _url(f"{scheme}://{_host(host)}:{port}", serial), notes.get(endpoint.transport, ""))

    async def _opcua(self, link: Link) -> Simulated:
        from simulators.opcua import OpcuaServer

        parts = urlsplit(link.options.url)
        server = OpcuaServer(link, tick=self._tick, pki=self._pki, playing=self._playing)
        self._running.append(server)
        self._servers[link.name] = server
        host, port = await self._listen(
            link, parts.hostname or "", parts.port or 4840, lambda host, port: server.start(host, port, parts.path)
        )
        return Simulated(link, f"opc.tcp://{_host(host)}:{port}{parts.path}")


def local(host: str) -> str | None:
    """Give the address where the host is a literal one (or localhost) that could be this machine's."""
    host = "127.0.0.1" if host == "localhost" else host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if address.is_unspecified or address.is_multicast else host


def bindable(host: str, port: int, kind: socket.SocketKind) -> bool:
    """Say whether this machine can listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError:
        return False
    return True


def _self_signed(host: str) -> ssl.SSLContext:
    """Make a server's TLS settings with a new certificate that is good for a day."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "PlantBridge simulator")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:  # the ssl module reads files only
        file.write(key.private_bytes(serialization.Encoding.PEM, *form))
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _url(url: str, query: str) -> str:
    return f"{url}?{query}" if query else url
