"""The `plantbridge` command: one module per subcommand, and what they all do with errors.

Exit codes: 0 ok, 1 ran and found problems, 2 bad configuration. A GatewayError is one sentence on standard error, not
a traceback.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from keyword import iskeyword
from typing import Annotated, Any, Final

import typer

from gateway.errors import ConfigError, GatewayError
from gateway.language import say

COMMANDS: Final = {
    "run": "the edge daemon",
    "reload": "load the site file again",
    "config": "what ran before, and the way back",
    "ingest": "the cloud side",
    "demo": "the whole path on this machine",
    "init": "a first site file",
    "import": "a register list to YAML",
    "export": "tags to a spreadsheet",
    "check": "every problem of a configuration",
    "plan": "what will be read, in which requests",
    "status": "how the running daemon is, and what to do",
    "tail": "live values",
    "explain": "why a value is what it is",
    "probe": "every tag of real devices, once",
    "simulate": "a stand-in for every device of a site",
    "query": "last values and ranges",
    "account": "what is stored, and what is missing",
    "fleet": "every gateway, trouble first",
    "journal": "what is in the journal",
    "schema": "JSON schema for editors",
    "scan": "which Modbus units answer",
    "read": "one register in every type and order",
    "write": "set a writable tag",
    "isolate": "stop all writes",
    "audit-log": "who commanded what",
    "browse": "an OPC UA server's address space",
    "pki": "OPC UA certificates",
    "version": "versions",
}


def make_app() -> typer.Typer:
    """Build the command line."""
    app = typer.Typer(
        name="plantbridge",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in COMMANDS:
        word = f"{name}_" if iskeyword(name) else name.replace("-", "_")
        module: Any = import_module(f"gateway.cli.{word}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
            commands = module.app.registered_commands
        else:
            app.command(name)(getattr(module, word))
            commands = app.registered_commands[-1:]
        for each in commands:
            each.help = reflowed(each.callback.__doc__ or "")
    return app


def reflowed(text: str) -> str:
    """Join the lines of a docstring's paragraphs, which typer would break where the source does; not of examples."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(each if each.startswith("Example") else " ".join(each.split("\n")) for each in paragraphs)


def _show_version(wanted: bool) -> None:
    if wanted:
        import gateway

        print(f"plantbridge {gateway.__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """PlantBridge 厂云桥: machines to the cloud, losing nothing on the way."""


def main() -> None:
    """Run the command line; turn errors into a sentence and an exit code."""
    try:
        make_app()()
    except ConfigError as error:
        from gateway.cli.check import shown

        print(*(shown(problem) for problem in error.problems), sep="\n", file=sys.stderr)
        count = len(error.problems)
        print(say(f"{count} problem{'' if count == 1 else 's'} in the configuration."), file=sys.stderr)
        sys.exit(error.exit_code)
    except GatewayError as error:
        print(say(error.spoken()), file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # `plantbridge query | head` is no error
        sys.exit(0)
