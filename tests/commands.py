"""A command as a user gives it, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.testing import CliRunner, Result

from gateway.errors import GatewayError


def ask(command: Callable[..., Any], *arguments: object) -> Result:
    """Run a command with these arguments. Raises GatewayError as the command does."""
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, GatewayError):
        raise result.exception
    return result
