"""`plantbridge schema`: the JSON schema that editors complete and check with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class FileKind(StrEnum):
    """What the schema is for; as gateway.config.schema names them."""

    SITE = "site"
    FRAGMENT = "fragment"
    TEMPLATE = "template"
    CLOUD = "cloud"


def schema(
    kind: Annotated[FileKind, typer.Argument(help="Kind of file.")] = FileKind.SITE,
    into: Annotated[
        Path | None, typer.Option(help="Write all of them into this directory instead, without third-party drivers.")
    ] = None,
) -> None:
    """Print the JSON schema of site files, of files they include, of device templates or of cloud files.

    Drivers installed on this machine are in it. An editor with a YAML language server uses it where the file's first
    line is # yaml-language-server: $schema=PATH

    Example: plantbridge schema site > site.json
    """
    from gateway.config.schema import json_schema, written

    if into is not None:
        for each in FileKind:
            (into / f"{each.value}.json").write_text(written(json_schema(each.value)), encoding="utf-8")
        return
    print(written(json_schema(kind.value, installed=True)), end="")
