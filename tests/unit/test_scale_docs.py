"""What docs/scale.md shows can be used: cloud files load, values for EMQX parse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gateway.config import load_cloud
from gateway.options import IngestOptions

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/scale.md").read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_cloud_files_of_the_page_load(number: int, tmp_path: Path) -> None:
    (tmp_path / "cloud.yaml").write_text(BLOCKS[number])
    assert load_cloud(tmp_path / "cloud.yaml").broker.client_id == "ingest-1"


def test_the_values_for_emqx_parse_and_fit_what_ingest_asks_for() -> None:
    """The chart takes settings as environment variables, which are texts: a bare number or boolean breaks it."""
    values = yaml.safe_load((ROOT / "edge_deploy/emqx-values.yaml").read_text(encoding="utf-8"))
    settings = values["emqxConfig"]
    assert all(isinstance(value, str) and name.startswith("EMQX_") for name, value in settings.items())
    assert values["replicaCount"] == int(settings["EMQX_DURABLE_STORAGE__MESSAGES__REPLICATION_FACTOR"]) == 3
    asked = IngestOptions(url="mqtt://127.0.0.1")
    assert int(settings["EMQX_MQTT__MAX_INFLIGHT"]) >= asked.in_flight
    assert settings["EMQX_MQTT__SESSION_EXPIRY_INTERVAL"] == f"{asked.session_expiry / 86400:.0f}d"
