"""Loading and checking a site file of 10,000 tags over 20 devices, four fifths of them in one line each."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gateway.config import load_site

TAGS, DEVICES = 10_000, 20


def _site() -> str:
    lines = ["gateway: bench", "data: ./data", "links:"]
    for device in range(DEVICES):
        lines += [
            f"  line-{device}:",
            "    driver: modbus",
            f"    url: tcp://127.0.0.1:{15000 + device}",
            "    devices:",
        ]
        lines += [f"      device-{device}:", "        unit_id: 1", "        tags:"]
        for tag in range(TAGS // DEVICES):
            address = f"holding:{tag * 2} float32 CDAB"
            long = f"{{address: {address}, unit: bar, scale: 0.1, min: 0, max: 500, deadband: 0.5}}"
            lines.append(f"          tag-{tag}: {long if tag % 5 == 0 else address}")
    return "\n".join([*lines, "publish:", '  cloud: {url: "mqtt://127.0.0.1:1883"}', ""])


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch) / "site.yaml"
        site.write_text(_site(), encoding="utf-8")
        start = time.process_time()
        load_site(site)
        load = time.process_time() - start
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "gateway", "check", str(site)], check=True, capture_output=True)
        check = time.monotonic() - start
    return [
        {"name": f"load a site of {TAGS:,} tags", "value": load, "unit": "s CPU"},
        {"name": f"plantbridge check, {TAGS:,} tags, whole process", "value": check, "unit": "s", "goal": "2"},
    ]
