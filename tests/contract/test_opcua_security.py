"""Security against a real server: policies, users, and which server certificates are accepted."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import re
import shlex
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from opcua_server import NAMESPACE, Plant, driver, plant, rows
from typer.testing import CliRunner

from drivers.opcua import pki
from drivers.opcua.spec import OpcuaLink
from gateway.errors import NotConnected

pytestmark = pytest.mark.asyncio(loop_scope="module")
P = ua.SecurityPolicyType
POLICIES = [
    P.NoSecurity, P.Basic256Sha256_Sign, P.Basic256Sha256_SignAndEncrypt, P.Aes128Sha256RsaOaep_Sign,
    P.Aes128Sha256RsaOaep_SignAndEncrypt, P.Aes256Sha256RsaPss_Sign, P.Aes256Sha256RsaPss_SignAndEncrypt,
    P.Basic128Rsa15_Sign, P.Basic128Rsa15_SignAndEncrypt, P.Basic256_Sign, P.Basic256_SignAndEncrypt,
]  # fmt: skip
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def make(
    name: str,
    key: rsa.RSAPrivateKey,
    issuer: tuple[x509.Certificate, rsa.RSAPrivateKey] | None = None,
    ca: bool = False,
    until: datetime.datetime = NOW + 30 * DAY,
    uri: str = "urn:test:server",
    host: str = "127.0.0.1",
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.Certificate:
    """A certificate, signed by an issuer or by itself; `more` are extensions, and whether they are critical."""
    names = [x509.UniformResourceIdentifier(uri), x509.IPAddress(ipaddress.ip_address(host))]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 60 * DAY)
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName(names), False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
    )
    for extension, critical in more:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key if issuer is None else issuer[1], hashes.SHA256())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


class Users:
    """Anonymous, operator/secret, or any certificate."""

    def get_user(self, _server: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        if username is not None and (username, password) != ("operator", "secret"):
            return None
        return User(role=UserRole.User)


SERVER = make("boiler house", KEY)


def secured(certificate: x509.Certificate, folder: Path) -> Any:
    async def setup(server: Server) -> None:
        server.iserver.user_manager = Users()
        (folder / "server.der").write_bytes(der(certificate))
        (folder / "server.pem").write_bytes(
            KEY.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        await server.set_application_uri("urn:test:server")
        await server.load_certificate(folder / "server.der")
        await server.load_private_key(folder / "server.pem")

    return setup


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    folder = tmp_path_factory.mktemp("server")
    async with plant(setup=secured(SERVER, folder), policies=POLICIES) as running:
        await running.add("T", 1.5)
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pki folder that trusts the test server."""
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "server.der").write_bytes(der(SERVER))
    return tmp_path


ADDRESS: list[Any] = [f"nsu={NAMESPACE};s=T"]


