"""Tags as columns, on their way from the process that reads the YAML to the daemon."""

from __future__ import annotations

import io
import math
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load_site
from gateway.config.shipped import shipped
from gateway.folded import Settings, dump
from gateway.model import Kind, Tag, TagTable, Where
from gateway.options import JsonOptions, PublisherOptions, TlsOptions


@dataclass(frozen=True, slots=True)
class Address:
    """A driver's address, as a driver might have it."""

    area: str
    number: int


TEXT = st.text(max_size=4)
TAGS = st.builds(
    Tag,
    name=TEXT,
    address=TEXT,
    source=st.none() | st.builds(Address, TEXT, st.integers()) | st.builds(Where, TEXT) | st.integers() | TEXT,
    scale=st.fractions(),
    offset=st.just(Fraction(0)),
    minimum=st.floats() | st.just(-math.inf) | st.sampled_from([0.0, -0.0]),
    deadband=st.floats(),
    max_silence=st.integers(0, 2**40),
    states=st.lists(st.tuples(st.integers(), TEXT), max_size=2).map(tuple),
    where=st.builds(Where, TEXT, st.integers(0, 9), st.integers(0, 9)),
)


def through(thing: Any) -> Any:
    return pickle.loads(_dumped(thing))


@given(st.lists(TAGS, min_size=1, max_size=6), st.integers(1, 3))
def test_a_table_comes_out_as_it_went_in(tags: list[Tag], times: int) -> None:
    table = TagTable("press", "fast", Kind.FLOAT, tuple(tags) * times)
    loaded = through(table)
    assert (loaded.device, loaded.group, loaded.kind, len(loaded)) == ("press", "fast", Kind.FLOAT, len(table))
    # by their text: NaN is not equal to itself, -0.0 is to 0.0
    assert [repr(tag) for tag in loaded.tags] == [repr(tag) for tag in table.tags]
    assert [repr(loaded.tags[index]) for index in range(-len(table), len(table))] == [
        repr(tag) for tag in table.tags
    ] * 2
    assert repr(tuple(loaded.tags[1:])) == repr(table.tags[1:])


def test_what_all_tags_share_is_kept_once() -> None:
    """Else ten thousand tags would take ten times the memory."""
    tag = Tag("t", "", source=Address("holding", 1), unit="bar", scale=Fraction(1, 3))
    alike = TagTable("d", "g", Kind.FLOAT, tuple(replace(tag, name=f"t{number}") for number in range(1000)))
    file = io.BytesIO()
    dump(alike, file)
    assert len(file.getvalue()) < 15_000


def test_every_shipped_site_comes_out_as_it_went_in() -> None:
    for path in sorted(Path(shipped()).rglob("site*.yaml")):
        site = load_site(path, secrets=False)
        loaded = through(site)
        for one, other in zip(loaded.links, site.links, strict=True):
            assert (one.name, one.driver, one.options) == (other.name, other.driver, other.options)
            for here, there in zip(one.tables, other.tables, strict=True):
                assert [_plain(tag) for tag in here.tags] == [_plain(tag) for tag in there.tags]
                assert [(tag.simulate, tag.writable) for tag in here.tags] == [
                    (tag.simulate, tag.writable) for tag in there.tags
                ]
                assert here.fingerprint == there.fingerprint
        assert loaded.publishers == site.publishers


def test_options_come_out_as_values_that_equal_their_model() -> None:
    model = PublisherOptions(url=("mqtts://broker",), topic="works/{gateway}/", tls=TlsOptions(server_name="b"))
    told = through(model)
    assert type(told) is Settings
    assert told == model == told
    assert model == told
    assert (told.secure, told.prefix, told.trust.server_name) == (True, "works/{gateway}", "b")
    assert dict(told) == dict(model)
    assert told.model_copy({"version": "3.1.1"}) != model
    assert told.model_copy({"version": "3.1.1"}).url == model.url
    assert through(told) == model
    assert through(PublisherOptions(url=("mqtt://b",), format="json")).settings == JsonOptions()
    assert told != through(JsonOptions())


def test_options_that_came_out_cannot_be_changed_and_show_no_password() -> None:
    told = through(PublisherOptions(url=("mqtt://broker",), password="no one's"))
    assert "no one" not in repr(told)
    with pytest.raises(AttributeError, match="do not change"):
        told.password = "other"
    with pytest.raises(AttributeError, match="has no frequency, or it is a method"):
        _ = told.frequency


def test_a_daemon_that_polls_modbus_and_publishes_never_loads_the_library_of_the_models(tmp_path: Path) -> None:
    """It is a tenth of what such a daemon may take."""
    site = tmp_path / "site.yaml"
    site.write_text(
        "gateway: g\ncommands: on\n"
        "links:\n  l: {driver: modbus, url: tcp://127.0.0.1:1, devices: {d: {tags: {t: holding:0 float32}}}}\n"
        "publish:\n  a: {url: mqtts://127.0.0.1:1}\n  b: {url: mqtt://127.0.0.1:1, format: json, budget: 50 MB/day}\n"
    )
    (tmp_path / "compiled").write_bytes(_dumped(load_site(site)))
    code = (
        "import pickle, sys, gateway.daemon, gateway.app\n"
        "from gateway.names import open_driver\n"
        "from gateway.encoders import encoder_for\n"
        "from gateway.sinks.mqtt import MqttSink\n"
        f"site = pickle.load(open({str(tmp_path / 'compiled')!r}, 'rb'))\n"
        "driver = open_driver(site.links[0]); driver.plan(site.links[0].tables)\n"
        "for options in site.publishers.values(): encoder_for(options, 'g', 'j'); MqttSink('p', options, 'g')\n"
        "sys.exit(', '.join({'pydantic', 'pydantic_core', 'gateway.options', 'yaml'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, timeout=100, capture_output=True, text=True)
    assert ran.stderr.strip() == ""


def _plain(tag: Tag) -> str:
    return repr(replace(tag, simulate=None, writable=None))


def _dumped(thing: Any) -> bytes:
    file = io.BytesIO()
    dump(thing, file)
    return file.getvalue()
