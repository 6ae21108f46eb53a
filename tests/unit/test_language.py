"""Messages in two languages: the catalogue against the code, and what a person at a prompt reads."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.cli.app import WrongLanguage, chosen_language
from gateway.config.kinds import check_file
from gateway.language import Catalogue, catalogue, holes, language, places, say

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases" / "config"
ZH = catalogue("zh")
ENGLISH = re.compile(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}")


@pytest.fixture(scope="module")
def messages() -> ModuleType:
    """docs/messages.py, which finds the messages of the code."""
    spec = importlib.util.spec_from_file_location("messages", ROOT / "docs" / "messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def body() -> Any:
    return json.loads((ROOT / "gateway" / "language" / "zh.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------ code and catalogue


def test_a_translation_shows_every_value_of_its_message() -> None:
    every = {**body()["messages"], **body()["others"]}
    wrong = [text for text, said in every.items() if text != said and {*places(said)} != {*range(holes(text))}]
    assert not wrong


def test_what_is_translated_is_chinese() -> None:
    """A translation that was copied and forgotten would pass for one."""
    every = {**body()["messages"], **body()["others"]}
    assert not [text for text, said in every.items() if text != said and said.isascii() and said]


def test_the_messages_of_a_file_are_found_and_its_docstrings_logs_and_queries_are_not(
    messages: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "some.py"
    file.write_text(
        '''"""A docstring of words."""
def f(name, n, log):
    """Another docstring of words."""
    log.warning("a log entry of words")
    query = "SELECT time FROM readings"
    raise ValueError(f"there is no {name}, and {n} tag{'' if n == 1 else 's'} {'is' if n == 1 else 'are'} left {{x}}")
'''
    )
    found = [text for text, _ in messages.messages_of(file)]
    assert found == ["there is no {}, and {} tag{s} {s} left {{x}}"]


# ------------------------------------------------------------------------------------------------ finding the message


def small() -> Catalogue:
    return Catalogue(
        {
            "{} is down: {}": "{} 断开：{}",
            "no answer within {} s": "{} s 内没有应答",
            "{} tag{s} of {}": "{1} 的 {0} 个点位",
            "put {{tag}} into the topic": "请在主题中加入 {{tag}}",
            "a {}'s name is empty": "{0w}的名字是空的",
            "{} is {}": "{} 是 {}",
        },
        {"device": "设备"},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no answer within 5 s", "5 s 内没有应答"),
        ("press-1 is down: no answer within 5 s", "press-1 断开：5 s 内没有应答"),
        ("1 tag of press", "press 的 1 个点位"),
        ("2 tags of press", "press 的 2 个点位"),
        ("put {tag} into the topic", "请在主题中加入 {tag}"),
        ("a device's name is empty", "设备的名字是空的"),
        ("a thing's name is empty", "thing的名字是空的"),
        ("line 3: no answer within 5 s", "line 3：5 s 内没有应答"),
        ("no answer within 5 s (put {tag} into the topic)", "5 s 内没有应答 (请在主题中加入 {tag})"),
        ("quite another text", "quite another text"),
        ("", ""),
    ],
)
def test_a_text_is_found_by_its_template_and_its_values_are_said_too(text: str, said: str) -> None:
    assert small().say(text) == said


def test_of_two_templates_that_fit_the_one_with_more_words_is_meant() -> None:
    assert small().say("x is down: y") == "x 断开：y"
    assert small().template("x is down: y") == "{} is down: {}"
    assert small().template("quite another text") == ""


def test_values_with_braces_and_percent_signs_are_given_as_they_are() -> None:
    """A value is data: it must not be taken for a place in the translation."""
    assert small().say("no answer within {0} %s s") == "{0} %s s 内没有应答"


# ------------------------------------------------------------------------------------------------ choosing


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "C", "PLANTBRIDGE_LANG": "zh"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "PLANTBRIDGE_LANG": "en"}, "en"),
        ({"LC_MESSAGES": "zh-Hans"}, "zh"),
        ({"LANG": "zha_CN"}, "en"),
    ],
)
def test_the_language_is_that_of_the_variable_or_of_the_locale(environment: dict[str, str], wanted: str) -> None:
    assert language(environment) == wanted


@pytest.mark.parametrize(
    ("line", "chosen", "rest"),
    [
        (["--lang", "zh", "check", "x"], "zh", ["check", "x"]),
        (["check", "x", "--lang=zh", "--json"], "zh", ["check", "x", "--json"]),
        (["check", "x"], "", ["check", "x"]),
        (["read", "--", "--lang", "zh"], "", ["read", "--", "--lang", "zh"]),
    ],
)
def test_the_language_may_stand_anywhere_in_the_command_line(line: list[str], chosen: str, rest: list[str]) -> None:
    assert chosen_language(line) == (chosen, rest)


@pytest.mark.parametrize("line", [["--lang", "fr"], ["--lang"], ["--lang="]])
def test_a_language_that_there_is_not_is_refused(line: list[str]) -> None:
    with pytest.raises(WrongLanguage, match="en, zh"):
        chosen_language(line)


# ------------------------------------------------------------------------------------------------ what people read


@pytest.mark.parametrize("case", sorted(path.parent.name for path in CASES.glob("*/expected.zh.txt")))
def test_a_configuration_is_answered_in_chinese(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PLANTBRIDGE_ACCEPT=1 writes what is said now; expected.txt beside it has the English."""
    monkeypatch.chdir(CASES / case)
    monkeypatch.setenv("PLANTBRIDGE_LANG", "zh")
    lines = []
    for each in check_file(Path("input.yaml")).problems:
        reason, hint = say(each.reason), say(each.hint)
        assert not ENGLISH.search(re.sub(r"'[^']*'|\S+/\S+", "", f"{reason} | {hint}"))
        lines.append(f"{each.line}:{each.column}: {reason}{f' ({hint})' if hint else ''}\n")
    said = "".join(lines).replace(str(CASES / case), "HERE")
    if os.environ.get("PLANTBRIDGE_ACCEPT"):
        Path("expected.zh.txt").write_text(said, encoding="utf-8")
    assert said == Path("expected.zh.txt").read_text(encoding="utf-8")


