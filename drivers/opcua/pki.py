"""Certificates on disk: our own, those we trust, those we refused, issuers and their revocation lists.

    own/cert.der own/key.pem     the application certificate and its key, made on first use
    trusted/                     certificates of servers, or of issuers whose servers are trusted
    rejected/                    what was refused; a person moves it to trusted/ with `plantbridge pki trust`
    issuers/                     issuers that complete a chain but are not trusted by themselves
    *.crl                        revocation lists, in trusted/ or issuers/

Files are DER or PEM. A server is trusted where its certificate lies in trusted/, or where a chain of valid signatures
leads from it to a certificate in trusted/ that is an issuer. In both cases it must be within its time, and not revoked
by a list of its issuer. No file is ever trusted because it was received.
"""

from __future__ import annotations

import datetime
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEARS: Final = 5
_LONGEST_CHAIN: Final = 8


class NotTrusted(Exception):
    """A certificate that is not accepted; the text says why and what to do about it."""


@dataclass(frozen=True, slots=True)
class Own:
    """The gateway's application certificate: where it lies, and the ApplicationUri that it carries."""

    certificate: Path
    key: Path
    application_uri: str
    until: datetime.datetime


def fingerprint(certificate: x509.Certificate) -> str:
    """Give the SHA-256 fingerprint as people compare it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def describe(certificate: x509.Certificate) -> str:
    """Say whose certificate it is, until when it is valid, and its fingerprint."""
    name = certificate.subject.rfc4514_string()
    return f"{name}, valid until {certificate.not_valid_after_utc:%Y-%m-%d}, SHA-256 {fingerprint(certificate)}"


def uris(certificate: x509.Certificate) -> list[str]:
    """Give the URIs in the subject's alternative names: the ApplicationUri is the first."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def load(path: Path) -> x509.Certificate:
    """Read a certificate, DER or PEM. Raises ValueError."""
    data = path.read_bytes()
    return x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)


def certificates(folder: Path) -> list[tuple[Path, x509.Certificate]]:
    """Give the certificates in a folder; files of another kind are passed over."""
    found = []
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.suffix.lower() in (".der", ".pem", ".crt", ".cer"):
            try:
                found.append((path, load(path)))
            except ValueError:
                continue
    return found


def _lists(folder: Path) -> list[x509.CertificateRevocationList]:
    found = []
    for path in sorted(folder.glob("*.crl")) if folder.is_dir() else []:
        data = path.read_bytes()
        try:
            found.append(x509.load_pem_x509_crl(data) if b"-----BEGIN" in data else x509.load_der_x509_crl(data))
        except ValueError:
            continue
    return found


def own(folder: Path, name: str = "PlantBridge") -> Own:
    """Give the application certificate, made where there is none yet. Raises OSError, ValueError."""
    certificate, key = folder / "own" / "cert.der", folder / "own" / "key.pem"
    if not certificate.exists() or not key.exists():
        create(folder, name)
    loaded = load(certificate)
    found = uris(loaded)
    if not found:
        raise ValueError(f"{certificate} carries no ApplicationUri; make a new one with: plantbridge pki create --new")
    return Own(certificate, key, found[0], loaded.not_valid_after_utc)


