"""Certificates on disk: our own, those we trust, those we refused, issuers and their revocation lists.

    own/cert.der own/key.pem     the application certificate and its key, made on first use
    trusted/                     certificates of servers, or of issuers whose servers are trusted
    rejected/                    what was refused; a person moves it to trusted/ with `plantbridge pki trust`
    issuers/                     issuers that complete a chain but are not trusted by themselves
    *.crl                        revocation lists, in trusted/ or issuers/

Files are DER or PEM. A server is trusted where its certificate lies in trusted/, or where a chain of valid signatures
leads from it to a certificate in trusted/ that is an issuer. In both cases it must be within its time, and not revoked
by a list of its issuer (OPC 10000-4, 6.1.3).

Who trusts an issuer trusts certificates that nobody here has seen. So of a server that is trusted for its issuer's sake
more is asked: a revocation list of each issuer up to the trusted one, within its time; the host of the URL among the
certificate's host names; the ApplicationUri that the server calls itself by; that it may be used as a server's
(KeyUsage and ExtendedKeyUsage, OPC 10000-6, 6.2.2, where it says any). The standard lets a person suppress these
checks for a certificate (OPC 10000-6, E.6): to put that very certificate into trusted/ does so. Only a use that the
certificate itself calls critical nobody can suppress. An issuer whose KeyUsage does not let it sign certificates is
none. No file is ever trusted because it was received.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_E = TypeVar("_E", bound=x509.ExtensionType)
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
    return _names(certificate).get_values_for_type(x509.UniformResourceIdentifier)


def hosts(certificate: x509.Certificate) -> list[str]:
    """Give the host names and addresses in the subject's alternative names."""
    names = _names(certificate)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return _extension(certificate, x509.SubjectAlternativeName) or x509.SubjectAlternativeName([])


def application_uri() -> str:
    """Give the ApplicationUri of a gateway on this machine."""
    return f"urn:{socket.gethostname()}:plantbridge"


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


def revocations(folder: Path) -> list[tuple[Path, str, datetime.datetime | None]]:
    """Give the revocation lists in a folder: file, issuer, and when the next one is due."""
    return [(path, each.issuer.rfc4514_string(), each.next_update_utc) for path, each in _lists(folder)]


def _lists(folder: Path) -> list[tuple[Path, x509.CertificateRevocationList]]:
    found = []
    for path in sorted(folder.glob("*.crl")) if folder.is_dir() else []:
        data = path.read_bytes()
        try:
            pem = b"-----BEGIN" in data
            found.append((path, x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)))
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
    uri = application_uri()
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


@dataclass(frozen=True, slots=True)
class Claim:
    """What a server says it is: the host we called, and the ApplicationUri it goes by."""

    host: str
    application_uri: str


def check(chain: Sequence[x509.Certificate], folder: Path, claim: Claim, now: datetime.datetime | None = None) -> None:
    """Accept a server's certificate (the first; the rest help to find its issuers). Raises NotTrusted."""
    server = chain[0]
    now = now or datetime.datetime.now(datetime.UTC)
    trusted = [certificate for _, certificate in certificates(folder / "trusted")]
    issuers = [certificate for _, certificate in certificates(folder / "issuers")] + list(chain[1:])
    lists = [each for place in ("trusted", "issuers") for _, each in _lists(folder / place)]
    pinned = server in trusted
    current, unknown = server, ""
    for _ in range(_LONGEST_CHAIN):
        if not current.not_valid_before_utc <= now <= current.not_valid_after_utc:
            raise NotTrusted(
                f"the server's certificate is outside its time ({current.not_valid_before_utc:%Y-%m-%d} to "
                f"{current.not_valid_after_utc:%Y-%m-%d}; it is {now:%Y-%m-%d %H:%M} here): {describe(current)}"
            )
        if current is not server and current in trusted:
            break
        issuer = _issuer(current, trusted) or _issuer(current, issuers)
        if issuer is not None and issuer != current:
            known = [each for each in lists if _is_list_of(each, issuer)]
            if any(each.get_revoked_certificate_by_serial_number(current.serial_number) for each in known):
                raise NotTrusted(f"the server's certificate was revoked by its issuer: {describe(current)}")
            if not any(_is_current(each, now) for each in known):
                unknown = unknown or _unknown(issuer, bool(known), folder)
        if current is server and (forbidden := _forbidden_use(server, critical=True)):
            raise NotTrusted(
                f"the server's certificate {forbidden}, and calls that binding: the server needs another one, made for"
                f" an OPC UA application: {describe(server)}"
            )
        if pinned:
            return
        if issuer is None or issuer == current:
            raise NotTrusted(f"the server's certificate is not known: {_how_to_trust(server, folder)}")
        current = issuer
    reason = unknown or _misfit(server, claim) or _forbidden_use(server)
    if reason:
        raise NotTrusted(
            f"the server's certificate has a trusted issuer, but {reason}; {_how_to_trust(server, folder)}"
        )


