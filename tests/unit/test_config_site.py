"""What a right site file becomes."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from gateway.config import Site, load_cloud, load_site
from gateway.config.document import Mapping, plain
from gateway.config.shipped import shipped
from gateway.errors import ConfigError
from gateway.model import Kind, Tag
from gateway.options import DuckdbOptions, InfluxdbOptions

SECOND = 1_000_000_000

LINE = """
gateway: demo
data: state
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:1502
    devices:
      press:
        unit_id: 7
        interval: 500 ms
        phase: 20 ms
        deadband: 0.5
        max_silence: 1 min
        {device}
        tags:
          {tags}
publish: {{cloud: {{url: mqtt://127.0.0.1}}}}
"""


def site(folder: Path, tags: str = "a: holding:1", device: str = "description: x") -> Site:
    """Load a site with one device whose tags are these lines."""
    text = LINE.format(tags=tags.replace("\n", "\n          "), device=device.replace("\n", "\n        "))
    (folder / "site.yaml").write_text(text, encoding="utf-8")
    return load_site(folder / "site.yaml")


def tags_of(loaded: Site) -> dict[str, Tag]:
    return {tag.name: tag for link in loaded.links for table in link.tables for tag in table.tags}


def test_a_site_is_compiled_to_links_devices_groups_and_tables(tmp_path: Path) -> None:
    loaded = site(
        tmp_path,
        "pressure: holding:100 float32 CDAB\nparts: holding:102 uint64\nrunning: coil:1\nserial: holding:200 text 8",
    )
    assert loaded.gateway == "demo"
    assert loaded.data == tmp_path / "state"
    (link,) = loaded.links
    assert (link.name, link.driver, link.options.url) == ("line", "modbus", "tcp://127.0.0.1:1502")
    (device,) = link.devices
    assert (device.name, device.options.unit_id) == ("press", 7)
    (group,) = device.groups
    assert (group.name, group.interval, group.phase) == ("default", SECOND // 2, 20_000_000)
    assert {table.kind: table.names for table in group.tables} == {
        Kind.FLOAT: ("pressure",), Kind.UINT: ("parts",), Kind.BOOL: ("running",), Kind.TEXT: ("serial",)
    }  # fmt: skip


def test_a_tag_knows_the_line_it_was_written_in(tmp_path: Path) -> None:
    """Messages of drivers and of the running daemon point there."""
    tag = tags_of(site(tmp_path, "a: holding:1\nb: {address: holding:2}"))["b"]
    assert (tag.where.file, tag.where.line, tag.where.column) == (str(tmp_path / "site.yaml"), 18, 11)


def test_what_a_tag_does_not_say_its_group_says_and_then_its_device(tmp_path: Path) -> None:
    groups = (
        "groups:\n  fast: {interval: 10 ms, max_silence: 5 s, tags: {b: holding:2}}\n"
        "  slow: {deadband: 3, tags: {c: holding:3}}"
    )
    loaded = site(tmp_path, "a: holding:1\nd: {address: holding:4, deadband: 0, max_silence: 2 s}", groups)
    groups_of = {group.name: group for group in loaded.links[0].devices[0].groups}
    assert {name: (group.interval, group.phase) for name, group in groups_of.items()} == {
        "default": (SECOND // 2, 20_000_000), "fast": (SECOND // 100, 20_000_000), "slow": (SECOND // 2, 20_000_000)
    }  # fmt: skip
    tags = tags_of(loaded)
    assert {name: (tag.deadband, tag.max_silence // SECOND) for name, tag in tags.items()} == {
        "a": (0.5, 60), "b": (0.5, 5), "c": (3.0, 60), "d": (0.0, 2)
    }  # fmt: skip


def test_a_deadband_in_percent_is_of_the_range(tmp_path: Path) -> None:
    tags = tags_of(site(tmp_path, "a: {address: holding:1, deadband: 2 %, min: -50, max: 150}"))
    assert tags["a"].deadband == pytest.approx(4.0)
    assert (tags["a"].minimum, tags["a"].maximum) == (-50, 150)


def test_text_and_yes_no_tags_take_an_inherited_deadband_as_report_changes(tmp_path: Path) -> None:
    tags = tags_of(site(tmp_path, "on: coil:1\ntext: holding:1 text 4"))
    assert tags["on"].deadband == 0
    assert tags["text"].deadband == 0


def test_without_a_deadband_every_reading_is_reported(tmp_path: Path) -> None:
    text = "gateway: g\nlinks: {l: {driver: modbus, url: 'tcp://h', devices: {d: {tags: {a: holding:1}}}}}\n"
    (tmp_path / "site.yaml").write_text(text)
    (tag,) = tags_of(load_site(tmp_path / "site.yaml")).values()
    assert math.isnan(tag.deadband)
    assert math.isinf(tag.minimum)


def test_scale_is_kept_as_the_decimal_that_was_written(tmp_path: Path) -> None:
    """0.1 x 231 must be 23.1 in the store."""
    tags = tags_of(
        site(tmp_path, "a: {address: holding:1, scale: 0.1, offset: -3.3}\nb: {address: holding:2, scale: 1/3}")
    )
    assert tags["a"].scale == Fraction(1, 10)
    assert tags["a"].offset == Fraction(-33, 10)
    assert tags["b"].scale == Fraction(1, 3)


def test_a_64_bit_integer_stays_exact_until_it_is_scaled(tmp_path: Path) -> None:
    tags = tags_of(
        site(
            tmp_path,
            "exact: holding:1 int64\nscaled: {address: holding:5 int64, scale: 0.1}\n"
            "moved: {address: holding:9 uint64, offset: 1}",
        )
    )
    assert {name: tag.kind for name, tag in tags.items()} == {
        "exact": Kind.INT, "scaled": Kind.FLOAT, "moved": Kind.FLOAT
    }  # fmt: skip


def test_an_array_becomes_a_tag_per_element(tmp_path: Path) -> None:
    loaded = site(tmp_path, "level: {address: 'holding:1 uint16[3]', unit: m}")
    assert {name: tag.unit for name, tag in tags_of(loaded).items()} == {
        "level[0]": "m", "level[1]": "m", "level[2]": "m"
    }  # fmt: skip


def test_yaml_words_that_elsewhere_are_booleans_stay_words(tmp_path: Path) -> None:
    """A state named off must not become False, a tag named on not True, and 1:30 not 90."""
    tags = tags_of(site(tmp_path, "on: {address: coil:1, states: {0: off, 1: on}, description: 1:30}\nno: coil:2"))
    assert tags["on"].states == ((0, "off"), (1, "on"))
    assert tags["on"].description == "1:30"
    assert "no" in tags


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-5", -5), ("+3", 3), ("0", 0), ("0x1F", 31), ("0o17", 15), ("1.5", 1.5), (".5", 0.5), ("2.", 2.0),
        ("1e3", 1000.0), ("-1.5E-2", -0.015), (".inf", math.inf), ("-.inf", -math.inf), ("null", None), ("~", None),
        ("", None), ("true", True), ("False", False), ("yes", "yes"), ("off", "off"), ("00101", "00101"),
        ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("1_000", "1_000"), ("1 s", "1 s"), ("-", "-"), ("e", "e"),
        ("9" * 400, "9" * 400), ("0b1", "0b1"), ("+0x1", "+0x1"),
    ],
)  # fmt: skip
def test_plain_words_are_read_as_editors_read_them(text: str, value: object) -> None:
    read = plain(text)
    assert (read, type(read)) == (value, type(value))


def test_a_modbus_reference_keeps_its_leading_zeros(tmp_path: Path) -> None:
    """00101 is coil 101 of the manual; the number 101 would be ambiguous."""
    tags = tags_of(site(tmp_path, "a: 00101\nb: 40001"))
    assert (tags["a"].source.area, tags["a"].source.address) == ("coil", 100)
    assert (tags["b"].source.area, tags["b"].source.address) == ("holding", 0)


def test_limits_states_and_patterns_arrive_in_the_tag(tmp_path: Path) -> None:
    tag = tags_of(
        site(
            tmp_path,
            "a: {address: holding:1, not_available: [0xFFFF, .nan], out_of_range: clamp, min: 0, "
            "writable: {min: 1, max: 2}, simulate: {signal: ramp, low: 3, period: 5 s}}",
        )
    )["a"]
    assert tag.not_available[0] == 65535
    assert math.isnan(tag.not_available[1])
    assert tag.out_of_range == "clamp"
    assert (tag.simulate.signal, tag.simulate.low, tag.simulate.period) == ("ramp", 3, 5.0)
    assert tag.writable is not None


# ------------------------------------------------------------------------------------------------ several files


def test_links_of_included_files_are_the_sites(tmp_path: Path) -> None:
    (tmp_path / "lines" / "more").mkdir(parents=True)
    link = (
        "links: {{{name}: {{driver: modbus, url: 'tcp://{name}', devices: {{dev-{name}: {{tags: {{a: coil:1}}}}}}}}}}\n"
    )
    (tmp_path / "lines" / "one.yaml").write_text("include: [more/*.yaml]\n" + link.format(name="one"))
    (tmp_path / "lines" / "more" / "two.yaml").write_text(link.format(name="two"))
    (tmp_path / "site.yaml").write_text(
        "gateway: g\ninclude: [lines/*.yaml, lines/one.yaml]\n" + link.format(name="zero")
    )
    loaded = load_site(tmp_path / "site.yaml")
    assert [each.name for each in loaded.links] == ["zero", "one", "two"]
    assert [file.name for file in loaded.files] == ["site.yaml", "one.yaml", "two.yaml"]


TEMPLATE = """
driver: modbus
description: A press
source: manual, page 5
trust: documented
unit_id: 9
interval: 3 s
tags:
  pressure: {address: holding:1 int16, scale: 0.1, unit: bar, min: 0, max: 10}
  parts: holding:5 uint32
groups:
  fast: {interval: 100 ms, tags: {force: "holding:7", torque: holding:8}}
"""


def from_template(folder: Path, device: str) -> Site:
    """Load a site whose one device begins from the template."""
    (folder / "templates").mkdir()
    (folder / "templates" / "press.yaml").write_text(TEMPLATE)
    text = "gateway: g\nlinks: {l: {driver: modbus, url: 'tcp://h', devices: {d: {template: press, " + device + "}}}}\n"
    (folder / "site.yaml").write_text(text)
    return load_site(folder / "site.yaml")


def test_a_device_begins_from_its_template_and_changes_it(tmp_path: Path) -> None:
    loaded = from_template(
        tmp_path,
        "interval: 2 s, tags: {pressure: {deadband: 1 %}, parts: holding:50, extra: coil:1, torque: {unit: Nm}}",
    )
    device = loaded.links[0].devices[0]
    assert device.options.unit_id == 9
    assert device.options.description == ""  # the template's describes the template
    assert {group.name: group.interval for group in device.groups} == {"default": 2 * SECOND, "fast": SECOND // 10}
    assert {group.name: {n for t in group.tables for n in t.names} for group in device.groups} == {
        "default": {"pressure", "parts", "extra"}, "fast": {"force", "torque"}
    }  # fmt: skip
    tags = tags_of(loaded)
    assert (tags["pressure"].unit, tags["pressure"].deadband) == ("bar", pytest.approx(0.1))
    assert tags["parts"].address == "holding:50"
    assert (tags["torque"].address, tags["torque"].unit) == ("holding:8", "Nm")
    assert [file.name for file in loaded.files] == ["site.yaml", "press.yaml"]


def test_a_tag_of_a_template_is_removed_or_moved_to_another_group(tmp_path: Path) -> None:
    loaded = from_template(tmp_path, "tags: {force: null}, groups: {fast: {tags: {pressure: {unit: kPa}}}}")
    groups = {group.name: group for group in loaded.links[0].devices[0].groups}
    assert set(tags_of(loaded)) == {"pressure", "parts", "torque"}
    assert {name for table in groups["fast"].tables for name in table.names} == {"pressure", "torque"}
    assert tags_of(loaded)["pressure"].unit == "kPa"
    assert groups["fast"].interval == SECOND // 10


def test_a_template_serves_many_devices_unchanged(tmp_path: Path) -> None:
    (tmp_path / "press.yaml").write_text(TEMPLATE)
    text = (
        "gateway: g\nlinks: {l: {driver: modbus, url: 'tcp://h', devices: {"
        "d1: {template: press, tags: {parts: null, pressure: {unit: kPa}}}, d2: {template: press, unit_id: 2}}}}\n"
    )
    (tmp_path / "site.yaml").write_text(text)
    first, second = load_site(tmp_path / "site.yaml").links[0].devices
    names = [{n for g in device.groups for t in g.tables for n in t.names} for device in (first, second)]
    assert names == [{"pressure", "force", "torque"}, {"pressure", "parts", "force", "torque"}]
    assert second.groups[0].tables[0].tags[0].unit == "bar"


# ------------------------------------------------------------------------------------------------ references


def test_references_are_replaced_by_what_they_stand_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "mqtt").write_text("hunter2-from-file\n")
    monkeypatch.setenv("PLANTBRIDGE_HOST", "broker.example")
    monkeypatch.setenv("PLANTBRIDGE_UNIT", "12")
    monkeypatch.setenv("PLANTBRIDGE_SECRETS", str(tmp_path / "secrets"))
    text = """
gateway: g
links: {l: {driver: modbus, url: 'tcp://h', devices: {d: {unit_id: "${env:PLANTBRIDGE_UNIT}", tags: {a: coil:1}}}}}
publish:
  a: {url: "mqtt://${env:PLANTBRIDGE_HOST}:1884", password: "${file:secrets/mqtt}"}
  b: {url: mqtt://h, password: "${file:${env:PLANTBRIDGE_SECRETS}/mqtt}"}
"""
    (tmp_path / "site.yaml").write_text(text)
    loaded = load_site(tmp_path / "site.yaml")
    assert loaded.publishers["a"].url == ("mqtt://broker.example:1884",)
    assert loaded.publishers["a"].password == loaded.publishers["b"].password == "hunter2-from-file"
    assert loaded.links[0].devices[0].options.unit_id == 12
    assert "hunter2" not in repr(loaded)


def test_files_named_in_a_configuration_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service starts in another directory than the one the file was tried in."""
    (tmp_path / "ca.pem").write_text("")
    text = (
        "gateway: g\nlinks: {l: {driver: modbus, url: 'tcp://h', devices: {d: {tags: {a: coil:1}}}}}\n"
        "publish: {c: {url: 'mqtts://h', tls: {ca: ca.pem, certificate: c.pem, key: /etc/key.pem}}}\n"
    )
    (tmp_path / "site.yaml").write_text(text)
    monkeypatch.chdir(tmp_path.parent)
    tls = load_site(tmp_path / "site.yaml").publishers["c"].tls
    assert tls is not None
    assert tls.ca is not None
    assert Path(tls.ca).samefile(tmp_path / "ca.pem")
    assert tls.key == "/etc/key.pem"


def test_urls_of_simulators_stand_in_for_the_links_own(tmp_path: Path) -> None:
    site(tmp_path)
    loaded = load_site(tmp_path / "site.yaml", links={"line": "tcp://127.0.0.1:5020"})
    assert loaded.links[0].options.url == "tcp://127.0.0.1:5020"
    with pytest.raises(ConfigError, match="there is no link other"):
        load_site(tmp_path / "site.yaml", links={"other": "tcp://127.0.0.1:5020"})


# ------------------------------------------------------------------------------------------------ cloud


def test_a_cloud_file_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "cloud.yaml").write_text("data: d\nbroker: {url: mqtt://h, share: s}\n")
    cloud = load_cloud(tmp_path / "cloud.yaml")
    assert cloud.data == tmp_path / "d"
    assert cloud.dead_letters == tmp_path / "d" / "dead-letters"
    assert (cloud.broker.url, cloud.broker.share) == (("mqtt://h",), "s")
    assert isinstance(cloud.store, DuckdbOptions)


def test_the_store_of_a_cloud_file_is_told_by_its_type(tmp_path: Path) -> None:
    store = "{type: influxdb, url: 'http://h:8086', bucket: b, token: t0ken}"
    (tmp_path / "cloud.yaml").write_text(f"broker: {{url: mqtt://h}}\nstore: {store}\n")
    cloud = load_cloud(tmp_path / "cloud.yaml")
    assert isinstance(cloud.store, InfluxdbOptions)
    assert cloud.store.bucket == "b"
    assert "t0ken" not in repr(cloud)


def test_the_shipped_samples_load_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_site(shipped() / "sample.yaml")
    assert {link.driver for link in loaded.links} == {"modbus", "opcua"}
    assert loaded.warnings == ()
    assert load_cloud(shipped() / "cloud.yaml").warnings == ()


# ------------------------------------------------------------------------------------------------ size


def test_nothing_of_the_yaml_outlives_loading(tmp_path: Path) -> None:
    """At 10,000 tags the trees weigh more than everything else the daemon holds."""
    loaded = site(tmp_path, "a: {address: holding:1, scale: 0.1}\nb: coil:1")
    gc.collect()
    kept = [each for each in gc.get_objects() if isinstance(each, Mapping)]
    assert loaded.links
    assert kept == []


def test_loading_a_modbus_site_imports_no_protocol_library_and_no_command_line(tmp_path: Path) -> None:
    """The daemon's memory on a Raspberry Pi: asyncua alone is 30 MB."""
    site(tmp_path)
    program = (
        "import sys; from pathlib import Path; from gateway.config import load_site;"
        f"load_site(Path({str(tmp_path / 'site.yaml')!r}));"
        "heavy = {'asyncua', 'pymodbus', 'typer', 'rich', 'jsonschema', 'duckdb', 'paho'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