def create(folder: Path, name: str = "PlantBridge") -> Own:
    """Make a new key and a certificate signed by itself; what was there before is kept beside it."""
    host = socket.gethostname()
    uri = f"urn:{host}:plantbridge"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"{name}@{host}"[:64]),
         x509.NameAttribute(NameOID.ORGANIZATION_NAME, "PlantBridge")]
    )  # fmt: skip
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=True, key_encipherment=True, data_encipherment=True,
        key_agreement=False, key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.DNSName(host)]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), False)
        .add_extension(usage, False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    place = folder / "own"
    place.mkdir(parents=True, exist_ok=True)
    for other in ("trusted", "rejected", "issuers"):
        (folder / other).mkdir(exist_ok=True)
    for old in (place / "cert.der", place / "key.pem"):
        if old.exists():
            old.rename(old.with_name(f"{old.stem}-until-{now:%Y%m%dT%H%M%S}{old.suffix}"))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    descriptor = os.open(place / "key.pem", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    (place / "cert.der").write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    return Own(place / "cert.der", place / "key.pem", uri, certificate.not_valid_after_utc)


def check(chain: Sequence[x509.Certificate], folder: Path, now: datetime.datetime | None = None) -> None:
    """Accept a server's certificate (the first; the rest help to find its issuers). Raises NotTrusted."""
    server = chain[0]
    now = now or datetime.datetime.now(datetime.UTC)
    trusted = [certificate for _, certificate in certificates(folder / "trusted")]
    issuers = [certificate for _, certificate in certificates(folder / "issuers")] + list(chain[1:])
    lists = _lists(folder / "trusted") + _lists(folder / "issuers")
    current, pinned = server, server in trusted
    for _ in range(_LONGEST_CHAIN):
        if not current.not_valid_before_utc <= now <= current.not_valid_after_utc:
            raise NotTrusted(
                f"the server's certificate is outside its time ({current.not_valid_before_utc:%Y-%m-%d} to "
                f"{current.not_valid_after_utc:%Y-%m-%d}; it is {now:%Y-%m-%d %H:%M} here): {describe(current)}"
            )
        issuer = _issuer(current, trusted) or _issuer(current, issuers)
        if issuer is not None and _revoked(current, issuer, lists):
            raise NotTrusted(f"the server's certificate was revoked by its issuer: {describe(current)}")
        if pinned or (current is not server and current in trusted):
            return
        if issuer is None or issuer == current:
            break
        current = issuer
    path = reject(server, folder)
    raise NotTrusted(
        f"the server's certificate is not known: {describe(server)}. Compare the fingerprint with the one the server "
        f"shows; where they are the same, trust it with: plantbridge pki trust {fingerprint(server)} --folder {folder} "
        f"(it lies in {path})"
    )


def _issuer(certificate: x509.Certificate, candidates: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """Give the candidate that is an issuer and whose key signed the certificate."""
    for candidate in candidates:
        if candidate.subject != certificate.issuer:
            continue
        try:
            constraints = candidate.extensions.get_extension_for_class(x509.BasicConstraints).value
            if not constraints.ca:
                continue
            certificate.verify_directly_issued_by(candidate)
        except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
            continue
        return candidate
    return None


def _revoked(
    certificate: x509.Certificate, issuer: x509.Certificate, lists: Sequence[x509.CertificateRevocationList]
) -> bool:
    for revoked in lists:
        if revoked.issuer != issuer.subject:
            continue
        key = issuer.public_key()
        if isinstance(key, rsa.RSAPublicKey) and not revoked.is_signature_valid(key):
            continue
        if revoked.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            return True
    return False


def reject(certificate: x509.Certificate, folder: Path) -> Path:
    """Put a certificate into rejected/, for a person to look at."""
    place = folder / "rejected"
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{_file_name(certificate)}.der"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    return path


def trust(sign: str, folder: Path) -> x509.Certificate:
    """Move the rejected certificate with this fingerprint (or its beginning) to trusted/. Raises NotTrusted."""
    wanted = re.sub(r"[^0-9A-F]", "", sign.upper())
    matching = [
        (path, certificate)
        for path, certificate in certificates(folder / "rejected")
        if fingerprint(certificate).replace(":", "").startswith(wanted)
    ]
    if len(wanted) < 8 or len(matching) != 1:
        known = "; ".join(describe(certificate) for _, certificate in certificates(folder / "rejected")) or "none"
        raise NotTrusted(f"no one certificate in {folder / 'rejected'} has the fingerprint {sign}; there are: {known}")
    path, certificate = matching[0]
    place = folder / "trusted"
    place.mkdir(parents=True, exist_ok=True)
    path.rename(place / path.name)
    return certificate


def _file_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else "server"
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:40]}-{fingerprint(certificate).replace(':', '')[:16]}"