@pytest.mark.parametrize("policy", ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"])
@pytest.mark.parametrize("mode", ["Sign", "SignAndEncrypt"])
async def test_every_policy_and_mode_reads_on_across_a_renewal_of_keys(
    served: Plant, folder: Path, policy: str, mode: str
) -> None:
    options = {"security_policy": policy, "security_mode": mode, "pki": str(folder), "channel_lifetime": "1 s"}
    async with driver(served.url, ADDRESS, **options) as (opened, plan):
        connection = opened._session.client.uaclient.protocol._connection
        first = connection.security_token.TokenId
        while connection.security_token.TokenId < first + 2:
            assert rows(await opened.read(plan))["t0"][0] == 1.5


async def test_an_unknown_server_is_refused_until_a_person_trusts_it(served: Plant, tmp_path: Path) -> None:
    options = {"security_policy": "Basic256Sha256", "pki": str(tmp_path)}
    with pytest.raises(NotConnected, match="is not known") as caught:
        async with driver(served.url, ADDRESS, **options):
            pass
    assert caught.value.status == ua.StatusCodes.BadCertificateUntrusted
    assert pki.fingerprint(SERVER) in str(caught.value).partition("plantbridge pki trust")[0]  # seen before it is typed
    assert [certificate for _, certificate in pki.certificates(tmp_path / "rejected")] == [SERVER]
    assert run_command(str(caught.value)) == 0
    assert pki.certificates(tmp_path / "rejected") == []
    async with driver(served.url, ADDRESS, **options) as (opened, plan):
        assert rows(await opened.read(plan))["t0"][0] == 1.5
    key = tmp_path / "own" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert pki.own(tmp_path).application_uri.startswith("urn:")


async def test_a_policy_the_server_does_not_have_names_those_it_has(tmp_path: Path) -> None:
    async with plant() as running:
        with pytest.raises(NotConnected, match=r"does not offer Basic256Sha256 .*; it offers None None_"):
            async with driver(running.url, ADDRESS, security_policy="Basic256Sha256", pki=str(tmp_path)):
                pass


@pytest.mark.parametrize("mode", ["Sign", "SignAndEncrypt"])
async def test_a_user_logs_in_with_a_password(served: Plant, folder: Path, mode: str) -> None:
    options = {"security_policy": "Basic256Sha256", "security_mode": mode, "pki": str(folder), "user": "operator"}
    async with driver(served.url, ADDRESS, **options, password="secret") as (opened, plan):
        assert rows(await opened.read(plan))["t0"][0] == 1.5
    with pytest.raises(NotConnected) as caught:
        async with driver(served.url, ADDRESS, **options, password="wrong"):
            pass
    assert caught.value.status in (ua.StatusCodes.BadUserAccessDenied, ua.StatusCodes.BadIdentityTokenRejected)
    assert "wrong" not in str(caught.value)


async def test_a_user_logs_in_with_a_certificate(served: Plant, folder: Path) -> None:
    own = pki.create(folder / "user")
    options: dict[str, Any] = {"security_policy": "Basic256Sha256", "pki": str(folder)}
    options |= {"user_certificate": str(own.certificate), "user_key": str(own.key)}
    async with driver(served.url, ADDRESS, **options) as (opened, plan):
        assert rows(await opened.read(plan))["t0"][0] == 1.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"security_policy": "Basic256"}, "allow_weak"),
        ({"security_policy": "Basic128Rsa15"}, "allow_weak"),
        ({"user": "a", "password": "b"}, "allow_plaintext_password"),
        ({"password": "b"}, "without a user"),
        ({"user_certificate": "x"}, "belong together"),
    ],
)
async def test_what_is_unsafe_must_be_asked_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpcuaLink.model_validate({"driver": "opcua", "url": "opc.tcp://h", **options})


@pytest.mark.parametrize("policy", ["Basic128Rsa15", "Basic256"])
@pytest.mark.parametrize("mode", ["Sign", "SignAndEncrypt"])
async def test_a_weak_policy_works_where_it_is_allowed(served: Plant, folder: Path, policy: str, mode: str) -> None:
    options = {"security_policy": policy, "security_mode": mode, "pki": str(folder), "allow_weak": True}
    async with driver(served.url, ADDRESS, **options) as (opened, plan):
        assert rows(await opened.read(plan))["t0"][0] == 1.5


class Passwords:
    """What became of the password that a client sent: how the server saw it come."""

    def __init__(self, server: Server) -> None:
        self.seen: list[tuple[bytes, str | None]] = []
        real = server.iserver.decrypt_user_token

        def look(session: Any, token: Any) -> Any:
            self.seen.append((token.Password, token.EncryptionAlgorithm))
            return real(session, token)

        server.iserver.decrypt_user_token = look


