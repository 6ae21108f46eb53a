"""Every message of the code has its Chinese. Apart from test_language, because any change of a text may need it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer

from gateway.cli.app import make_app
from gateway.language import catalogue

ROOT = Path(__file__).parents[2]
ZH = catalogue("zh")
ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")
ENGLISH = re.compile(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}")


@pytest.fixture(scope="module")
def messages() -> ModuleType:
    """docs/messages.py, which finds the messages of the code."""
    spec = importlib.util.spec_from_file_location("messages", ROOT / "docs" / "messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_message_of_the_code_has_a_translation(messages: ModuleType) -> None:
    """`make messages` lists them; write their Chinese into gateway/language/zh.json (the same text: needs none)."""
    known = json.loads((ROOT / "gateway" / "language" / "zh.json").read_text(encoding="utf-8"))["messages"]
    lacking = [f"{place}: {text!r}" for text, place in messages.collected().items() if text not in known]
    assert not lacking, "no translation in gateway/language/zh.json for:\n" + "\n".join(lacking)


def test_the_help_of_every_command_and_option_is_chinese(messages: ModuleType) -> None:
    for text in messages.helps_of(typer.main.get_command(make_app())):
        plain = text.replace("{{", "{").replace("}}", "}")
        assert ZH.say(plain) != plain or not ENGLISH.search(plain), plain


def test_every_heading_verdict_and_state_has_a_translation(messages: ModuleType) -> None:
    """What a command shows by `table` and `word`; its Chinese stands under "words" in gateway/language/zh.json."""
    lacking = {f"{place}: {text}" for text, place in messages.words() if ZH.word(text) == text and text not in ORDERS}
    assert not lacking


def test_commands_make_their_tables_where_headings_are_translated() -> None:
    """Whoever builds a rich table elsewhere forgets its Chinese; `query --sql` shows its own columns."""
    rooms = [*(ROOT / "gateway" / "cli").glob("*.py"), *(ROOT / "gateway" / "acceptance").glob("*.py")]
    made = {path.name for path in rooms if re.search(r"(?<![\w.])Table\(|\.add_column\(\"", path.read_text("utf-8"))}
    assert made == {"shown.py", "query.py"}
