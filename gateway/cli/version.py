"""`plantbridge version`."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.language import say


def version(json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False) -> None:
    """Show the version of PlantBridge, of Python, and of the packages that carry it.

    Example: plantbridge version
    """
    import platform
    from importlib import metadata

    import orjson

    import gateway

    packages = ("asyncua", "pymodbus", "paho-mqtt", "numpy", "duckdb", "influxdb-client")
    found = {"plantbridge": gateway.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    if json:
        print(orjson.dumps(found).decode())
        return
    for name, number in found.items():
        print(f"{name:16} {say(number)}")
