"""Security against a real server: policies, users, and which server certificates are accepted."""

from __future__ import annotations

import datetime
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
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
) -> x509.Certificate:
    """A certificate, signed by an issuer or by itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 60 * DAY)
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:test:server")]), False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
        .sign(key if issuer is None else issuer[1], hashes.SHA256())
    )  # fmt: skip


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
    options = {"security_policy": policy, "security_mode": mode, "pki": str(folder), "channel_lifetime": "400 ms"}
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
    command = re.search(r"plantbridge (pki trust \S+ --folder \S+)", str(caught.value))
    assert command is not None
    assert pki.fingerprint(SERVER) in command[0]
    assert [certificate for _, certificate in pki.certificates(tmp_path / "rejected")] == [SERVER]
    from gateway.cli.pki import app

    result = CliRunner().invoke(app, command[1].split()[1:])
    assert result.exit_code == 0, result.output
    async with driver(served.url, ADDRESS, **options) as (opened, plan):
        assert rows(await opened.read(plan))["t0"][0] == 1.5
    key = tmp_path / "own" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert pki.own(tmp_path).application_uri.startswith("urn:")


async def test_a_server_with_a_new_certificate_is_refused(tmp_path: Path, folder: Path) -> None:
    """It may have been renewed, or it may be another: a person decides."""
    place = tmp_path / "other"
    place.mkdir()
    options = {"security_policy": "Basic256Sha256", "pki": str(folder)}
    async with plant(setup=secured(make("boiler house", KEY), place), policies=POLICIES) as renewed:
        with pytest.raises(NotConnected, match="plantbridge pki trust"):
            async with driver(renewed.url, ADDRESS, **options):
                pass


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


async def test_a_server_of_a_trusted_issuer_is_trusted(tmp_path: Path) -> None:
    server = make("s", KEY, (MIDDLE, ROOT_KEY))
    put(tmp_path, "issuers", MIDDLE)
    with pytest.raises(pki.NotTrusted):
        pki.check([server], tmp_path)
    put(tmp_path, "trusted", ROOT)
    pki.check([server], tmp_path)
    (tmp_path / "issuers" / "0.pem").unlink()
    with pytest.raises(pki.NotTrusted):
        pki.check([server], tmp_path)
    pki.check([server, MIDDLE], tmp_path)  # the server sent its issuer along


async def test_an_issuer_must_be_one_and_must_have_signed(tmp_path: Path) -> None:
    put(tmp_path, "trusted", make("root", KEY, ca=True), make("leaf", ROOT_KEY))
    with pytest.raises(pki.NotTrusted):
        pki.check([make("s", KEY, (ROOT, ROOT_KEY))], tmp_path)  # same name, another key
    with pytest.raises(pki.NotTrusted):
        pki.check([make("s", KEY, (make("leaf", ROOT_KEY), ROOT_KEY))], tmp_path)  # not a certificate authority


async def test_a_revoked_certificate_is_refused(tmp_path: Path) -> None:
    server = make("s", KEY, (ROOT, ROOT_KEY))
    put(tmp_path, "trusted", ROOT)
    pki.check([server], tmp_path)
    entry = x509.RevokedCertificateBuilder().serial_number(server.serial_number).revocation_date(NOW).build()
    builder = x509.CertificateRevocationListBuilder().issuer_name(ROOT.subject).last_update(NOW - DAY)
    builder = builder.next_update(NOW + DAY).add_revoked_certificate(entry)
    forged = builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (tmp_path / "trusted" / "forged.crl").write_bytes(forged)
    pki.check([server], tmp_path)
    genuine = builder.sign(ROOT_KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    (tmp_path / "trusted" / "root.crl").write_bytes(genuine)
    with pytest.raises(pki.NotTrusted, match="revoked"):
        pki.check([server], tmp_path)


async def test_an_expired_certificate_is_refused_though_it_is_trusted(tmp_path: Path) -> None:
    old = make("old", KEY, until=NOW - DAY)
    put(tmp_path, "trusted", old)
    with pytest.raises(pki.NotTrusted, match="outside its time"):
        pki.check([old], tmp_path)


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