def run(*arguments: str, lang: str, cwd: Path, columns: int = 200) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PLANTBRIDGE_LANG": lang, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=100, check=False
    )


def test_a_command_speaks_the_language_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("gatewy: g\nlinks: {}\n")
    said = run("check", "site.yaml", lang="zh", cwd=tmp_path)
    assert said.returncode == 2
    assert "未知的键 gatewy (是否指 gateway？)" in said.stdout
    assert "[警告]" in said.stdout
    assert said.stdout.endswith("site.yaml: 3 个错误, 1 个警告\n")
    assert "unknown key gatewy" in run("check", "site.yaml", "--lang", "en", lang="zh", cwd=tmp_path).stdout
    help_ = run("check", "--help", lang="zh", cwd=tmp_path)
    assert "不连接任何设备，找出配置中的全部问题。" in help_.stdout
    assert re.search(r"--help +-h .*显示本说明后退出。", help_.stdout)
    assert help_.stdout == run("check", "-h", lang="zh", cwd=tmp_path).stdout
    narrow = run("import", "--help", lang="zh", cwd=tmp_path, columns=80).stdout
    assert "--dry-run" in narrow
    assert "…" not in narrow, "a sentence without spaces is folded, not cut off"
    wrong = run("check", "--jsn", "x", lang="zh", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "没有选项 --jsn" in wrong.stderr


def test_a_refused_configuration_of_the_daemon_is_told_in_chinese(tmp_path: Path) -> None:
    (tmp_path / "cloud.yaml").write_text("broker: {url: mqtt://h}\n")
    said = run("run", "cloud.yaml", lang="zh", cwd=tmp_path)
    assert said.returncode == 2
    assert "这是云端文件" in said.stderr
    assert "配置中有 1 个问题。" in said.stderr


def test_the_rule_of_a_finding_is_the_same_in_every_language(tmp_path: Path) -> None:
    """Who silences a rule in a code host must not lose that with the next build server's locale."""
    (tmp_path / "site.yaml").write_text("gatewy: g\nlinks: {}\n")
    rules = {
        tuple(each["ruleId"] for each in json.loads(said.stdout)["runs"][0]["results"])
        for said in (run("check", "site.yaml", "--sarif", lang=lang, cwd=tmp_path) for lang in ("en", "zh"))
    }
    assert len(rules) == 1
    assert "unknown-key" in next(iter(rules))
    assert "configuration" not in next(iter(rules))


def test_the_daemon_does_not_load_the_catalogue() -> None:
    """It says nothing to a person while it runs, and memory is what a small machine has least of."""
    text = "import sys, gateway.daemon, gateway.app; sys.exit('gateway.language' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", text], env=environment, timeout=100, check=False).returncode == 0
