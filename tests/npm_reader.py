"""What npm has and tests use: sparkplug-payload, the YAML language server that editors run, and an OPC UA server.

They are installed once from the lock file in tests/npm, into pytest's cache directory. Without npm, or without a
registry, the test is skipped with a line saying so; in CI (CI=true) that is a failure.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PATIENT = pytest.mark.timeout(300)  # for who may be the first, and installs
_HERE = Path(__file__).parent / "npm"
_CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache"


def _lacking(what: str) -> None:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(what)
    pytest.skip(what)


def installed() -> Path:
    """Give the folder with node_modules, made where it is not there yet; skip the test where that cannot be."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        _lacking("npm and node are not installed on this machine")
    lock = (_HERE / "package-lock.json").read_bytes()
    place = _CACHE / f"npm-{hashlib.sha256(lock).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as guard:  # several test processes may come at once
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (place / "done").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(_HERE / name, place)
            command = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=240)
            if done.returncode:
                _lacking(f"npm could not install what tests/npm names: {done.stderr[-500:]}")
            (place / "done").touch()
    for script in _HERE.glob("*.js"):
        if not (place / script.name).exists() or (place / script.name).read_bytes() != script.read_bytes():
            shutil.copy(script, place)
    return place


def read(payloads: Sequence[bytes]) -> list[dict[str, Any]]:
    """Give each payload as that reader understands it. 64-bit integers are plain integers again."""
    place = installed()
    text = "\n".join(payload.hex() for payload in payloads)
    done = subprocess.run(
        ["node", "read_sparkplug.js"], cwd=place, input=text, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line, object_hook=_plain) for line in done.stdout.splitlines()]


def _plain(found: dict[str, Any]) -> Any:
    if found.keys() == {"int"}:
        return int(found["int"])
    if found.keys() == {"float"}:
        return float(found["float"].replace("Infinity", "inf"))
    return found
