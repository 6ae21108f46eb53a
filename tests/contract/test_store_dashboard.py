"""Each question of the dashboards is asked of a real server: an empty dashboard says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import yaml
from store_places import victoria_options

from gateway.model import Gap, Kind
from gateway.options import InfluxdbOptions
from gateway.stores.influxdb import InfluxdbStore
from gateway.stores.victoriametrics import VictoriametricsStore
from tests.influx_proxy import InfluxProxy
from tests.native import BAD, SECOND, T0, block, scan, table
from tests.stores_servers import InfluxDB, VictoriaMetrics

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


async def test_every_panel_and_variable_of_influxdb_finds_what_the_store_wrote(tmp_path: Path) -> None:
    """In InfluxQL, which the engine of 1.6 answers here as 2.x does there; Flux could not be asked of anything here."""
    board: dict[str, Any] = json.loads((GRAFANA / "dashboards/readings.json").read_text())
    (source,) = yaml.safe_load((GRAFANA / "datasources/influxdb.yaml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    assert source["jsonData"]["dbName"] == "plant"
    with InfluxDB(tmp_path / "influxdb") as engine, InfluxProxy(engine.url) as proxy:
        engine.create("plant")
        store = InfluxdbStore(
            InfluxdbOptions(type="influxdb", url=proxy.url, bucket="plant", token="secret"), no_letters
        )
        numbers, energy = table(size=2, unit="bar"), table(Kind.UINT, 1, unit="W.h")
        contents = [
            scan(numbers, T0, [1.0, 2.0], [0, BAD]),
            scan(energy, T0, [5]),
            scan(numbers, T0 + SECOND, [3.0, 4.0]),
        ]
        other = block(scan(table(size=1, device="press-10"), T0, [9.0]), first=9)
        await store.write([block(*contents, Gap("press-1", "", T0, T0 + SECOND, "disk full", 9, 3)), other])
        await store.close()

        def ask(question: str) -> list[dict[str, Any]]:
            for name, value in {
                "${gateway:regex}": "demo",
                "${device:regex}": "press-1",
                "${tag:regex}": "(float64-0|float64-1|uint64-0)",
                "$timeFilter": f"time >= {T0 - 60 * SECOND} AND time < {T0 + 60 * SECOND}",
                "$__interval": "1m",
            }.items():
                question = question.replace(name, value)
            assert "$" not in question.replace("$/", ""), question
            return engine.query("plant", question)

        answers = {panel["title"]: [ask(target["query"]) for target in panel["targets"]] for panel in board["panels"]}
        values, integers = answers["$device"]
        assert {row["tag"]: row["mean"] for row in values} == {"float64-0": 2, "float64-1": 4}
        assert [(row["tag"], row["unit"], row["mean"]) for row in integers] == [("uint64-0", "W.h", 5)]
        (qualities,) = answers["Quality (0 is Good)"]
        assert {row["tag"]: row["max"] for row in qualities} == {"float64-0": 0, "float64-1": BAD, "uint64-0": 0}
        found = {variable["name"]: ask(variable["query"]) for variable in board["templating"]["list"]}
        assert {name: [row["value"] for row in rows] for name, rows in found.items()} == {
            "gateway": ["demo"],
            "device": ["press-1", "press-10"],
            "tag": ["float64-0", "float64-1", "uint64-0"],
        }
        (gaps,) = board["annotations"]["list"]
        assert [(row["reason"], row["device"]) for row in ask(gaps["target"]["query"])] == [("disk full", "press-1")]


def no_letters(topic: str, payload: bytes, reason: str) -> None:
    raise AssertionError(f"{topic}: {reason}: {payload.decode()}")
