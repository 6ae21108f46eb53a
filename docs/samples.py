"""The samples of the pages: each fenced YAML is checked as `plantbridge check` does, or as a scenario.

A block that is a whole file is taken as it stands; else what is around it is put there (whole), by its first keys.
`docs/build.py` fails on one that does not pass, and a test names it; secrets and included files are made for it.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent

import yaml

from gateway.config import load_site
from gateway.config.kinds import check_file
from gateway.errors import GatewayError
from gateway.testbed.scenario import load
from simulators.scenario import load_scenario

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("*.md", "docs/**/*.md", "edge_deploy/**/*.md", "drivers/**/*.md", "config/**/*.md", "bench/**/*.md")

LINE = "links: {line: {driver: modbus, url: tcp://192.168.1.20, devices: {press: {tags: {level: holding:0}}}}}\n"
OPCUA = "links:\n  boilers:\n    driver: opcua\n    url: opc.tcp://192.168.1.30\n"
PLANT = """
links:
  line:
    driver: replay
    url: replay:generated
    devices:
      press-1: {tags: {pressure: sine float32}}
      meter-1: {tags: {energy: counter int64}}
"""
BROKEN = """
gateway: broken-to-a-plan
links:
  press-line:
    driver: modbus
    url: tcp://192.168.1.20
    devices:
      press-1: {tags: {oil-pressure: holding:0}}
      press-2: {unit_id: 2, tags: {oil-pressure: holding:0}}
  boiler-house:
    driver: opcua
    url: opc.tcp://192.168.1.30
    devices: {boiler: {tags: {pressure: ns=2;i=7}}}
publish: {cloud: {url: "mqtt://127.0.0.1"}}
"""
BOILER = "    devices:\n      boiler-1:\n"


def whole(block: str) -> str:
    """Make a file of a sample. What its first keys are says what it is; another kind needs a line here."""
    keys = yaml.safe_load(dedent(block)).keys()
    if {"gateway", "broker", "steps"} & keys or {"driver", "tags"} <= keys:
        return block
    if "lasts" in keys:
        return block
    if "watch" in keys:
        return "site: site.yaml\nlasts: 1 min\n" + block
    if "links" in keys:
        return "gateway: press-shop\n" + block
    if "publish" in keys:
        return "gateway: press-shop\n" + PLANT + block
    publish = "publish: {cloud: {url: 'mqtt://127.0.0.1'}}\n"
    if "groups" in keys:  # of an OPC UA device
        return "gateway: boilers\n" + OPCUA + BOILER + indent(dedent(block), " " * 8) + publish
    if "security_policy" in keys:  # of an OPC UA link
        boiler = BOILER + "        tags: {level: ns=2;i=7}\n"
        return "gateway: boilers\n" + OPCUA + indent(dedent(block), " " * 4) + boiler + publish
    raise ValueError(f"a sample that nobody checks; see whole() in docs/samples.py:\n{block}")


def pages() -> list[Path]:
    """Give every page that has samples to be checked, and all the others."""
    return sorted(page for pattern in PLACES for page in ROOT.glob(pattern))


def yaml_blocks(page: Path) -> list[str]:
    """Give the fenced YAML of a page."""
    return re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def problems(block: str, folder: Path) -> list[str]:
    """Check a sample in an empty folder; what it reads from environment and files is there."""
    secrets = {name: base64.b64encode(b"a secret of some length").decode() for name in _named("env", block)}
    for path in _named("file", block):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("a secret")
    (folder / "lines").mkdir(exist_ok=True)
    (folder / "lines/one.yaml").write_text(LINE)
    site = folder / "site.yaml"
    kept = {name: os.environ.get(name) for name in secrets}
    os.environ.update(secrets)
    try:
        if "lasts:" in (text := whole(block)):
            site.write_text(BROKEN)
            (folder / "scenario.yaml").write_text(text, encoding="utf-8")
            load(folder / "scenario.yaml")
            return []
        site.write_text(text, encoding="utf-8")
        if "steps:" in block:
            (folder / "broken.yaml").write_text(BROKEN)
            load_scenario(site, load_site(folder / "broken.yaml"))
            return []
        found = [str(problem) for problem in check_file(site).problems]
    except (GatewayError, ValueError, yaml.YAMLError) as error:
        return [str(error)]
    finally:
        for name, value in kept.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return [problem for problem in found if "there is no file" not in problem]  # certificates


def _named(source: str, block: str) -> list[str]:
    return re.findall(rf"\$\{{{source}:([^}}]*)\}}", block)


def wrong() -> Iterator[str]:
    """Check every sample of every page; give what is wrong, with its page."""
    for page in pages():
        for number, block in enumerate(yaml_blocks(page), 1):
            with tempfile.TemporaryDirectory() as folder:
                for problem in problems(block, Path(folder)):
                    yield f"{page.relative_to(ROOT)}, sample {number}: {problem.replace(folder + '/', '')}"
