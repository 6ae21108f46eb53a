"""The text of a first site file, and of the cloud file that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway.config import document
from gateway.config.files import Files
from gateway.config.merge import find_template
from gateway.config.references import References
from gateway.config.shipped import shipped
from gateway.lists.entries import ListError

EXAMPLES: dict[str, tuple[str, str, str]] = {
    "modbus": ("tcp://127.0.0.1:1502", "example", "{address: holding:0 uint16, description: replace this one}"),
    "opcua": ("opc.tcp://127.0.0.1:4840", "example", "{address: i=2258 datetime, description: the server's time}"),
    "replay": ("replay:generated", "example", "sine float64"),
}
"""By driver: a url, and a tag to begin from."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a first site file says."""

    gateway: str
    driver: str
    url: str
    link: str
    device: str
    template: str  # empty for none
    unit: int | None
    broker: str


@dataclass(frozen=True, slots=True)
class Template:
    """A device template as `init` lists it."""

    name: str
    driver: str
    description: str


def templates() -> list[Template]:
    """List the shipped device templates."""
    return [_template(path, path.stem) for path in sorted((shipped() / "templates").glob("*.yaml"))]


def template_named(name: str, folder: Path) -> Template:
    """Find a template: a shipped one, or a file beside the site file. Raises ListError."""
    import difflib

    found = find_template(name, folder)
    if found is None:
        known = [template.name for template in templates()]
        close = difflib.get_close_matches(name.lower(), known, 1, 0.4)
        hint = f"did you mean {close[0]}?" if close else f"shipped are {', '.join(known)}"
        raise ListError(f"there is no template {name}; {hint}")
    return _template(found, name)


def _template(path: Path, name: str) -> Template:
    tree: Any = Files(path.parent, References(needed=False)).open(path)
    if not isinstance(tree, document.Mapping) or "driver" not in tree:
        raise ListError(f"{path} is no device template: it has no key driver")
    return Template(name, str(tree["driver"]), str(tree.get("description", "")))


def _quoted(text: str) -> str:
    """Write a text as YAML, with quotes where it needs them."""
    written: str = yaml.safe_dump([text], allow_unicode=True, default_flow_style=True, width=10_000)
    return written.strip()[1:-1]


def site_text(start: Start) -> str:
    """Compose a site file."""
    lines = [
        f"gateway: {_quoted(start.gateway)}",
        "links:",
        f"  {_quoted(start.link)}:",
        f"    driver: {start.driver}",
        f"    url: {_quoted(start.url)}",
        "    devices:",
        f"      {_quoted(start.device)}:",
    ]
    if start.unit is not None and start.driver == "modbus":
        lines.append(f"        unit_id: {start.unit}")
    if start.template:
        lines.append(f"        template: {_quoted(start.template)}")
    else:
        _, name, tag = EXAMPLES.get(start.driver, EXAMPLES["modbus"])
        lines += ["        interval: 1 s", "        tags:", f"          {name}: {tag}"]
    lines += ["publish:", f"  cloud: {{url: {_quoted(start.broker)}}}"]
    return "\n".join(lines) + "\n"


def cloud_text(broker: str) -> str:
    """Compose a cloud file for the same broker."""
    lines: Sequence[str] = (f"broker: {{url: {_quoted(broker)}, client_id: ingest-1}}", "store: {type: duckdb}")
    return "\n".join(lines) + "\n"
