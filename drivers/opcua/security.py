"""Who we are to a server, and which server we take for the one that was meant.

With a security policy the server's endpoints are asked for over a plain channel first; nothing secret passes there. Its
certificate is checked against the folders of drivers.opcua.pki before anything else is sent, and the channel that
follows is made with that very certificate, so an altered list of endpoints leads to no session.
"""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from asyncua import Client, ua
from asyncua.crypto import security_policies as library
from asyncua.crypto import uacrypto
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from drivers.opcua import pki
from gateway.errors import NotConnected

if TYPE_CHECKING:
    from drivers.opcua.spec import OpcuaLink

POLICIES: Final[dict[str, type[library.SecurityPolicy]]] = {
    "None": library.SecurityPolicyNone,
    "Basic256Sha256": library.SecurityPolicyBasic256Sha256,
    "Aes128_Sha256_RsaOaep": library.SecurityPolicyAes128Sha256RsaOaep,
    "Aes256_Sha256_RsaPss": library.SecurityPolicyAes256Sha256RsaPss,
    "Basic128Rsa15": library.SecurityPolicyBasic128Rsa15,
    "Basic256": library.SecurityPolicyBasic256,
}
WEAK: Final = ("Basic128Rsa15", "Basic256")
_WELL, _BADLY, _NOT = range(3)
_UNTRUSTED: Final = int(ua.StatusCodes.BadCertificateUntrusted)


async def prepare(client: Client, options: OpcuaLink, url: str) -> None:
    """Give a client what the link's options say of security and user, before it connects. Raises NotConnected."""
    try:
        if options.security_policy != "None":
            await _secure(client, options, url)
        await _identify(client, options)
    except pki.NotTrusted as error:
        raise NotConnected(f"{url}: {error}", status=_UNTRUSTED) from error
    except (OSError, ValueError) as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise
        raise NotConnected(f"{url}: {error}", status=int(ua.StatusCodes.BadCertificateInvalid)) from error


async def _secure(client: Client, options: OpcuaLink, url: str) -> None:
    policy = POLICIES[options.security_policy]
    mode = ua.MessageSecurityMode[options.security_mode]
    folder = Path(options.pki)
    own = await asyncio.to_thread(pki.own, folder)
    if own.until < datetime.datetime.now(datetime.UTC):
        raise pki.NotTrusted(
            f"our own certificate {own.certificate} expired on {own.until:%Y-%m-%d}; make a new one with: "
            f"plantbridge pki create --new --folder {folder}"
        )
    endpoints = await client.connect_and_get_server_endpoints()
    endpoint = endpoint_for(endpoints, mode, policy.URI)
    chain = _split(endpoint.ServerCertificate)
    _check_key(chain[0], options.security_policy)
    claim = pki.Claim(urlsplit(url).hostname or "", endpoint.Server.ApplicationUri or "")
    await asyncio.to_thread(pki.check, chain, folder, claim)
    client.application_uri = own.application_uri
    await client.set_security(
        policy,
        certificate=own.certificate,
        private_key=own.key,
        server_certificate=uacrypto.CertProperties(uacrypto.der_from_x509(chain[0]), extension=".der"),
        mode=mode,
    )


def endpoint_for(
    endpoints: list[ua.EndpointDescription], mode: ua.MessageSecurityMode, policy_uri: str
) -> ua.EndpointDescription:
    """Give the endpoint that a server has for a policy and mode. Raises ValueError, naming what it offers."""
    offered = []
    for endpoint in endpoints:
        if endpoint.SecurityMode == mode and endpoint.SecurityPolicyUri == policy_uri and endpoint.ServerCertificate:
            return endpoint
        offered.append(f"{(endpoint.SecurityPolicyUri or '').rpartition('#')[2]} {endpoint.SecurityMode.name}")
    raise ValueError(
        f"the server does not offer {policy_uri.rpartition('#')[2]} with {mode.name}; it offers "
        f"{', '.join(sorted(set(offered))) or 'nothing'}"
    )


def _check_key(certificate: x509.Certificate, policy: str) -> None:
    """Refuse a key that a policy does not take (OPC 10000-7). Raises ValueError."""
    key, least = certificate.public_key(), 1024 if policy in WEAK else 2048
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < least:
        size = getattr(key, "key_size", 0)
        raise ValueError(
            f"the server's certificate has a key of {size} bits, and {policy} asks for an RSA key of {least} or more: "
            "let the server have a new certificate"
        )


def _split(data: bytes) -> list[x509.Certificate]:
    """Take apart certificates that stand one behind the other."""
    found = []
    while data:
        if data[:2] != b"\x30\x82":
            raise ValueError("the server's certificate is not one")
        length = int.from_bytes(data[2:4], "big") + 4
        found.append(x509.load_der_x509_certificate(data[:length]))
        data = data[length:]
    return found


async def _identify(client: Client, options: OpcuaLink) -> None:
    if options.user_certificate and options.user_key:
        await client.load_client_certificate(options.user_certificate)
        await client.load_private_key(Path(options.user_key))
    elif options.user is not None:
        client.set_user(options.user)
        client.set_password(options.password or "")


def check_password(client: Client, options: OpcuaLink, url: str) -> None:
    """Of the ways in which the server takes passwords use the one that hides best; send none that nothing hides.

    Raises NotConnected.
    """
    if options.user is None:
        return
    client._policy_ids.sort(key=lambda policy: _hides(policy.SecurityPolicyUri or client.security_policy.URI))
    policy = client.server_policy(ua.UserTokenType.UserName)
    hidden = _hides(policy.SecurityPolicyUri) == _WELL or (
        options.allow_weak and _hides(policy.SecurityPolicyUri) == _BADLY
    )
    if options.allow_plaintext_password or hidden:
        return
    if client.security_policy.Mode != ua.MessageSecurityMode.SignAndEncrypt:
        raise NotConnected(
            f"{url}: the server takes passwords only unencrypted, or weakly so; use security_mode: "
            "SignAndEncrypt, or say allow_plaintext_password: true",
            status=int(ua.StatusCodes.BadSecurityChecksFailed),
        )


def _hides(policy_uri: str) -> int:
    """Say how well a policy hides a password that is encrypted by it."""
    name = policy_uri.rpartition("#")[2]
    return _NOT if name in ("", "None") else _BADLY if name in WEAK else _WELL
