"""From an endpoint to a socket that MQTT can be spoken on: name, TCP, TLS, WebSocket. Blocks; runs on a thread.

- Addresses of a name are tried one after the other, each for its share of the time: one that is dead costs no other.
- `source` binds the connection to an address of this machine, the interface that leads north.
- TLS 1.2 at least. The certificate is proven by an authority and its name, or by its pinned fingerprint (SHA-256),
  which needs neither; where both are given both must hold. One that is not accepted is told with its fingerprint.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from gateway.mqtt.claim import Claimed
from gateway.mqtt.places import Endpoint

if TYPE_CHECKING:
    from gateway.options import MqttOptions, TlsOptions

_SEND_BUFFER: Final = 1 << 20  # a window of messages goes to the kernel in few pieces


class Untrusted(ConnectionError):
    """The broker's certificate is not accepted: why, and its fingerprint where that is known."""

    def __init__(self, reason: str, seen: str) -> None:
        self.reason = reason
        self.seen = seen
        super().__init__(reason)


def dial(where: Endpoint, options: MqttOptions) -> Any:
    """Connect; give a socket, or what works like one. Raises OSError, ValueError."""
    timeout = options.connect_timeout
    sock = _tcp(where, options.source, timeout)
    try:
        sock.settimeout(timeout)
        if where.tls:
            sock = _secure(sock, where, options)
        made: Any = sock
        if where.websocket:
            from gateway.mqtt.websocket import WebSocket  # imported here: most sites do without its library

            made = WebSocket(sock, where)
            made.handshake()
    except BaseException:
        sock.close()
        raise
    return made


def _tcp(where: Endpoint, source: str | None, timeout: float) -> socket.socket:
    family = socket.AF_UNSPEC
    if source is not None:
        family = socket.AF_INET6 if ipaddress.ip_address(source).version == 6 else socket.AF_INET
    found = socket.getaddrinfo(where.host, where.port, family, socket.SOCK_STREAM)
    failure: OSError | None = None
    for kind, _, protocol, _, address in found:
        sock = socket.socket(kind, socket.SOCK_STREAM, protocol)
        try:
            if source is not None:
                sock.bind((source, 0))
            sock.settimeout(timeout / len(found))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        except OSError as error:
            sock.close()
            failure = failure or error
        else:
            return sock
    raise failure or OSError("no address")


def _secure(sock: socket.socket, where: Endpoint, options: MqttOptions) -> ssl.SSLSocket:
    tls = options.trust
    try:
        made = tls_context(tls).wrap_socket(sock, server_hostname=tls.server_name or where.host)
    except ssl.SSLCertVerificationError as error:
        seen = _look(where, tls, options.source, options.connect_timeout)
        raise Untrusted(error.verify_message, seen) from error
    if tls.fingerprint:
        seen = _fingerprint(made)
        if seen not in tls.fingerprint:
            made.close()
            raise Untrusted("", seen)
    return made


def tls_context(tls: TlsOptions) -> ssl.SSLContext:
    """Make what TLS is done with. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca is not None:
        context.load_verify_locations(tls.ca)
    elif tls.fingerprint:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the fingerprint is compared instead
    else:
        context.load_default_certs()
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key, lambda: tls.key_password or "")
    return context


def _look(where: Endpoint, tls: TlsOptions, source: str | None, timeout: float) -> str:
    """Give the fingerprint of a certificate that was not accepted, by a second handshake; empty where that fails."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            _tcp(where, source, timeout) as sock,
            context.wrap_socket(sock, server_hostname=tls.server_name or where.host) as made,
        ):
            return _fingerprint(made)
    except OSError:
        return ""


def _fingerprint(sock: ssl.SSLSocket) -> str:
    return hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()


def spaced(fingerprint: str) -> str:
    """Write a fingerprint as openssl does."""
    return ":".join(fingerprint[at : at + 2] for at in range(0, len(fingerprint), 2)).upper()


# ------------------------------------------------------------------------------------------------ telling


def needs_somebody(error: Exception) -> bool:
    """Say whether this will not pass by itself."""
    return isinstance(error, Claimed | Untrusted | FileNotFoundError | PermissionError)


def failure(where: Endpoint, client_id: str, options: MqttOptions, error: Exception) -> str:
    """Say why no connection came about, and what to do."""
    if isinstance(error, Claimed):
        return (
            f"{where}: {error} on this machine is connected with the client id {client_id}, and a broker keeps one"
            " connection for each: end it, or give one of them another client_id"
        )
    if isinstance(error, socket.gaierror):
        return f"{where}: the host name is not known: check url and the name server"
    if isinstance(error, ConnectionRefusedError):
        return f"{where}: nothing listens there: is the broker running, are host and port right?"
    if isinstance(error, Untrusted | ssl.SSLError):
        return f"{where}: {_tls_failure(error)}"
    if isinstance(error, FileNotFoundError | PermissionError) and options.tls is not None:
        files = [name for name in (options.tls.ca, options.tls.certificate, options.tls.key) if name]
        return f"{where}: a TLS file cannot be read ({error.strerror}): {', '.join(files) or error}"
    if isinstance(error, TimeoutError):
        return f"{where}: no answer to the connection attempt: is the host up, is a firewall in the way?"
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL and options.source is not None:
        return f"{where}: source {options.source} is no address of this machine now: is the interface up?"
    if where.websocket and type(error).__name__ == "Unanswered":
        return f"{where}: no WebSocket for MQTT there ({error}): check the port and the path of the url"
    if isinstance(error, ConnectionError):
        hint = "is it a broker, and does it expect TLS on this port?" if where.tls else "is it a broker?"
        return f"{where}: the connection was closed while it was made: {hint}"
    return f"{where}: {error}"


def _tls_failure(error: Exception) -> str:
    if isinstance(error, Untrusted) and not error.reason:
        return (
            f"the broker's certificate is not the pinned one; its fingerprint is {spaced(error.seen)}. If the broker"
            " was given a new certificate, set tls.fingerprint to that; if not, somebody stands between you and it"
        )
    if isinstance(error, Untrusted):
        advice = "check the date" if "expired" in error.reason else "check tls.ca and tls.server_name"
        if error.seen:
            advice += (
                f". Its fingerprint is {spaced(error.seen)}: if the broker's operator confirms it, pin it with"
                " tls.fingerprint"
            )
        return f"the broker's certificate is not accepted ({error.reason}): {advice}"
    if isinstance(error, ssl.SSLError) and error.reason == "BAD_DECRYPT":
        return "the client's private key is encrypted: check tls.key_password"
    reason = getattr(error, "reason", None) or str(error)
    return f"TLS failed ({reason}): does it expect TLS on this port, and a certificate?"
