"""export, then import: nothing may change, whatever a site's tags look like."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.config import load_site
from gateway.config.kinds import check_file
from gateway.config.shipped import shipped
from gateway.lists.entries import RegisterList
from gateway.lists.export import as_csv, as_workbook, rows_of, table_of
from gateway.lists.reading import Wanted, read_list
from gateway.lists.rows import RESERVED, Reading
from gateway.lists.sites import checked, compose_into, compose_site, compose_template, drivers_of
from gateway.model import Tag, Where

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = sorted(
    [
        shipped() / "sample.yaml",
        shipped() / "demo" / "site.yaml",
        *ROOT.glob("drivers/*/sample.yaml"),
    ]
)
TEMPLATES = sorted((shipped() / "templates").glob("*.yaml"))


def listed_from(file: Path, **keys: Any) -> RegisterList:
    return read_list(file, Wanted(Reading(device="dev", **keys)))


def exported(path: Path, folder: Path, suffix: str) -> Path:
    table = table_of(rows_of(path))
    file = folder / f"tags{suffix}"
    file.write_bytes(as_csv(table) if suffix == ".csv" else as_workbook(table, "tags"))
    return file


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_site_stays_byte_by_byte_what_it_is(sample: Path, suffix: str, tmp_path: Path) -> None:
    """Who only looks at the tags in a spreadsheet and brings them back must not find the site rewritten."""
    site = tmp_path / "site.yaml"
    site.write_bytes(sample.read_bytes())
    for recording in sample.parent.glob("*.csv"):
        shutil.copy(recording, tmp_path)
    file = exported(site, tmp_path, suffix)
    listed = listed_from(file, drivers=drivers_of(site))
    composed = checked(listed, lambda each: compose_into(each, site, link=None, url="", unit=None))
    assert not [str(each) for each in listed.findings if each.severity == "error"]
    assert (composed.added, composed.changed, composed.kept) == ([], [], [])
    assert composed.same == len(rows_of(site)) > 0
    assert composed.text.encode() == site.read_bytes()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_shipped_template_comes_back_with_the_same_tags(template: Path, tmp_path: Path) -> None:
    file = exported(template, tmp_path, ".csv")
    listed = listed_from(file)
    back = tmp_path / "back.yaml"
    back.write_text(checked(listed, lambda each: compose_template(each, back, "test")).text, encoding="utf-8")
    assert listed.findings == []
    assert table_of(rows_of(back)) == table_of(rows_of(template))


# ------------------------------------------------------------------------------------------------ made-up sites

words = (
    st.text(st.sampled_from("abcXYZ019 -_.,;:=%°µ压力泵é'\"[{&*?|>!@`~"), min_size=1, max_size=12)
    .map(str.strip)
    .filter(lambda text: not text.startswith("."))
)
# a list's rows called spare, reserved or - are left out, and it is said
names = words.filter(lambda name: name and not RESERVED.fullmatch(name))
forms = st.sampled_from(
    (
        *("int16", "uint16 BA", "float32", "float32 CDAB", "uint32 DCBA", "int64 BADC", "float64", "bcd16", "bit 3"),
        *("bits 4..7", "uint32 bit 20", "text 12", "text 7 BA gbk", "int16[3]", "int8 high", "float16", "unix32"),
    )
)
areas = st.sampled_from(["holding", "input", "coil", "discrete"])
addresses = st.one_of(
    st.builds("{}:{} {}".format, st.sampled_from(["holding", "input"]), st.integers(0, 60000), forms),
    st.builds("{}:{}".format, areas, st.integers(0, 65535)),
    st.builds("holding:0x{:04X} float32".format, st.integers(0, 60000)),
    st.integers(400001, 460000).map(str),
    st.builds("{} float32 CDAB".format, st.integers(40001, 49990)),
)
numbers = st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e12, 1e12, allow_nan=False).filter(lambda x: x != 0))
long_form = st.sampled_from(
    [
        {"address": "holding:7", "type": "float32", "order": "CDAB"},
        {"address": "input:8", "bit": 4},
        {"address": "holding:9", "type": "uint32", "bits": "3..9"},
        {"address": "holding:10", "type": "text", "length": 9, "encoding": "gbk", "padding": "space"},
        {"address": "holding:10", "type": "int8", "half": "high"},
        {"address": "holding:12 uint16", "absent": [0xFFFF, 0x8000]},
        {"address": "holding:12 uint16", "flags": {0: "overload", 3: "oil; low"}},
        {"address": "input:40 int16", "scale_power": "input:41"},
    ]
)
more = st.fixed_dictionaries(
    {},
    optional={
        "unit": words.filter(bool),
        "description": words.filter(bool),
        "scale": st.sampled_from([0.1, 10, "1/3", 0.001, -2.5, 1e-7, "7/1000"]),
        "offset": numbers,
        "deadband": st.one_of(st.just("0 %").map(lambda _: 0), st.floats(0, 1e6)),
        "max_silence": st.sampled_from(["10 s", "1 h", "500 ms"]),
        "out_of_range": st.sampled_from(["bad", "clamp"]),
        "states": st.dictionaries(st.integers(0, 99), words.filter(bool), min_size=1, max_size=4),
        "not_available": st.lists(st.integers(-32768, 65535), min_size=1, max_size=2),
        "writable": st.one_of(st.just(True), st.just({"min": 0, "max": 9.5})),
        "simulate": st.just({"signal": "ramp", "low": 0, "high": 5, "period": "3 s"}),
    },
)
tags = st.builds(
    lambda where, keys: {**where, **keys}, st.one_of(addresses.map(lambda a: {"address": a}), long_form), more
)
tag_sets = st.lists(st.tuples(names, tags), min_size=1, max_size=4).map(dict)
groups = st.fixed_dictionaries({"tags": tag_sets, "interval": st.sampled_from(["3 s", "1 min"])})
devices = st.fixed_dictionaries(
    {"tags": tag_sets},
    optional={
        "interval": st.sampled_from(["1 s", "200 ms", "5 min"]),
        "groups": st.fixed_dictionaries({"fast": groups}, optional={"每分钟": groups}),
    },
)


def valid_site(device: dict[str, Any], file: Path) -> bool:
    """Write a site; leave out tags that `check` refuses, and say whether any are left."""
    seen: set[str] = set()
    parts = [device, *device.get("groups", {}).values()]
    for part in parts:
        for name in list(part["tags"]):
            site = {"gateway": "g", "links": {"l": {"driver": "modbus", "url": "tcp://127.0.0.1"}}}
            site["links"]["l"]["devices"] = {"dev": {"tags": {name: part["tags"][name]}}}  # type: ignore[index]
            file.write_text(yaml.safe_dump(site, allow_unicode=True), encoding="utf-8")
            if name in seen or any(problem.severity == "error" for problem in check_file(file).problems):
                del part["tags"][name]
            seen.add(name)
    if not all(part["tags"] for part in parts):
        return False
    site = {
        "gateway": "g",
        "links": {"l": {"driver": "modbus", "url": "tcp://127.0.0.1", "devices": {"dev": device}}},
        "publish": {"cloud": {"url": "mqtt://127.0.0.1"}},
    }
    file.write_text(yaml.safe_dump(site, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return not any(problem.severity == "error" for problem in check_file(file).problems)


def compiled(path: Path) -> dict[str, tuple[str, int, Tag]]:
    """What the gateway makes of a site: every tag but for how and where its address is written."""
    return {
        tag.name: (group.name, group.interval, dataclasses.replace(tag, where=Where(), address=""))
        for link in load_site(path).links
        for device in link.devices
        for group in device.groups
        for table in group.tables
        for tag in table.tags
    }


@settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(device=devices, suffix=st.sampled_from([".csv", ".csv", ".xlsx"]))
def test_any_site_survives_the_way_through_a_spreadsheet(device: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    """Into the same site not a byte changes; made anew from the table alone, the gateway reads the same tags."""
    site = tmp_path / "site.yaml"
    if not valid_site(device, site):
        return
    file = exported(site, tmp_path, suffix)
    listed = listed_from(file, drivers={"dev": "modbus"})
    assert [str(each) for each in listed.findings if each.severity == "error"] == []
    composed = checked(listed, lambda each: compose_into(each, site, link=None, url="", unit=None))
    assert (composed.added, composed.changed, composed.kept) == ([], [], [])
    assert composed.text.encode() == site.read_bytes()
    anew = tmp_path / "anew.yaml"
    keys: dict[str, Any] = {"gateway": "g", "link": "l", "url": "tcp://127.0.0.1", "broker": "mqtt://127.0.0.1"}
    text = checked(listed_from(file), lambda each: compose_site(each, anew, **keys, unit=None)).text
    anew.write_text(text, encoding="utf-8")
    assert compiled(anew) == compiled(site)
