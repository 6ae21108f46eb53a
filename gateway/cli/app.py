"""The `plantbridge` command: one module per subcommand, and what they all do with errors.

Exit codes: 0 ok, 1 ran and found problems, 2 bad configuration. A GatewayError is one sentence on standard error, not
a traceback.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from gateway.errors import ConfigError, GatewayError
from gateway.language import LANGUAGES, VARIABLE, language, say, word

CLOUD: Final = ("aiokafka", "duckdb", "influxdb_client", "nats", "obstore", "psycopg")
"""Packages of the extra `cloud`, which a gateway does without."""
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
    "record": "what devices say, into a file",
    "simulate": "a stand-in for every device of a site",
    "testbed": "a scenario, judged by requirements",
    "query": "last values and ranges",
    "account": "what is stored, and what is missing",
    "fleet": "every gateway, trouble first",
    "report": "what is connected, and how complete the data are",
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


_TYPER_SAYS: Final = (
    "ARGUMENTS_PANEL_TITLE", "OPTIONS_PANEL_TITLE", "COMMANDS_PANEL_TITLE", "ERRORS_PANEL_TITLE", "DEFAULT_STRING",
    "REQUIRED_LONG_STRING", "ABORTED_TEXT", "RICH_HELP",
)  # fmt: skip


class Commands(TyperGroup):
    """The commands; what is wrong with their arguments is said in the language in use."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        """Read the options before the command's name."""
        try:
            return super().make_context(*arguments, **more)
        except Exception as error:
            _say(error)
            raise

    def invoke(self, context: Any) -> Any:
        """Read the command's own arguments, and run it."""
        try:
            return super().invoke(context)
        except Exception as error:
            _say(error)
            raise


def _say(error: Exception) -> None:
    """Put an error about arguments into the language in use."""
    told = getattr(error, "format_message", None)
    if told is not None:
        text = say(told())
        error.format_message = lambda: text  # type: ignore[attr-defined]


def make_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Build the command line, or only some of its commands."""
    app = typer.Typer(
        name="plantbridge",
        cls=Commands,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in names:
        place = f"{name}_" if iskeyword(name) else name.replace("-", "_")
        module: Any = import_module(f"gateway.cli.{place}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
            commands = module.app.registered_commands
        else:
            app.command(name)(getattr(module, place))
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
    lang: Annotated[
        str | None,
        typer.Option(metavar="en|zh", help="Language of messages; also behind a command. Else as the locale says."),
    ] = None,
) -> None:
    """PlantBridge 厂云桥: machines to the cloud, losing nothing on the way."""


def chosen_language(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Take --lang out of a command line, wherever it stands, and give its value, or nothing. Raises GatewayError."""
    rest: list[str] = []
    chosen = ""
    words = iter(arguments)
    for each in words:
        if each == "--":
            rest += [each, *words]
        elif each == "--lang" or each.startswith("--lang="):
            chosen = each.partition("=")[2] or next(words, "")
            if chosen not in LANGUAGES:
                raise WrongLanguage(f"--lang is one of {', '.join(LANGUAGES)}, not {chosen or 'nothing'}")
        else:
            rest.append(each)
    return chosen, rest


class WrongLanguage(GatewayError):
    """The command line asks for a language that there is not."""

    exit_code = 2


def translate(command: Any, parent: Any = None) -> None:
    """Put the help of a command, of its options and of the commands below it into the language in use."""
    from rich import columns
    from typer import rich_utils

    for module in (columns, rich_utils):
        setattr(module, "Table", _folding())  # noqa: B010 - they do not export the name, and know no setting for this
    for name in _TYPER_SAYS:
        setattr(rich_utils, name, say(getattr(rich_utils, name)))
    command.options_metavar = word(command.options_metavar)
    if hasattr(command, "subcommand_metavar"):
        command.subcommand_metavar = word(command.subcommand_metavar)
    if command.help:
        command.help = say(command.help)
    context = command.context_class(command, parent=parent, **command.context_settings)
    for each in (*command.params, command.get_help_option(context)):
        if getattr(each, "help", None):
            each.help = say(each.help)
    for below in getattr(command, "commands", {}).values():
        translate(below, context)


def _folding() -> Any:
    """Give tables that fold what does not fit: a Chinese sentence has no spaces, and would be cut off like one word."""
    from rich.table import Table

    class Folding(Table):
        def add_row(self, *cells: Any, **settings: Any) -> None:
            super().add_row(*cells, **settings)
            for column in self.columns:
                column.overflow = "fold"

    return Folding


def main() -> None:
    """Run the command line; turn errors into a sentence and an exit code."""
    try:
        chosen, sys.argv[1:] = chosen_language(sys.argv[1:])
        if chosen:
            os.environ[VARIABLE] = chosen
        named = [name for name in sys.argv[1:2] if name in COMMANDS]  # building all takes longer than most commands
        command: Any = typer.main.get_command(make_app(named or COMMANDS))
        if language() != "en":
            translate(command)
        command(prog_name="plantbridge")
    except ConfigError as error:
        from gateway.cli.check import shown

        print(*shown(error.problems), sep="\n", file=sys.stderr)
        count = len(error.problems)
        print(say(f"{count} problem{'' if count == 1 else 's'} in the configuration."), file=sys.stderr)
        sys.exit(error.exit_code)
    except GatewayError as error:
        print(say(error.spoken()), file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in CLOUD:
            raise
        print(say(f"{error.name} is not installed: pip install 'plantbridge[cloud]'"), file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # `plantbridge query | head` is no error
        sys.exit(0)
