"""The JSON schema in the YAML language server that editors run: what somebody sees who writes a site file in one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest

from gateway.config.shipped import shipped
from tests import npm_reader

PATIENCE = 60.0  # s
pytestmark = npm_reader.PATIENT


class Editor:
    """A language server's client, over its standard input and output (LSP 3.17)."""

    def __init__(self) -> None:
        program = npm_reader.installed() / "node_modules/yaml-language-server/out/server/src/server.js"
        self._server = subprocess.Popen(
            ["node", str(program), "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._heard: Queue[dict[str, Any]] = Queue()
        self._marks: dict[str, list[Any]] = {}
        self._next = 0
        Thread(target=self._listen, daemon=True).start()
        folder = {"processId": None, "rootUri": None, "workspaceFolders": None}
        support = {"hover": {"contentFormat": ["markdown"]}, "publishDiagnostics": {}}
        self.ask("initialize", {**folder, "capabilities": {"textDocument": support}})
        self.tell("initialized", {})
        # nothing but the schema that the file names: no store of schemas on the network
        settings = {"yaml": {"schemaStore": {"enable": False}, "validate": True, "hover": True, "completion": True}}
        self.tell("workspace/didChangeConfiguration", {"settings": settings})

    def close(self) -> None:
        self._server.kill()
        self._server.communicate(timeout=PATIENCE)

    def tell(self, method: str, content: dict[str, Any]) -> None:
        self._send({"method": method, "params": content})

    def ask(self, method: str, content: dict[str, Any]) -> Any:
        self._next += 1
        number = self._next
        self._send({"id": number, "method": method, "params": content})
        while (said := self._take()).get("id") != number or "method" in said:
            pass
        assert "error" not in said, said["error"]
        return said["result"]

    def open(self, uri: str, text: str) -> None:
        self.tell(
            "textDocument/didOpen", {"textDocument": {"uri": uri, "languageId": "yaml", "version": 1, "text": text}}
        )

    def marks(self, uri: str) -> list[str]:
        """Wait for what the server marks in a file."""
        while uri not in self._marks:
            self._take()
        return [each["message"] for each in self._marks.pop(uri)]

    def complete(self, uri: str, line: int, column: int) -> list[str]:
        place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": column}}
        answer = self.ask("textDocument/completion", place)
        items = answer["items"] if isinstance(answer, dict) else answer
        return [each["label"] for each in items]

    def hover(self, uri: str, line: int, column: int) -> str:
        place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": column}}
        answer = self.ask("textDocument/hover", place)
        return str(answer["contents"]["value"]) if answer else ""

    def _take(self) -> dict[str, Any]:
        try:
            said = self._heard.get(timeout=PATIENCE)
        except Empty:
            pytest.fail("the language server is silent")
        if said.get("method") == "textDocument/publishDiagnostics":
            self._marks[said["params"]["uri"]] = said["params"]["diagnostics"]
        elif "method" in said and "id" in said:  # it asks for what we do not have: its settings, a registration
            items = said.get("params", {}).get("items", []) if said["method"] == "workspace/configuration" else None
            self._send({"id": said["id"], "result": None if items is None else [None] * len(items)})
        return said

    def _send(self, content: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **content}).encode()
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._server.stdin.flush()

    def _listen(self) -> None:
        stream = self._server.stdout
        assert stream is not None
        length = 0
        while line := stream.readline():
            name, _, value = line.decode("ascii").partition(":")
            if name.lower() == "content-length":
                length = int(value)
            elif not line.strip():
                self._heard.put(json.loads(stream.read(length)))


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    editor = Editor()
    yield editor
    editor.close()


def sample() -> tuple[str, list[str]]:
    file = shipped() / "sample.yaml"
    return file.as_uri(), file.read_text(encoding="utf-8").split("\n")


def changed(name: str, text: str) -> tuple[str, str]:
    """Give a file beside the sample that is not on disk, so that its schema is found."""
    return (shipped() / name).as_uri(), text


@pytest.mark.parametrize("name", ["sample.yaml", "cloud.yaml", "demo/site.yaml"])
def test_an_editor_marks_nothing_in_a_right_file(editor: Editor, name: str) -> None:
    """Red lines under what is right teach people to ignore red lines."""
    file = shipped() / name
    editor.open(file.as_uri(), file.read_text(encoding="utf-8"))
    assert editor.marks(file.as_uri()) == []


def test_an_editor_marks_a_misspelt_key(editor: Editor) -> None:
    """Without it, the test above could pass because no schema was found."""
    _, lines = sample()
    uri, text = changed("misspelt.yaml", "\n".join(lines).replace("unit_id: 1", "unti_id: 1"))
    editor.open(uri, text)
    assert any("unti_id" in each for each in editor.marks(uri))


def test_an_editor_explains_a_key_under_the_mouse(editor: Editor) -> None:
    _, lines = sample()
    uri, text = changed("hover.yaml", "\n".join(lines))
    editor.open(uri, text)
    line = next(number for number, each in enumerate(lines) if "durability:" in each)
    assert "power cut" in editor.hover(uri, line, lines[line].index("durability") + 2)
    line = next(number for number, each in enumerate(lines) if each.strip().startswith("deadband: 0.5"))
    assert editor.hover(uri, line, lines[line].index("deadband") + 2)


@pytest.mark.parametrize(
    ("after", "indent", "offers", "other"),
    [
        ("journal:", 2, {"commit_interval", "max_age"}, "interval"),
        ("        unit_id: 1", 8, {"phase", "template", "retries"}, "url"),
        ("    url: opc.tcp://", 4, {"timeout", "security_policy", "pki"}, "max_registers"),
        ("    url: tcp://", 4, {"max_registers", "connect_timeout"}, "security_policy"),
    ],
)
def test_an_editor_completes_keys_where_they_belong(
    editor: Editor, after: str, indent: int, offers: set[str], other: str
) -> None:
    """The driver of the link decides which keys are offered."""
    _, lines = sample()
    line = next(number for number, each in enumerate(lines) if each.startswith(after)) + 1
    uri, text = changed(f"complete-{line}.yaml", "\n".join([*lines[:line], " " * indent, *lines[line:]]))
    editor.open(uri, text)
    offered = set(editor.complete(uri, line, indent))
    assert offered >= offers
    assert other not in offered


def test_an_editor_completes_values(editor: Editor) -> None:
    uri, text = changed("value.yaml", "# yaml-language-server: $schema=schema/site.json\njournal:\n  durability: \n")
    editor.open(uri, text)
    assert {"power", "process"} <= set(editor.complete(uri, 2, 14))
