"""Golden cases, one folder each: registers as devices really fill them and what the gateway makes of them.

    tags, device     as in a site file        registers    {area:address: hexadecimal words, or 0 and 1 for bits}
    expected         {tag: engineering value, or the name of a quality}

Or a piece of a TCP stream: `request` (transaction, unit, pdu), `stream`, and `expected`: the answer's PDU or "garbage".
A bug gets a folder here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from drivers.modbus.address import location
from drivers.modbus.driver import ModbusDriver
from drivers.modbus.frames import READS, Garbage, Mbap
from drivers.modbus.scan import Scan
from gateway import quality as q
from gateway.stages.normalise import normalise
from tests.modbus_links import link_to, tables_of

CASES = sorted(Path(__file__).parent.parent.glob("cases/modbus/*/case.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_case(path: Path) -> None:
    case = yaml.safe_load(path.read_text("utf-8"))
    if "stream" in case:
        stream(case)
    else:
        registers(case)


def registers(case: dict[str, Any]) -> None:
    link = link_to("tcp://h", case["tags"], **case.get("device", {}))
    scan = Scan(ModbusDriver(link).plan(tables_of(link)))
    scan.begin(0)
    memory = {}
    for place, content in case["registers"].items():
        area, address = location(place)
        text = str(content).replace(" ", "")
        words = list(text) if area in ("coil", "discrete") else [text[at : at + 4] for at in range(0, len(text), 4)]
        memory |= {(READS[area], address + number): word for number, word in enumerate(words)}
    for block in scan.plan.blocks:
        request = block.request
        words = [memory[request.function, address] for address in range(request.address, request.end)]
        data = bytes.fromhex("".join(words)) if request.function > 2 else bytes(int(word) for word in words)
        scan.buffer[request.place : request.place + len(data)] = np.frombuffer(data, np.uint8)
    found = {}
    for batch in scan.batches(1):
        done = normalise(batch.table)(batch)
        for name, value, code in zip(batch.table.names, done.value.tolist(), done.quality.tolist(), strict=True):
            found[name] = value if code == q.GOOD else q.name(code)
    assert found == case["expected"]


def stream(case: dict[str, Any]) -> None:
    request = case["request"]
    arrived = bytearray(bytes.fromhex(str(case["stream"])))
    arguments = (arrived, request["unit"], request["transaction"], bytes.fromhex(request["pdu"]))
    if case["expected"] == "garbage":
        with pytest.raises(Garbage):
            Mbap().find(*arguments)
    else:
        assert Mbap().find(*arguments)[0] == bytes.fromhex(case["expected"])
