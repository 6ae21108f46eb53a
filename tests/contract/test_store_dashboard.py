"""Each question of the dashboard for VictoriaMetrics is asked of a real server: an empty dashboard says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import yaml
from store_places import victoria_options

from gateway.model import Gap, Kind
from gateway.stores.victoriametrics import VictoriametricsStore
from tests.native import SECOND, T0, block, scan, table
from tests.stores_servers import VictoriaMetrics

GRAFANA = Path(__file__).parents[2] / "edge_deploy/compose/grafana"
CHOICE = {"$gateway": "demo", "$device": "press-1", "$tag": ".*"}


def filled(text: str) -> str:
    for name, value in CHOICE.items():
        text = text.replace(name, value)
    assert "$" not in text, text
    return text


async def test_every_panel_and_variable_finds_what_the_store_wrote(tmp_path: Path) -> None:
    board: dict[str, Any] = json.loads((GRAFANA / "dashboards/metrics.json").read_text())
    sources = yaml.safe_load((GRAFANA / "datasources/victoriametrics.yaml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"] for source in sources}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) == 4
    energy = table(Kind.UINT, 1, unit="W.h")
    with VictoriaMetrics(tmp_path / "victoria-metrics") as server:
        store = VictoriametricsStore(victoria_options(server.url), lambda *_: None)
        now = T0 + 3600 * SECOND
        contents = [scan(table(size=2, unit="bar"), now), scan(energy, T0, [2**63]), scan(energy, now, [2**63 + 5])]
        await store.write([block(*contents, Gap("press-1", "", now, now + SECOND, "disk full", 9, 3))])
        await store.close()
        server.get("/internal/force_flush")
        answers = {
            panel["title"]: server.ask(filled(panel["targets"][0]["expr"]), now / SECOND + 1)
            for panel in board["panels"]
        }
        assert list(map(len, answers.values())) == [3, 3, 1, 1], answers
        assert answers["64-bit counters: change in an hour, exact"] == [5]
        for variable in board["templating"]["list"]:
            match, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            found = server.get(f"/api/v1/label/{label}/values", **{"match[]": filled(match), "start": "0"})
            assert orjson.loads(found)["data"], variable["name"]
        (gaps,) = board["annotations"]["list"]
        assert server.ask(filled(gaps["expr"]), now / SECOND + 1) == [9]
