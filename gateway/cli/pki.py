"""`plantbridge pki`: the certificates by which OPC UA servers know the gateway, and by which it knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.language import say

app = typer.Typer(
    help="OPC UA certificates: our own, and which servers are trusted.", no_args_is_help=True, rich_markup_mode="rich"
)

Folder = Annotated[Path, typer.Option(help="The link's `pki` folder.")]


@app.command()
def show(folder: Folder = Path("pki")) -> None:
    """List certificates and revocation lists: our own, trusted, rejected. Exits 1 where something needs attention.

    Example: plantbridge pki show --folder plant/pki
    """
    import datetime

    from drivers.opcua.pki import certificates, describe, revocations

    now = datetime.datetime.now(datetime.UTC)
    soon = now + datetime.timedelta(days=30)
    attention = False
    for name in ("own", "trusted", "issuers", "rejected"):
        typer.echo(f"{name}:")
        for path, certificate in certificates(folder / name):
            expiring = certificate.not_valid_after_utc < soon
            attention |= expiring or name == "rejected"
            typer.echo(f"  {path.name}: {describe(certificate)}{'  EXPIRES SOON OR HAS EXPIRED' if expiring else ''}")
        for path, issuer, until in revocations(folder / name):
            outdated = until is not None and until < now
            attention |= outdated
            dated = f", to be renewed by {until:%Y-%m-%d}" if until else ""
            typer.echo(say(f"  {path.name}: revocation list of {issuer}{dated}{'  OUT OF DATE' if outdated else ''}"))
    raise typer.Exit(1 if attention else 0)


@app.command()
def create(
    folder: Folder = Path("pki"),
    new: Annotated[
        bool, typer.Option("--new", help="Make a new one though there is one; the old one is kept.")
    ] = False,
) -> None:
    """Make our application certificate; it is also made on first use.

    Example: plantbridge pki create --folder plant/pki
    """
    from drivers.opcua.pki import create as make
    from drivers.opcua.pki import describe, load, own

    made = make(folder) if new else own(folder)
    typer.echo(f"{made.certificate}: {describe(load(made.certificate))}")
    typer.echo(say(f"ApplicationUri {made.application_uri}. Make the server trust this certificate."))


@app.command()
def trust(
    fingerprint: Annotated[
        str, typer.Argument(help="SHA-256 fingerprint of a rejected certificate, or its beginning.")
    ],
    folder: Folder = Path("pki"),
) -> None:
    """Trust a server's certificate that was rejected, after comparing its fingerprint with the one the server shows.

    Example: plantbridge pki trust 3A:4F:90:12 --folder plant/pki
    """
    from drivers.opcua.pki import NotTrusted, describe
    from drivers.opcua.pki import trust as move

    try:
        typer.echo(say(f"trusted: {describe(move(fingerprint, folder))}"))
    except NotTrusted as error:
        typer.echo(say(str(error)), err=True)
        raise typer.Exit(1) from error