async def test_a_password_passes_the_best_hidden_way_and_unencrypted_only_where_it_is_allowed(
    tmp_path: Path, folder: Path
) -> None:
    place = tmp_path / "other"
    place.mkdir()
    user = {"user": "operator", "password": "secret", "pki": str(folder)}
    async with plant(setup=secured(SERVER, place), policies=POLICIES) as served:
        await served.add("T", 1.5)
        passwords = Passwords(served.server)
        for endpoint in served.server.iserver.endpoints:
            for token in endpoint.UserIdentityTokens:
                token.SecurityPolicyUri = "http://opcfoundation.org/UA/SecurityPolicy#None"
        signed = {**SECURE, "security_mode": "Sign", **user}
        with pytest.raises(NotConnected, match="allow_plaintext_password: true"):
            async with driver(served.url, ADDRESS, **signed):
                pass
        assert passwords.seen == []
        async with driver(served.url, ADDRESS, **SECURE, **user) as (opened, plan):  # the channel hides it
            assert rows(await opened.read(plan))["t0"][0] == 1.5
        for options in (signed, user):
            async with driver(served.url, ADDRESS, **options, allow_plaintext_password=True) as (opened, plan):
                assert rows(await opened.read(plan))["t0"][0] == 1.5
        assert passwords.seen == [(b"secret", None)] * 3
        for endpoint in served.server.iserver.endpoints:
            named = [token for token in endpoint.UserIdentityTokens if token.TokenType == ua.UserTokenType.UserName]
            hiding = "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256"
            endpoint.UserIdentityTokens += [dataclasses.replace(token, SecurityPolicyUri=hiding) for token in named]
        async with driver(served.url, ADDRESS, **signed) as (opened, plan):
            assert rows(await opened.read(plan))["t0"][0] == 1.5
        assert b"secret" not in passwords.seen[-1][0]
        assert passwords.seen[-1][1] is not None


async def test_the_server_is_told_the_application_uri_that_our_certificate_carries(
    issued: Plant, tmp_path: Path
) -> None:
    """OPC 10000-4, 6.1.3: a server refuses a client whose two names differ."""
    told: list[tuple[str, str]] = []

    async def look(certificate: x509.Certificate, description: ua.ApplicationDescription) -> None:
        told.append((description.ApplicationUri, pki.uris(certificate)[0]))

    put(tmp_path, "trusted", ISSUED)
    issued.server.iserver.certificate_validator = look
    try:
        assert not (tmp_path / "own").exists()
        async with driver(issued.url, ADDRESS, **SECURE, pki=str(tmp_path)):
            pass
    finally:
        issued.server.iserver.certificate_validator = None
    assert told == [(pki.application_uri(), pki.application_uri())]
    assert pki.own(tmp_path).application_uri == pki.application_uri()


async def test_a_user_with_another_s_certificate_is_refused(served: Plant, folder: Path) -> None:
    """The key must be the certificate's: the certificate alone is no secret."""
    own, other = pki.create(folder / "user"), pki.create(folder / "other")
    options = {**SECURE, "pki": str(folder), "user_certificate": str(own.certificate), "user_key": str(other.key)}
    with pytest.raises(NotConnected):
        async with driver(served.url, ADDRESS, **options):
            pass


async def test_a_password_is_never_shown() -> None:
    link = OpcuaLink.model_validate(
        {"driver": "opcua", "url": "opc.tcp://h", "user": "a", "password": "hidden", "allow_plaintext_password": True}
    )
    assert "hidden" not in repr(link)


# --------------------------------------------------------------------------------------------------- trust lists

ROOT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ROOT = make("root", ROOT_KEY, ca=True)
MIDDLE = make("middle", ROOT_KEY, (ROOT, ROOT_KEY), ca=True)


