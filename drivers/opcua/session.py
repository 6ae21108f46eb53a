"""A session with one server: asyncua's socket, secure channel and services underneath, raw requests on top.

`exchange` sends a request whose tail was encoded before and gives the undecoded response; `call` runs one of asyncua's
own services. Both have a deadline, and both turn what can go wrong into the gateway's errors: this module is the one
place where asyncua's exceptions end.

- Silence, a closed socket, a lost session or channel: NotConnected. On OPC UA the peer is the link, so a request
  without an answer says that the session cannot be relied on; it costs little to make a new one.
- A service that the server refuses for now (BadTimeout, BadServerTooBusy, ...): NoAnswer, the session stays.
- A message that contradicts itself: ProtocolError.

The channel is renewed at three quarters of its life and an idle session is kept alive, by one task that belongs to the
session. asyncua's own supervisor, reconnection and publish loop are not used. `_send` is the one place that reaches
into asyncua's private parts (its message framing and its table of pending requests; 2.1.0).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import urlsplit

from asyncua import Client, ua
from asyncua.client.ua_client import UASocketProtocol
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, nodeid_to_binary, struct_from_binary

from drivers.opcua import frames, pki, security, wire
from drivers.opcua.decode import Columns, decode
from gateway import quality as q
from gateway.errors import DeviceError, NoAnswer, NotConnected, ProtocolError

if TYPE_CHECKING:
    from drivers.opcua.spec import OpcuaLink

T = TypeVar("T")

CLOSE_TIMEOUT: Final = 1.0
PORT: Final = 4840
_STATE: Final = nodeid_to_binary(ua.NodeId(ua.ObjectIds.Server_ServerStatus_State))
_LEVEL: Final = nodeid_to_binary(ua.NodeId(ua.ObjectIds.Server_ServiceLevel))
HEALTHY: Final = 200  # ServiceLevel (Part 4, 6.6.2.4.2): 2 to 199 degraded, 1 no data, 0 maintenance
LOOK_AT_LEVEL: Final = 5.0  # s; a server that has substitutes is asked this often how it feels
_LOST: Final = {
    ua.StatusCodes.BadSessionIdInvalid, ua.StatusCodes.BadSessionClosed, ua.StatusCodes.BadSessionNotActivated,
    ua.StatusCodes.BadSecureChannelIdInvalid, ua.StatusCodes.BadSecureChannelClosed, ua.StatusCodes.BadShutdown,
    ua.StatusCodes.BadSecureChannelTokenUnknown, ua.StatusCodes.BadTcpSecureChannelUnknown,
    ua.StatusCodes.BadServerHalted, ua.StatusCodes.BadConnectionClosed, ua.StatusCodes.BadCommunicationError,
    ua.StatusCodes.BadServerNotConnected, ua.StatusCodes.BadIdentityTokenRejected,
}  # fmt: skip
TOO_MUCH: Final = {
    ua.StatusCodes.BadTooManyOperations, ua.StatusCodes.BadRequestTooLarge, ua.StatusCodes.BadResponseTooLarge,
    ua.StatusCodes.BadEncodingLimitsExceeded, ua.StatusCodes.BadTcpMessageTooLarge,
}  # fmt: skip


class Refused(NoAnswer):
    """The server answered a request with a fault; the session goes on."""


def status_name(code: int) -> str:
    """Give a StatusCode's standard name with its number."""
    return f"{ua.StatusCode(code & 0xFFFF0000).name} (0x{code:08X})"


def translate(error: BaseException, doing: str, url: str) -> DeviceError:
    """Say in the gateway's errors what asyncua or the operating system raised."""
    if isinstance(error, DeviceError):
        return error
    if isinstance(error, TimeoutError):
        return NotConnected(f"{url}: no answer in time while {doing}", status=q.BAD_TIMEOUT)
    if isinstance(error, ua.UaStatusCodeError):
        code = int(error.code)
        if code in _LOST:
            return NotConnected(f"{url}: {status_name(code)} while {doing}", status=code)
        return Refused(f"{url}: {status_name(code)} while {doing}", status=code)
    if isinstance(error, OSError):
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        return NotConnected(f"{url}: {reason} while {doing}")
    return ProtocolError(f"{url}: {error or type(error).__name__} while {doing}")


