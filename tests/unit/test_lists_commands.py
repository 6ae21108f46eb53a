"""`plantbridge init`, `import` and `export` as somebody at a prompt meets them."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli.app import make_app
from gateway.config import load_cloud, load_site
from gateway.errors import ConfigError
from gateway.lists.start import templates


def run(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(make_app(), [str(word) for word in words], input=stdin)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------------------------------------ init


def test_init_with_a_template_is_a_working_meter() -> None:
    result = run("init", "--template", "eastron-sdm630", "--url", "tcp://192.168.1.20", "--cloud", "cloud.yaml")
    assert result.exit_code == 0, result.output
    site = load_site(Path("site.yaml"))
    assert sum(len(table) for table in site.links[0].tables) == 38
    assert load_cloud(Path("cloud.yaml")).broker.url == site.publishers["cloud"].url
    assert "plantbridge simulate site.yaml" in result.output


@pytest.mark.parametrize("template", [template.name for template in templates()])
def test_init_takes_every_shipped_template(template: str) -> None:
    assert run("init", "--template", template).exit_code == 0
    assert load_site(Path("site.yaml")).links[0].devices


@pytest.mark.parametrize("driver", ["modbus", "opcua", "replay"])
def test_init_without_a_template_passes_check(driver: str) -> None:
    assert run("init", "--driver", driver).exit_code == 0
    assert load_site(Path("site.yaml")).links[0].driver == driver


def test_init_never_replaces_a_file_unless_told() -> None:
    """A site file that somebody has worked on is worth more than a fresh one."""
    Path("cloud.yaml").write_text("mine")
    result = run("init", "--cloud", "cloud.yaml")
    assert (result.exit_code, Path("cloud.yaml").read_text()) == (2, "mine")
    assert not Path("site.yaml").exists()
    assert "cloud.yaml is there already" in result.stderr
    assert run("init", "--cloud", "cloud.yaml", "--force").exit_code == 0


def test_init_says_which_template_was_meant() -> None:
    result = run("init", "--template", "eastron-sdm63")
    assert result.exit_code == 2
    assert "did you mean eastron-sdm630?" in result.stderr


def test_init_writes_nothing_that_check_refuses() -> None:
    for words in (("--url", "http://192.168.1.20"), ("--gateway", "press: 1 #"), ("--broker", "broker")):
        assert isinstance(run("init", *words).exception, ConfigError), words  # which `main` turns into exit 2
    assert not Path("site.yaml").exists()


def test_init_asks_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer types `plantbridge init` and answers; Enter takes what is proposed."""
    import os
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "gateway", "init"])
    answers = b"xy-md02\nhall\ntcp://10.0.0.5\n\n7\n\n"
    os.write(terminal, answers)
    said = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:
            break
        if not part:
            break
        said += part
    assert os.waitpid(pid, 0)[1] == 0, said.decode()
    site = load_site(Path("site.yaml"))
    device = site.links[0].devices[0]
    assert (site.gateway, site.links[0].options.url, device.name) == ("hall", "tcp://10.0.0.5", "meter-1")
    assert device.options.unit_id == 7


# ------------------------------------------------------------------------------------------------ import


def test_a_template_from_a_list_makes_a_site_with_init() -> None:
    Path("meter.csv").write_text("name,address,type,unit\nU1,40001,FLOAT,V\n")
    assert run("import", "meter.csv", "-o", "meter.yaml").exit_code == 0
    assert run("init", "--template", "meter.yaml").exit_code == 0
    (table,) = load_site(Path("site.yaml")).links[0].tables
    assert [tag.name for tag in table.tags] == ["U1"]


def test_import_prints_where_no_file_is_named_and_keeps_what_it_says_apart() -> None:
    Path("meter.csv").write_text("name,address,type\nU1,40001,FLOAT\nx,?,FLOAT\n")
    result = run("import", "meter.csv")
    assert result.exit_code == 1
    assert result.stdout.startswith("driver: modbus\n")
    assert "meter.csv:3:2: '?'" in result.stderr


