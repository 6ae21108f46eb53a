"""Who may talk to a simulated OPC UA server, and how: as the gateway's own link asks for.

A link with a security policy finds a server that offers that policy, signed and encrypted, beside an open channel; the
server's certificate is made on first use and kept in a folder, so that trusting it once is enough. A link with user and
password, or a user's certificate, finds a server that takes these and nobody else. Any client certificate is taken.
"""

from __future__ import annotations

import ipaddress
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

_WORDS: Final = {
    "Basic256Sha256": "Basic256Sha256", "Aes128_Sha256_RsaOaep": "Aes128Sha256RsaOaep",
    "Aes256_Sha256_RsaPss": "Aes256Sha256RsaPss", "Basic128Rsa15": "Basic128Rsa15", "Basic256": "Basic256",
}  # fmt: skip


class _Users:
    """The one user, by password or by certificate (DER)."""

    def __init__(self, name: str | None, password: str | None, certificate: bytes | None) -> None:
        self._known = name, password, certificate

    def get_user(self, _server: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        name, secret, own = self._known
        by_name = name is not None and (username, password) == (name, secret or "")
        by_certificate = own is not None and username is None and certificate == own
        return User(role=UserRole.User, name=name) if by_name or by_certificate else None


async def secure(server: Server, options: Any, pki: Path | None, uri: str) -> None:
    """Give a server the policies, the certificate and the users of a link's options. Raises OSError, ValueError."""
    policies = [ua.SecurityPolicyType.NoSecurity]
    if options.security_policy != "None":
        word = _WORDS[options.security_policy]
        policies += [ua.SecurityPolicyType[f"{word}_{mode}"] for mode in ("Sign", "SignAndEncrypt")]
        certificate, key = _own(pki, uri)
        await server.load_certificate(certificate, "der")
        await server.load_private_key(key, format="pem")
    server.set_security_policy(policies)
    await server.set_application_uri(uri)
    if options.user is not None:
        server.set_identity_tokens([ua.UserNameIdentityToken])
        server.iserver.user_manager = _Users(options.user, options.password, None)
    elif options.user_certificate is not None:
        server.set_identity_tokens([ua.X509IdentityToken])
        server.iserver.user_manager = _Users(None, None, _der(Path(options.user_certificate).read_bytes()))
    else:
        server.set_identity_tokens([ua.AnonymousIdentityToken])


def _der(data: bytes) -> bytes:
    if data.startswith(b"-----BEGIN"):
        return x509.load_pem_x509_certificate(data).public_bytes(serialization.Encoding.DER)
    return data


def _own(folder: Path | None, uri: str) -> tuple[bytes, bytes]:
    """Give certificate (DER) and key (PEM), made where there are none; not kept without a folder."""
    if folder is None:
        return _make(uri)
    certificate, key = folder / "own" / "cert.der", folder / "own" / "key.pem"
    if not (certificate.exists() and key.exists()):
        key.parent.mkdir(parents=True, exist_ok=True)
        made, secret = _make(uri)
        key.touch(mode=0o600)
        key.write_bytes(secret)
        certificate.write_bytes(made)
    return certificate.read_bytes(), key.read_bytes()


def _make(uri: str) -> tuple[bytes, bytes]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "PlantBridge simulator")])
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(uri), x509.DNSName(socket.gethostname()),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]  # fmt: skip
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=True, key_encipherment=True, data_encipherment=True,
        key_agreement=False, key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(usage, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return (
        certificate.public_bytes(serialization.Encoding.DER),
        key.private_bytes(serialization.Encoding.PEM, *form),
    )
