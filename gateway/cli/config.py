"""`plantbridge config`: the configurations that ran, what differs between them, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.language import say, word

if TYPE_CHECKING:
    from gateway.versions import Version, Versions

app = typer.Typer(no_args_is_help=True, help="The configurations that ran: history, diff, rollback.")

_Site = Annotated[Path, typer.Argument(help="The site file.", metavar="SITE.yaml")]
_Data = Annotated[Path | None, typer.Option(help="The data directory, where the site file cannot be read.")]


@app.command()
def history(site: _Site, data: _Data = None) -> None:
    """List the last 20 configurations: when each began to run, who asked for it, and what became of it.

    Example: plantbridge config history site.yaml
    """
    import time

    versions = _versions(site, data)
    running = versions.running()
    for version in versions.all():
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(version.time / 1e9))
        reason = f" ({say(version.reason)})" if version.reason else ""
        mark = f"  <- {say('runs, or ran last')}" if running and version.number == running.number else ""
        print(f"{version.number:>5}  {at}  {word(version.by):<8} {word(version.outcome)}{reason}{mark}")


@app.command()
def diff(
    site: _Site,
    old: Annotated[int | None, typer.Argument(help="A version; without it the one that runs.", metavar="[A]")] = None,
    new: Annotated[int | None, typer.Argument(help="Another; without it the files as they are.", metavar="[B]")] = None,
    data: _Data = None,
) -> None:
    """Show what differs between two configurations, as a unified diff. Exits 1 where something does.

    Example: plantbridge config diff site.yaml 11
    """
    versions = _versions(site, data)
    before = versions.running() if old is None else _version(versions, old)
    if before is None:
        raise _nothing(versions)
    was = versions.texts(before)
    now = versions.texts(_version(versions, new)) if new is not None else _present(site, was)
    lines = _diff(was, now, f"version {before.number}", f"version {new}" if new is not None else "the files")
    print("".join(lines), end="")
    raise typer.Exit(1 if lines else 0)


@app.command()
def rollback(
    site: _Site,
    number: Annotated[int, typer.Argument(help="The version to go back to.", metavar="N")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: _Data = None,
) -> None:
    """Write the files of a version back, byte by byte, check them, and have the running daemon load them.

    Files that the version did not have and that are part of the configuration now are moved to NAME.set-aside; so is a
    copy of each file that is written over. Files that do not check are not left behind.

    Example: plantbridge config rollback site.yaml 11
    """
    from gateway.cli.reload import load_again
    from gateway.local.client import NotRunning

    versions = _versions(site, data)
    then = versions.texts(_version(versions, number))
    now = _present(site, then)
    lines = _diff(now, then, "the files", f"version {number}")
    if not lines:
        print(say(f"The files are those of version {number} already."))
    else:
        print("".join(lines), end="")
        if not yes:
            typer.confirm(say(f"Write the files of version {number} back?"), abort=True)
        _restore(site, then, now)
        print(say(f"The files are those of version {number}."))
    try:
        code = load_again(site)
    except NotRunning:
        print(say("The daemon does not run; it will begin with these files."))
        code = 0
    raise typer.Exit(code)


def _versions(site: Path, data: Path | None) -> Versions:
    from gateway.config.place import data_directory
    from gateway.versions import Versions

    return Versions(data or data_directory(site))


def _version(versions: Versions, number: int) -> Version:
    from gateway.errors import GatewayError

    there = versions.all()
    for version in there:
        if version.number == number:
            return version
    if not there:
        raise _nothing(versions)
    raise GatewayError(f"there is no version {number}; there are {', '.join(str(each.number) for each in there)}")


def _nothing(versions: Versions) -> Exception:
    from gateway.errors import GatewayError

    return GatewayError(f"no configurations are kept in {versions.directory}: has the daemon run with this site?")


def _present(site: Path, of: dict[Path, bytes]) -> dict[Path, bytes]:
    """Give the files as they are: what the site file reads now, and those of a version that are there."""
    from gateway.config.place import files_of

    found = {}
    for path in {**dict.fromkeys(files_of(site)), **of}:
        if path.is_file():
            found[path] = path.read_bytes()
    return found


def _diff(old: dict[Path, bytes], new: dict[Path, bytes], was: str, now: str) -> list[str]:
    import difflib

    lines: list[str] = []
    for path in {**old, **new}:
        a, b = (each.get(path, b"").decode(errors="replace").splitlines(keepends=True) for each in (old, new))
        found = difflib.unified_diff(a, b, f"{path} ({was})", f"{path} ({now})")
        lines.extend(line if line.endswith("\n") else f"{line}\n" for line in found)
    return lines


def _restore(site: Path, then: dict[Path, bytes], now: dict[Path, bytes]) -> None:
    """Write files; where they do not check, put back what was there. Raises ConfigError, GatewayError."""
    from gateway.config import load_site
    from gateway.errors import ConfigError, GatewayError

    try:
        for path, text in now.items():
            if then.get(path) != text:
                _write(path.with_name(f"{path.name}.set-aside"), text)
            if path not in then:
                path.unlink()
        for path, text in then.items():
            if now.get(path) != text:
                _write(path, text)
        load_site(site, secrets=False)
    except (ConfigError, OSError) as error:
        for path in {*then} - {*now}:
            path.unlink(missing_ok=True)
        for path, text in now.items():
            if not path.is_file() or path.read_bytes() != text:
                _write(path, text)
        if isinstance(error, OSError):
            raise GatewayError(f"{error.filename} cannot be written: {error.strerror}") from error
        raise


def _write(path: Path, text: bytes) -> None:
    from gateway.cli.replacing import replace

    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, text, like=path.with_name(path.name.removesuffix(".set-aside")))