def _how_to_trust(server: x509.Certificate, folder: Path) -> str:
    """Put a certificate into rejected/ and say what it is and which command trusts it."""
    path = reject(server, folder)
    return (
        f"{describe(server)}. Compare the fingerprint with the one the server shows; where they are the same, trust it "
        f"with: plantbridge pki trust {fingerprint(server)} --folder {shlex.quote(str(folder))} (it lies in {path})"
    )


def _unknown(issuer: x509.Certificate, outdated: bool, folder: Path) -> str:
    name = issuer.subject.rfc4514_string()
    which = "the revocation list is out of date" if outdated else "there is no revocation list"
    return f"{which} of {name}: put its present .crl file into {folder / 'issuers'}"


def _misfit(server: x509.Certificate, claim: Claim) -> str:
    """Say how a certificate does not belong to who shows it; empty where it does."""
    if canonical(claim.host) not in [canonical(name) for name in hosts(server)]:
        named = ", ".join(hosts(server)) or "no host at all"
        return f"it names {named}, not {claim.host}, which was called"
    if claim.application_uri not in uris(server):
        named = ", ".join(uris(server)) or "no ApplicationUri"
        return f"it names {named}, and the server calls itself {claim.application_uri or 'nothing'}"
    return ""


def _forbidden_use(server: x509.Certificate, *, critical: bool = False) -> str:
    """Say how a certificate must not be used as an OPC UA server's; empty where it may, or does not say.

    With `critical` only what the certificate calls so counts.
    """
    usage = _extension(server, x509.KeyUsage, critical)
    if usage is not None and not usage.digital_signature:
        return "is not for signing (KeyUsage without digitalSignature)"
    if usage is not None and not (usage.key_encipherment or usage.data_encipherment):
        return "is not for encryption (KeyUsage with neither keyEncipherment nor dataEncipherment)"
    purposes = _extension(server, x509.ExtendedKeyUsage, critical)
    fit = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if purposes is not None and not any(each in purposes for each in fit):
        return "is not for a server (ExtendedKeyUsage without serverAuth)"
    return ""


def _extension(certificate: x509.Certificate, kind: type[_E], critical: bool = False) -> _E | None:
    try:
        found = certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
    return found.value if found.critical or not critical else None


def canonical(host: str) -> str:
    """Write a host as it compares: an address in its shortest form, a name in small letters."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return host.lower()


def _issuer(certificate: x509.Certificate, candidates: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """Give the candidate that is an issuer and whose key signed the certificate."""
    for candidate in candidates:
        if candidate.subject != certificate.issuer:
            continue
        try:
            constraints = candidate.extensions.get_extension_for_class(x509.BasicConstraints).value
            usage = _extension(candidate, x509.KeyUsage)
            if not constraints.ca or (usage is not None and not usage.key_cert_sign):
                continue
            certificate.verify_directly_issued_by(candidate)
        except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
            continue
        return candidate
    return None


def _is_list_of(revoked: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Say whether a revocation list was signed by this issuer."""
    key = issuer.public_key()
    if revoked.issuer != issuer.subject or not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return False
    return revoked.is_signature_valid(key)


def _is_current(revoked: x509.CertificateRevocationList, now: datetime.datetime) -> bool:
    until = revoked.next_update_utc
    return revoked.last_update_utc <= now and (until is None or now <= until)


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
