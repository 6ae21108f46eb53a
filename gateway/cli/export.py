"""`plantbridge export`: tags as a spreadsheet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.language import say


def export(
    file: Annotated[Path, typer.Argument(help="A site file or a device template.", metavar="FILE.yaml")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="tags.xlsx or tags.csv; csv is printed where not given.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Only this device; may be given several times.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file where it is there.")] = False,
) -> None:
    """Write the tags of a site or of a template into a spreadsheet, one row a tag.

    Change it there and bring it back with `import --into`; what was not changed stays as it is, comments included.

    Example: plantbridge export site.yaml --device press-1 -o press-1.xlsx

    then     plantbridge import press-1.xlsx --into site.yaml --device press-1
    """
    from gateway.lists.entries import ListError

    try:
        names, count = _export(file, output, device or [], force=force)
    except ListError as error:
        print(say(f"plantbridge: {error}"), file=sys.stderr)
        raise typer.Exit(2) from None
    except OSError as error:
        print(say(f"plantbridge: {output} cannot be written: {error.strerror}"), file=sys.stderr)
        raise typer.Exit(1) from None
    if output is not None:
        print(say(f"wrote {output}: {count} tags of {', '.join(names)}"), file=sys.stderr)
        from gateway.config.kinds import check_file

        if check_file(file, secrets=False).kind == "site":
            back = f"--into {file}" + (f" --device {names[0]}" if len(names) == 1 else "")
        else:
            back = "-o NEW.yaml"  # a template, or a file that a site includes
        print(say(f"Back again: plantbridge import {output} {back}"), file=sys.stderr)


def _export(file: Path, output: Path | None, devices: list[str], *, force: bool) -> tuple[list[str], int]:
    """Write or print the table; give the devices in it and how many tags they have. Raises ListError, OSError."""
    from gateway.lists.entries import ListError
    from gateway.lists.export import as_csv, as_workbook, rows_of, table_of

    if output is not None and output.suffix.lower() not in (".csv", ".xlsx"):
        raise ListError(f"{output}: expected a name that ends in .xlsx or .csv")
    if output is not None and output.exists() and not force:
        raise ListError(f"{output} is there already; --force replaces it")
    rows = rows_of(file, devices)
    if not rows:
        raise ListError(f"{file} has no tags")
    table = table_of(rows)
    names = list(dict.fromkeys(row["device"] for row in rows))
    if output is None:
        print(as_csv(table).decode("utf-8-sig"), end="")
    elif output.suffix.lower() == ".xlsx":
        output.write_bytes(as_workbook(table, names[0] if len(names) == 1 else "tags"))
    else:
        output.write_bytes(as_csv(table))
    return names, len(rows)