def test_import_never_replaces_a_file_unless_told() -> None:
    Path("meter.csv").write_text("name,address,type\nU1,40001,FLOAT\n")
    Path("out.yaml").write_text("mine")
    assert run("import", "meter.csv", "-o", "out.yaml").exit_code == 2
    assert Path("out.yaml").read_text() == "mine"
    assert run("import", "meter.csv", "-o", "out.yaml", "--dry-run", "--force").exit_code == 0
    assert Path("out.yaml").read_text() == "mine"
    assert run("import", "meter.csv", "-o", "out.yaml", "--force").exit_code == 0


def test_tags_in_common_through_an_anchor_are_not_changed() -> None:
    """To change one boiler's tags through an anchor changes the other's, which no list said."""
    site = """gateway: g
links:
  l:
    driver: modbus
    url: tcp://h
    devices:
      a: &a {tags: {t: holding:1}}
      b:
        <<: *a
        unit_id: 2
"""
    Path("site.yaml").write_text(site)
    Path("t.csv").write_text("name,address\nt,holding:2 uint16\n")
    result = run("import", "t.csv", "--into", "site.yaml", "--device", "b")
    assert (result.exit_code, Path("site.yaml").read_text()) == (2, site)
    assert "anchor" in result.stderr
    assert run("import", "t.csv", "--into", "site.yaml", "--device", "c", "--unit", "3").exit_code == 0
    assert "c:" in Path("site.yaml").read_text()


def test_a_byte_order_that_was_found_is_kept_where_the_list_says_none() -> None:
    """Found at the device after an hour; the manufacturer's next list must not undo it."""
    run("init", "--driver", "modbus", "--device", "p")
    Path("a.csv").write_text("name,address,type,unit\nforce,40001,FLOAT,N\n")
    run("import", "a.csv", "--into", "site.yaml", "--order", "CDAB")
    Path("a.csv").write_text("name,address,type,unit\nforce,40001,FLOAT,kN\n")
    assert run("import", "a.csv", "--into", "site.yaml").exit_code == 0
    assert "force: {address: holding:0 float32 CDAB, unit: kN}" in Path("site.yaml").read_text()
    assert run("import", "a.csv", "--into", "site.yaml", "--order", "ABCD").exit_code == 0
    assert "force: {address: holding:0 float32, unit: kN}" in Path("site.yaml").read_text()


def test_a_list_without_a_device_goes_to_the_only_one_or_asks() -> None:
    """A second device made by mistake, with the first one's registers, would be read twice."""
    run("init", "--driver", "modbus", "--device", "p")
    Path("a.csv").write_text("name,address,type\nforce,40001,FLOAT\n")
    assert run("import", "a.csv", "--into", "site.yaml").exit_code == 0
    assert [device.name for device in load_site(Path("site.yaml")).links[0].devices] == ["p"]
    assert run("import", "a.csv", "--into", "site.yaml", "--device", "q", "--unit", "2").exit_code == 0
    result = run("import", "a.csv", "--into", "site.yaml")
    assert (result.exit_code, "--device of site.yaml the tags go: p, q" in result.stderr) == (2, True)


def test_line_ends_of_a_windows_editor_are_kept() -> None:
    run("init", "--template", "xy-md02", "--device", "hall")
    Path("site.yaml").write_bytes(Path("site.yaml").read_bytes().replace(b"\n", b"\r\n"))
    Path("t.csv").write_text("name,address\nextra,holding:7 uint16\n")
    assert run("import", "t.csv", "--into", "site.yaml").exit_code == 0
    data = Path("site.yaml").read_bytes()
    assert data.count(b"\n") == data.count(b"\r\n") > 5
    assert b"extra: holding:7 uint16" in data


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", '{"nodes": [1], "groups": 3, "tags": [{"tags": 5}]}'),
        ("x.json", '{"nodes": [{"groups": [{"tags": [1]}], "plugin": "modbus"}]}'),
        ("x.conf", "[[inputs.modbus]]\ncontroller = 'tcp://h'\nrequest = 3\n"),
        ("x.conf", "[[inputs.modbus]]\ncontroller = \n"),
        ("x.csv", '"'),
        ("x.csv", "a\x00b"),
    ],
)
def test_a_file_that_is_not_what_it_seems_is_one_sentence(name: str, text: str) -> None:
    Path(name).write_text(text)
    result = run("import", name)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr


