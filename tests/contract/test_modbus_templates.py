"""Every shipped Modbus template: says where it comes from, fits the schema, and is read from a simulator made of it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from drivers.modbus.driver import ModbusDriver
from gateway import quality as q
from gateway.config import load_site
from gateway.config.kinds import check_file
from gateway.config.shipped import shipped
from simulators.modbus import ModbusServer
from simulators.modbus_map import exponent, signals

NOW = 1_764_000_000_000_000_000
TEMPLATES = [
    path for path in sorted((shipped() / "templates").glob("*.yaml")) if "driver: modbus" in path.read_text("utf-8")
]
SITE = """
gateway: test
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:{port}
    timeout: 5 s
    devices:
      device: {{template: {name}}}
publish: {{cloud: {{url: mqtt://127.0.0.1:1}}}}
"""


def test_there_are_at_least_a_dozen() -> None:
    assert len(TEMPLATES) >= 12


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_says_where_it_comes_from_and_fits_the_schema(path: Path) -> None:
    body = yaml.safe_load(path.read_text("utf-8"))
    assert body["description"]
    assert len(body["source"]) > 20
    assert body["trust"] in ("documented", "simulated", "hardware")
    schema = json.loads((shipped() / "schema" / "template.json").read_text("utf-8"))
    as_json = json.loads(json.dumps(body))  # keys of states are texts in JSON
    jsonschema.Draft202012Validator(schema).validate(as_json)
    assert check_file(path).problems == ()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
async def test_a_template_is_read_from_a_simulator_made_of_it(path: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE.format(port=1, name=path.stem), "utf-8")
    async with ModbusServer(load_site(site).links[0], clock=lambda: NOW) as server:
        site.write_text(SITE.format(port=await server.listen(), name=path.stem), "utf-8")
        (link,) = load_site(site).links
        driver = ModbusDriver(link)
        await driver.connect()
        shown = signals(link)
        for group in link.devices[0].groups:
            for batch in await driver.read(driver.plan(group.tables)):
                assert (batch.quality == q.GOOD).all()
                for row, tag in enumerate(batch.table.tags):
                    signal = shown["device", tag.name]
                    if signal is not None:  # registers that belong to another tag as well
                        expected = signal.raw(np.array([NOW]))[0]
                        if tag.source.power is not None:
                            expected *= 10.0 ** exponent(1, tag.source.power)
                        assert batch.value[row] == pytest.approx(expected), tag.name
        await driver.close()
