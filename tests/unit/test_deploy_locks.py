"""Lock files: what `make setup`, `make test` and an offline installation fetch, and nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "edge_deploy/edge.lock", "edge_deploy/cloud.lock")


def entries(name: str) -> list[str]:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


def versions(name: str) -> dict[str, set[str]]:
    """Versions by name; one name may have several, for several Pythons."""
    found: dict[str, set[str]] = {}
    for line in entries(name):
        requirement = Requirement(line.split("--hash")[0])
        found.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    return found


def wanted(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines if not line.startswith("plantbridge[")]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_a_version_and_hashes(lock: str) -> None:
    for line in entries(lock):
        assert re.match(r"^[a-z0-9-]+==[^ ]+ .*--hash=sha256:[0-9a-f]{64}", line), line


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_registry(lock: str) -> None:
    """A host in a lock file would send a plant behind its own mirror to somewhere it cannot reach."""
    assert not re.search(r"://|--(extra-)?index|--find-links|@ ", (ROOT / lock).read_text())


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("edge_deploy/edge.lock", ()),
        ("edge_deploy/cloud.lock", ("cloud",)),
        ("requirements.lock", ("cloud", "demo")),
        ("requirements-dev.lock", ("cloud", "demo", "dev")),
    ],
)
def test_a_lock_holds_what_pyproject_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    """`make lock` was forgotten where this fails."""
    locked = versions(lock)
    for requirement in wanted(*extras):
        pins = locked.get(canonicalize_name(requirement.name))
        assert pins, f"{requirement.name} is not in {lock}: run make lock"
        assert all(requirement.specifier.contains(pin.removeprefix("==")) for pin in pins), requirement


def test_all_locks_agree_on_versions() -> None:
    """What was tested is what is installed at the plant."""
    tested = versions("requirements-dev.lock")
    for lock in LOCKS:
        for name, pins in versions(lock).items():
            assert pins == tested[name], f"{lock}: {name}"


def test_the_edge_carries_no_cloud_and_no_demo() -> None:
    """A Raspberry Pi gets no database and no broker it does not run."""
    edge = versions("edge_deploy/edge.lock")
    assert not {"duckdb", "influxdb-client", "amqtt", "pytest", "pyarrow"} & edge.keys()