def test_a_device_in_an_included_file_is_changed_there() -> None:
    Path("lines").mkdir()
    Path("site.yaml").write_text("gateway: g\ninclude: [lines/a.yaml]\n")
    line = "links:\n  l:\n    driver: modbus\n    url: tcp://h\n    devices:\n      a: {tags: {t: holding:1}}  # 1st\n"
    Path("lines/a.yaml").write_text(line)
    Path("t.csv").write_text("name,address,unit\nt,holding:1 uint16,bar\n")
    assert run("import", "t.csv", "--into", "site.yaml", "--device", "a").exit_code == 0
    assert Path("site.yaml").read_text() == "gateway: g\ninclude: [lines/a.yaml]\n"
    assert load_site(Path("site.yaml")).links[0].tables[0].tags[0].unit == "bar"
    assert "# 1st" in Path("lines/a.yaml").read_text()


@pytest.mark.parametrize(("package", "words"), [("openpyxl", ("x.xlsx",)), ("ruamel", ("x.csv",))])
def test_a_missing_extra_is_one_line_with_the_command(
    package: str, words: tuple[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **keys: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest, **keys)

    Path("x.xlsx").write_bytes(b"PK\x03\x04")
    Path("x.csv").write_text("name,address\na,40001\n")
    monkeypatch.setattr(builtins, "__import__", without)
    result = run("import", *words)
    assert result.exit_code == 2
    assert "pip install 'plantbridge[tools]'" in result.stderr.splitlines()[-1]


def test_the_edge_daemon_imports_none_of_it() -> None:
    """Spreadsheets and their libraries would cost a Raspberry Pi memory for nothing."""
    code = (
        "import sys, gateway.app;"
        "print([n for n in sys.modules if n.split('.')[0] in ('openpyxl', 'ruamel') or 'gateway.lists' in n])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ export


def test_export_of_one_device_comes_back_with_a_change() -> None:
    run("init", "--template", "xy-md02", "--device", "hall")
    assert run("export", "site.yaml", "--device", "hall", "-o", "t.csv").exit_code == 0
    text = Path("t.csv").read_text(encoding="utf-8-sig")
    Path("t.csv").write_text(text.replace("0.1", "0.2", 1), encoding="utf-8-sig")
    result = run("import", "t.csv", "--into", "site.yaml", "--device", "hall")
    assert (result.exit_code, "1 changed, 1 unchanged" in result.stderr) == (0, True), result.stderr
    scales = sorted(float(tag.scale) for table in load_site(Path("site.yaml")).links[0].tables for tag in table.tags)
    assert scales == [0.1, 0.2]


def test_export_refuses_what_it_cannot_do() -> None:
    run("init", "--template", "xy-md02", "--device", "hall")
    assert "has no device wall; it has hall" in run("export", "site.yaml", "--device", "wall").stderr
    assert run("export", "site.yaml", "-o", "t.ods").exit_code == 2
    assert run("export", "site.yaml", "-o", "t.csv").exit_code == 0
    assert run("export", "site.yaml", "-o", "t.csv").exit_code == 2


def test_export_of_a_template_comes_back_as_a_template() -> None:
    """The command that export ends with must work."""
    Path("t.csv").write_text("name,address\na,40001\n")
    run("import", "t.csv", "-o", "a.yaml")
    result = run("export", "a.yaml", "-o", "b.csv")
    assert "plantbridge import b.csv -o NEW.yaml" in result.stderr
    assert run("import", "b.csv", "-o", "NEW.yaml").exit_code == 0