def put(folder: Path, place: str, *certificates: x509.Certificate) -> None:
    (folder / place).mkdir(exist_ok=True)
    for number, certificate in enumerate(certificates):
        (folder / place / f"{number}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


CLAIM = pki.Claim("127.0.0.1", "urn:test:server")


def revocations(
    folder: Path,
    issuer: x509.Certificate,
    *revoked: x509.Certificate,
    key: rsa.RSAPrivateKey = ROOT_KEY,
    until: datetime.datetime = NOW + DAY,
    name: str = "",
) -> None:
    """Put an issuer's revocation list where it is looked for."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject).last_update(NOW - 2 * DAY)
    builder = builder.next_update(until)
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.serial_number).revocation_date(NOW).build()
        builder = builder.add_revoked_certificate(entry)
    text = issuer.subject.rfc4514_string().removeprefix("CN=")
    (folder / "issuers").mkdir(exist_ok=True)
    file = folder / "issuers" / f"{name or text}.crl"
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def issued(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    """A server whose certificate was issued by MIDDLE, and that by ROOT."""
    folder = tmp_path_factory.mktemp("issued")
    async with plant(setup=secured(ISSUED, folder), policies=POLICIES) as running:
        await running.add("T", 1.5)
        yield running


ISSUED = make("boiler house", KEY, (MIDDLE, ROOT_KEY))
SECURE = {"security_policy": "Basic256Sha256"}


def trust_issuers(folder: Path) -> None:
    """Trust ROOT, know MIDDLE, and have the revocation lists of both."""
    put(folder, "trusted", ROOT)
    put(folder, "issuers", MIDDLE)
    revocations(folder, MIDDLE)
    revocations(folder, ROOT)


async def test_a_server_of_a_trusted_issuer_is_trusted(tmp_path: Path, issued: Plant) -> None:
    revocations(tmp_path, MIDDLE)
    revocations(tmp_path, ROOT)
    put(tmp_path, "issuers", MIDDLE)
    with pytest.raises(pki.NotTrusted):
        pki.check([ISSUED], tmp_path, CLAIM)
    put(tmp_path, "trusted", ROOT)
    async with driver(issued.url, ADDRESS, **SECURE, pki=str(tmp_path)) as (opened, plan):
        assert rows(await opened.read(plan))["t0"][0] == 1.5
    (tmp_path / "issuers" / "0.pem").unlink()
    with pytest.raises(NotConnected, match="is not known"):
        async with driver(issued.url, ADDRESS, **SECURE, pki=str(tmp_path)):
            pass
    pki.check([ISSUED, MIDDLE], tmp_path, CLAIM)  # the server sends its issuer along


@pytest.mark.parametrize(
    ("prepare", "message", "suppressed"),
    [
        (lambda folder: revocations(folder, MIDDLE, ISSUED), "was revoked by its issuer: CN=boiler house", False),
        (lambda folder: revocations(folder, ROOT, MIDDLE), "was revoked by its issuer: CN=middle", False),
        (lambda folder: (folder / "issuers" / "middle.crl").unlink(), "no revocation list of CN=middle", True),
        (lambda folder: (folder / "issuers" / "root.crl").unlink(), "no revocation list of CN=root", True),
        (lambda folder: revocations(folder, MIDDLE, until=NOW - DAY), "list is out of date of CN=middle", True),
        (lambda folder: revocations(folder, MIDDLE, key=KEY), "no revocation list of CN=middle", True),
    ],
    ids=["revoked", "issuer revoked", "no list", "no list of the issuer's issuer", "list out of date", "list forged"],
)
async def test_of_a_trusted_issuer_s_server_the_revocation_lists_must_be_there(
    tmp_path: Path, issued: Plant, prepare: Callable[[Path], None], message: str, suppressed: bool
) -> None:
    """A thief of a server's key is locked out by revoking its certificate; where nobody looks, he is not."""
    trust_issuers(tmp_path)
    prepare(tmp_path)
    options = {**SECURE, "pki": str(tmp_path)}
    with pytest.raises(NotConnected, match=message) as caught:
        async with driver(issued.url, ADDRESS, **options):
            pass
    put(tmp_path, "trusted", ROOT, ISSUED)  # a person answers for this very certificate
    if suppressed:
        assert run_command(str(caught.value)) == 0
        async with driver(issued.url, ADDRESS, **options) as (opened, plan):
            assert rows(await opened.read(plan))["t0"][0] == 1.5
    elif "boiler house" in message:
        with pytest.raises(NotConnected, match=message):
            async with driver(issued.url, ADDRESS, **options):
                pass


def run_command(message: str) -> int:
    """Run the command that a message names, as a person would."""
    from gateway.cli.app import make_app

    command = re.search(r"plantbridge (pki trust \S+ --folder \S+)", message)
    assert command is not None, message
    result = CliRunner().invoke(make_app(), shlex.split(command[1]))
    assert "SHA-256" in result.output
    return result.exit_code


async def test_a_trusted_issuer_s_server_at_another_host_is_refused_until_a_person_trusts_it(
    tmp_path: Path, issued: Plant
) -> None:
    """OPC 10000-4, 6.1.3: another server of the plant must not be taken for the one that was meant."""
    trust_issuers(tmp_path)
    options = {**SECURE, "pki": str(tmp_path)}
    url = issued.url.replace("127.0.0.1", "localhost")
    with pytest.raises(NotConnected, match=r"names 127\.0\.0\.1, not localhost, which was called") as caught:
        async with driver(url, ADDRESS, **options):
            pass
    assert run_command(str(caught.value)) == 0
    async with driver(url, ADDRESS, **options) as (opened, plan):
        assert rows(await opened.read(plan))["t0"][0] == 1.5


async def test_a_trusted_issuer_s_server_of_another_application_uri_is_refused_until_a_person_trusts_it(
    tmp_path: Path, issued: Plant
) -> None:
    trust_issuers(tmp_path)
    options = {**SECURE, "pki": str(tmp_path)}
    endpoints = issued.server.iserver.endpoints
    try:
        for endpoint in endpoints:
            endpoint.Server.ApplicationUri = "urn:test:impostor"
        with pytest.raises(
            NotConnected, match="names urn:test:server, and the server calls itself urn:test:impostor"
        ) as caught:
            async with driver(issued.url, ADDRESS, **options):
                pass
        assert run_command(str(caught.value)) == 0
        async with driver(issued.url, ADDRESS, **options) as (opened, plan):
            assert rows(await opened.read(plan))["t0"][0] == 1.5
    finally:
        for endpoint in endpoints:
            endpoint.Server.ApplicationUri = "urn:test:server"


async def test_pki_show_lists_what_there_is_and_what_needs_attention(tmp_path: Path) -> None:
    from gateway.cli.app import make_app

    pki.own(tmp_path)
    put(tmp_path, "trusted", ROOT)
    revocations(tmp_path, ROOT)
    show = ["pki", "show", "--folder", str(tmp_path)]
    result = CliRunner().invoke(make_app(), show)
    assert "root.crl: revocation list of CN=root, to be renewed by" in result.output
    revocations(tmp_path, ROOT, until=NOW - DAY)
    put(tmp_path, "trusted", make("root", ROOT_KEY, ca=True, until=NOW + 60 * DAY))
    result = CliRunner().invoke(make_app(), show)
    assert result.exit_code == 1
    assert "OUT OF DATE" in result.output


async def test_hosts_compare_as_addresses_and_without_regard_to_case(tmp_path: Path) -> None:
    put(tmp_path, "trusted", ROOT)
    revocations(tmp_path, ROOT)
    server = make("s", KEY, (ROOT, ROOT_KEY), host="fd00::1")
    pki.check([server], tmp_path, pki.Claim("FD00:0::1", "urn:test:server"))
    with pytest.raises(pki.NotTrusted, match="not PLC1, which was called"):
        pki.check([server], tmp_path, pki.Claim("PLC1", "urn:test:server"))
    assert pki.canonical("PLC1") == pki.canonical("plc1")


def usage(**allowed: bool) -> x509.KeyUsage:
    words = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{**dict.fromkeys(words, False), **allowed})