def _cancellations() -> int:
    """Give how often this task was asked to end; Python 3.11's TaskGroup leaves one behind when a member fails."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _mind_cancellation(before: int) -> None:
    """Raise a cancellation that was swallowed on the way: Python 3.11's wait_for loses one that meets its result."""
    if _cancellations() > before:
        raise asyncio.CancelledError


def _seen(future: asyncio.Future[Any]) -> None:
    """Look at a future's exception, so that one that nobody waits for any more is not reported as forgotten."""
    if not future.cancelled():
        future.exception()


class _Waiting(dict[int, "asyncio.Future[Buffer]"]):
    """asyncua's futures by request. Where it would drop the link over an answer to no request, the answer is dropped.

    Servers send such: asyncua's own, to Publish requests of the session that a subscription was taken over from.
    """

    def pop(self, number: int, *_default: Any) -> asyncio.Future[Buffer]:
        return super().pop(number, None) or asyncio.get_running_loop().create_future()


class Session:
    """One session: made by `open`, good until an error says otherwise, ended by `close`."""

    def __init__(self, options: OpcuaLink, url: str = "") -> None:
        self.options = options
        self.url = url or options.url
        self._client: Client | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._token = b""
        self._heard = 0.0
        self._lost: DeviceError | None = None
        self._silent = False
        self.origin = self.url, ""  # whose subscriptions can be fetched: this server, since its start
        self.floor = 0  # a ServiceLevel below this ends the session: another server may do better

    @property
    def client(self) -> Client:
        """The asyncua client under this session. Raises NotConnected."""
        if self._client is None:
            raise NotConnected(f"{self.url}: no session")
        return self._client

    @property
    def alive(self) -> bool:
        """False once the socket is known to be gone."""
        return self._client is not None and self._lost is None and self._socket() is not None

    async def open(self) -> None:
        """Make socket, channel and session. Raises NotConnected, whatever the reason."""
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # all that matters is raised from here
        self._lost = None
        client = self._client = self._make()
        created = False
        asked = _cancellations()
        try:
            await security.prepare(client, self.options, self.url)
            await client.connect_socket()
            _mind_cancellation(asked)
            client.uaclient.protocol._callbackmap = _Waiting()
            frames.shorten(client.uaclient.protocol)
            await client.send_hello()
            await client.open_secure_channel()
            self._date_keys(client)
            await client.create_session()
            created = True
            security.check_password(client, self.options, self.url)
            await client._activate_with_credentials()
        except Exception as error:
            if created:
                await self._end(client)
            self.abort()
            found = translate(error, "connecting", self.url)
            raise NotConnected(str(found), status=found.status) from error
        except BaseException:
            self.abort()
            raise
        self._token = nodeid_to_binary(client.uaclient.session.authentication_token)
        self._heard = time.monotonic()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.url}")

    def _make(self) -> Client:
        parts = urlsplit(self.url)
        url = self.url if parts.port else parts._replace(netloc=f"{parts.netloc}:{PORT}").geturl()
        client = Client(url, timeout=self.options.timeout)
        client.name = "PlantBridge"
        client.description = "PlantBridge"
        client.application_uri = pki.application_uri()
        client.product_uri = "urn:plantbridge"
        client.session_timeout = round(self.options.session_timeout * 1000)
        client.secure_channel_timeout = round(self.options.channel_lifetime * 1000)
        return client

    async def exchange(self, type_id: bytes, answer_id: bytes, tail: bytes, timeout: float) -> tuple[bytes, int]:
        """Send a request and give its response's body and where the ResponseHeader ends in it.

        Raises Refused where the server answers with a fault, NotConnected, ProtocolError.
        """
        return await self.answer(self.post(type_id, tail, timeout), answer_id, timeout)

    async def answer(self, future: asyncio.Future[Buffer], answer_id: bytes, timeout: float) -> tuple[bytes, int]:
        """Wait for what `post` asked for, and open it as `exchange` does."""
        try:
            async with asyncio.timeout(timeout):
                await future
        except Exception as error:
            self._silent = isinstance(error, TimeoutError)
            raise self._lost or translate(error, "waiting for an answer", self.url) from error
        return self.taken(future, answer_id)

    def post(self, type_id: bytes, tail: bytes, timeout: float = 0.0) -> asyncio.Future[Buffer]:
        """Send a request without waiting; `taken` opens what the future holds when it is done. Raises NotConnected."""
        protocol = self._socket()
        if protocol is None:
            raise self._lost or NotConnected(f"{self.url}: the connection is closed")
        return self._send(protocol, type_id, tail, timeout)

    def taken(self, future: asyncio.Future[Buffer], answer_id: bytes) -> tuple[bytes, int]:
        """Open the response in a future that is done, as `exchange` does."""
        try:
            body = bytes(future.result())
        except Exception as error:
            raise self._lost or translate(error, "waiting for an answer", self.url) from error
        self._heard = time.monotonic()
        return body, self._check(body, answer_id)

    async def values(self, nodes: Sequence[bytes], most: int = 1, ranges: Sequence[str] | None = None) -> Columns:
        """Read values of nodes, or parts of them, `most` in a request. Raises Refused, NotConnected, ProtocolError."""
        columns = Columns.empty(len(nodes))
        asked = [node + wire.value(part) for node, part in zip(nodes, ranges or [""] * len(nodes), strict=True)]
        for first in range(0, len(asked), most):
            some = asked[first : first + most]
            tail = wire.read_tail(some)
            body, at = await self.exchange(wire.READ_REQUEST, wire.READ_RESPONSE, tail, self.options.timeout)
            self.unpack(body, at, columns, first, len(some))
        return columns

    def unpack(self, body: bytes, at: int, columns: Columns, row: int, count: int) -> None:
        """Put the `count` values of a ReadResponse into rows `row`... of `columns`. Raises ProtocolError."""
        try:
            if wire.int32(body, at) != count:
                raise ProtocolError(f"{self.url}: {wire.int32(body, at)} values in answer to {count}")
            decode(body, at + 4, columns, row, count)
        except wire.Malformed as error:
            raise ProtocolError(f"{self.url}: an answer that makes no sense: {error}") from error

    async def service(self, request: Any, answer: type[T], doing: str) -> T:
        """Run a service that asyncua has the types of: send its request, give its response."""
        body = await self.call(self.client.uaclient._send_request(request), doing)
        try:
            return cast(T, struct_from_binary(answer, body))
        except Exception as error:
            raise ProtocolError(f"{self.url}: an answer that makes no sense while {doing}: {error}") from error

    def _check(self, body: bytes, answer_id: bytes) -> int:
        try:
            at = 4 if body[:4] in (answer_id, wire.SERVICE_FAULT) else wire.skip_node_id(body, 0)
            result, end = wire.response(body, at)
            if result >= q.BAD:
                error = translate(ua.UaStatusCodeError(result), "answering a request", self.url)
                raise error
            if body[:4] != answer_id and nodeid_from_binary(Buffer(body)) != nodeid_from_binary(Buffer(answer_id)):
                raise ProtocolError(f"{self.url}: an answer of another kind than the request")
        except wire.Malformed as error:
            raise ProtocolError(f"{self.url}: an answer that makes no sense: {error}") from error
        return end

    def _send(self, protocol: UASocketProtocol, type_id: bytes, tail: bytes, timeout: float) -> asyncio.Future[Buffer]:
        """Frame, number and write a request that is encoded already; what asyncua's _send_request does behind it."""
        protocol._request_handle += 1
        body = wire.request(type_id, self._token, protocol._request_handle, timeout, tail)
        protocol.revolve_security_token()
        number = protocol._request_id + 1
        message = frames.framed(protocol, body, number)
        protocol._request_id = number
        future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_seen)
        protocol._callbackmap[number] = future
        assert protocol.transport is not None
        protocol.transport.write(message)
        return future

    async def call(self, service: Awaitable[T], doing: str, timeout: float | None = None) -> T:
        """Run one of asyncua's services under a deadline. Raises Refused, NotConnected, ProtocolError."""
        try:
            async with asyncio.timeout(timeout or self.options.timeout):
                result = await service
        except Exception as error:
            raise self._lost or translate(error, doing, self.url) from error
        self._heard = time.monotonic()
        return result

    def _socket(self) -> UASocketProtocol | None:
        protocol = self._client.uaclient.protocol if self._client is not None else None
        return protocol if protocol is not None and protocol.transport is not None else None

    async def service_level(self) -> int:
        """Ask how well the server feels: 0 to 255; 255 where it does not say. Raises Refused, NotConnected."""
        columns = await self.values([_LEVEL])
        return int(columns.number[0]) if columns.type[0] == wire.BYTE and columns.status[0] < q.BAD else 255

    async def _keep(self) -> None:
        """Renew the channel in time, and let an idle session be heard of three times within its timeout."""
        client = self.client
        started = looked = time.monotonic()
        probe = wire.read_tail([_STATE + wire.VALUE])
        while True:
            now = time.monotonic()
            idle = min(client.session_timeout / 3000, 30.0)
            life = client.secure_channel_timeout / 1000 * 0.75
            renew_in = started + life - now
            idle_in = self._heard + idle - now
            look_in = looked + LOOK_AT_LEVEL - now if self.floor else idle_in
            if min(renew_in, idle_in, look_in) > 0:
                await asyncio.sleep(min(renew_in, idle_in, look_in, LOOK_AT_LEVEL))  # the floor may be set meanwhile
                continue
            try:
                if self.floor and look_in <= 0:
                    looked = now
                    level = await self.service_level()
                    if level < self.floor:
                        raise NotConnected(f"{self.url}: its ServiceLevel fell to {level}")
                    continue
                if renew_in <= 0:
                    await self.call(client.open_secure_channel(renew=True), "renewing the secure channel")
                    self._date_keys(client)
                    started = time.monotonic()
                # behind a renewal too: the server goes over to the new keys when it sees them used
                await self.exchange(wire.READ_REQUEST, wire.READ_RESPONSE, probe, self.options.timeout)
            except Refused:
                self._heard = time.monotonic()
            except DeviceError as error:
                self._lost = error
                self.abort()
                return

    @staticmethod
    def _date_keys(client: Client) -> None:
        """Date the channel's keys by our clock: asyncua would compare the server's date with it."""
        now = datetime.datetime.now(datetime.UTC)
        connection = client.uaclient.protocol._connection
        for token in (connection.security_token, connection.next_security_token):
            token.CreatedAt = now

    async def _end(self, client: Client) -> None:
        """Tell the server that the session is over, if it still listens."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await client.uaclient.close_session(True)
                await client.uaclient.close_secure_channel()

    def abort(self) -> None:
        """Drop the socket at once, whatever state it is in."""
        protocol = self._client.uaclient.protocol if self._client is not None else None
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()

    async def close(self, *, keep: bool = False) -> None:
        """End the session; the server is told where the socket still lives. Never raises.

        With `keep` a session that has failed to answer is left to the server, with its subscriptions: they are fetched
        from the next one.
        """
        keeper, self._keeper = self._keeper, None
        client, alive = self._client, self.alive and not (keep and self._silent)
        try:
            if keeper is not None:
                keeper.cancel()
                await asyncio.wait([keeper])
            if client is not None and alive:
                await self._end(client)
        finally:
            self.abort()
            self._client = None
