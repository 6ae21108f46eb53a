"""docs/guide/mqtt.md: what it shows passes the check, and what it says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gateway.config import load_site
from gateway.config.kinds import check_file
from gateway.mqtt import endpoints
from gateway.options import MqttOptions

TEXT = (Path(__file__).resolve().parents[2] / "docs/guide/mqtt.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.M | re.S)
SITE = """gateway: press-shop
links:
  line: {driver: modbus, url: "tcp://192.168.1.20", devices: {press: {tags: {level: "holding:0"}}}}
"""


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_sample_passes_the_check(number: int, tmp_path: Path) -> None:
    block = BLOCKS[number]
    for name in ("ca.pem", "edge.pem", "edge.key", "mqtt-password"):
        (tmp_path / name).write_text("x\n")
    file = tmp_path / "site.yaml"
    file.write_text(block if "gateway" in yaml.safe_load(block) else SITE + block)
    assert not check_file(file).problems
    assert all(endpoints(options) for options in load_site(file).publishers.values())


def test_the_table_of_ports_is_right() -> None:
    for scheme, port in re.findall(r"^\| `(\w+)://HOST\S*` .* (\d+) \|$", TEXT, flags=re.M):
        (where,) = endpoints(MqttOptions(url=f"{scheme}://h"))
        assert where.port == int(port)
    assert len(re.findall(r"://HOST", TEXT)) == 4