CLIENT_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
SIGNS, ENCRYPTS = usage(digital_signature=True), usage(key_encipherment=True)
FULL = usage(digital_signature=True, key_encipherment=True)


@pytest.mark.parametrize(
    ("extension", "why"),
    [
        (ENCRYPTS, "is not for signing"), (SIGNS, "is not for encryption"), (CLIENT_ONLY, "is not for a server"),
        (FULL, ""), (usage(digital_signature=True, data_encipherment=True), ""), (BOTH, ""),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("critical", [False, True])
async def test_a_certificate_for_other_uses_is_refused_and_only_a_binding_use_cannot_be_overruled(
    tmp_path: Path, extension: x509.ExtensionType, why: str, critical: bool
) -> None:
    """OPC 10000-4, 6.1.3: the certificate's use, suppressible unless the certificate says that it is mandatory."""
    put(tmp_path, "trusted", ROOT)
    revocations(tmp_path, ROOT)
    server = make("s", KEY, (ROOT, ROOT_KEY), more=[(extension, critical)])
    if not why:
        pki.check([server], tmp_path, CLAIM)
        return
    with pytest.raises(pki.NotTrusted, match=why) as caught:
        pki.check([server], tmp_path, CLAIM)
    assert ("pki trust" in str(caught.value)) is not critical
    put(tmp_path, "trusted", server)
    if not critical:
        pki.check([server], tmp_path, CLAIM)
        return
    with pytest.raises(pki.NotTrusted, match="needs another one"):
        pki.check([server], tmp_path, CLAIM)


async def test_an_issuer_that_may_not_sign_certificates_is_none(tmp_path: Path) -> None:
    for more, known in ((usage(key_cert_sign=True), True), (usage(digital_signature=True), False)):
        root = make("root", ROOT_KEY, ca=True, more=[(more, True)])
        put(tmp_path, "trusted", root)
        revocations(tmp_path, root)
        server = make("s", KEY, (root, ROOT_KEY))
        if known:
            pki.check([server], tmp_path, CLAIM)
        else:
            with pytest.raises(pki.NotTrusted, match="is not known"):
                pki.check([server], tmp_path, CLAIM)


async def test_an_issuer_must_be_one_and_must_have_signed(tmp_path: Path) -> None:
    put(tmp_path, "trusted", make("root", KEY, ca=True), make("leaf", ROOT_KEY))
    with pytest.raises(pki.NotTrusted, match="is not known"):
        pki.check([make("s", KEY, (ROOT, ROOT_KEY))], tmp_path, CLAIM)  # same name, another key
    with pytest.raises(pki.NotTrusted, match="is not known"):
        pki.check([make("s", KEY, (make("leaf", ROOT_KEY), ROOT_KEY))], tmp_path, CLAIM)  # not an authority


async def test_a_key_that_a_policy_does_not_take_is_refused(tmp_path: Path) -> None:
    from drivers.opcua.security import _check_key

    short = make("s", rsa.generate_private_key(public_exponent=65537, key_size=1024))
    _check_key(short, "Basic128Rsa15")
    with pytest.raises(ValueError, match="a key of 1024 bits, and Basic256Sha256 asks for an RSA key of 2048"):
        _check_key(short, "Basic256Sha256")


async def test_an_expired_certificate_is_refused_though_it_is_trusted(tmp_path: Path) -> None:
    old = make("old", KEY, until=NOW - DAY)
    put(tmp_path, "trusted", old)
    with pytest.raises(pki.NotTrusted, match="outside its time"):
        pki.check([old], tmp_path, CLAIM)


async def test_a_server_whose_certificate_expired_is_refused_and_its_renewed_one_must_be_trusted(
    tmp_path: Path,
) -> None:
    """It may have been renewed, or it may be another server: a person decides."""
    old, new = make("boiler house", KEY, until=NOW - DAY), make("boiler house", KEY)
    put(tmp_path, "trusted", old)
    options = {**SECURE, "pki": str(tmp_path)}
    async with plant(setup=secured(old, tmp_path), policies=POLICIES) as served:
        port = served.port
        with pytest.raises(NotConnected, match="outside its time"):
            async with driver(served.url, ADDRESS, **options):
                pass
    async with plant(port, setup=secured(new, tmp_path), policies=POLICIES) as served:
        await served.add("T", 1.5)
        with pytest.raises(NotConnected, match="plantbridge pki trust") as caught:
            async with driver(served.url, ADDRESS, **options):
                pass
        assert run_command(str(caught.value)) == 0
        async with driver(served.url, ADDRESS, **options) as (opened, plan):
            assert rows(await opened.read(plan))["t0"][0] == 1.5


async def test_an_expired_certificate_of_our_own_says_how_to_renew_it(served: Plant, folder: Path) -> None:
    own = pki.create(folder)
    loaded = serialization.load_pem_private_key(own.key.read_bytes(), None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    own.certificate.write_bytes(der(make("me", loaded, until=NOW - DAY)))
    options = {"security_policy": "Basic256Sha256", "pki": str(folder)}
    with pytest.raises(NotConnected, match="plantbridge pki create --new"):
        async with driver(served.url, ADDRESS, **options):
            pass
    from gateway.cli.pki import app

    assert CliRunner().invoke(app, ["create", "--new", "--folder", str(folder)]).exit_code == 0
    async with driver(served.url, ADDRESS, **options) as (opened, plan):
        assert rows(await opened.read(plan))["t0"][0] == 1.5
    assert len(list((folder / "own").glob("cert-until-*.der"))) == 1
