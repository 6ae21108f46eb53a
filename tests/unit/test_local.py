"""The daemon's socket: what it answers, who may ask, and that no asker can disturb the daemon."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.errors import GatewayError
from gateway.local import place
from gateway.local.client import NotRunning, ask, stream
from gateway.local.tail import Watch
from gateway.model import Batch, Kind, Tag, TagTable
from tests.local_plant import Local, running


@pytest.fixture
async def local(tmp_path: Path) -> Any:
    async with running(tmp_path) as found:
        await found.until(lambda answer: answer["links"][0]["up"], ask="status", over=0)
        yield found


def group_of(status: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = status["links"][0]["devices"][0]["groups"][0]
    return found


async def test_status_tells_links_devices_rates_journal_and_publishers(local: Local) -> None:
    status = await local.until(
        lambda answer: group_of(answer)["scans"] >= 3 and answer["publishers"][0]["pending_records"],
        ask="status",
        over=0.3,
    )
    (link,) = status["links"]
    (device,) = link["devices"]
    assert (link["link"], link["up"], device["device"], device["up"]) == ("line", True, "press", True)
    assert device["since"].endswith("Z")
    assert group_of(status)["tags"] == 4
    assert group_of(status)["outcome"] == ""
    assert device["readings"] > 0
    assert status["journalled"] > 0
    assert status["journal"]["dropped"] == 0
    (publisher,) = status["publishers"]
    assert publisher["up"] is False
    assert publisher["pending_records"] > 0


async def test_the_socket_is_for_the_user_and_the_group_of_the_daemon_only(local: Local) -> None:
    assert stat.S_IMODE((local.site.data / place.NAME).stat().st_mode) == 0o660


async def test_explain_tells_a_tags_path_from_its_line_to_its_record(local: Local) -> None:
    found = await local.until(
        lambda answer: answer["passed"]["sequence"] > 0 and answer["answer"]["time"],
        ask="explain",
        tag="press/pressure",
    )
    assert found["definition"]["where"].endswith("site.yaml:15:11")
    assert found["answer"]["request"] == "FC3 holding 0..11 of unit 1"
    assert len(bytes.fromhex(found["answer"]["data"])) == 4
    assert found["normalised"]["value"] == pytest.approx(found["answer"]["value"])
    assert found["passed"]["reported"]["quality"] == 0
    assert found["publishers"][0]["waits"]


async def test_a_scaled_value_is_shown_as_it_came_and_as_it_became(local: Local) -> None:
    found = await local.until(lambda answer: answer["normalised"], ask="explain", tag="press/temperature")
    assert found["normalised"]["value"] == pytest.approx(found["answer"]["value"] * 0.1 - 40)


async def test_a_silent_device_is_told_with_its_reason(local: Local) -> None:
    local.server.faults[1].silent = True
    found = await local.until(lambda answer: answer["device"]["declared"], ask="explain", tag="press/pressure")
    assert "did not answer" in found["device"]["reason"]


async def test_a_tag_that_is_not_there_is_answered_with_the_one_that_is(local: Local) -> None:
    with pytest.raises(GatewayError, match="did you mean press/pressure"):
        await local.ask(ask="explain", tag="press/presure")
    with pytest.raises(GatewayError, match="there is no device pres; did you mean press"):
        await local.ask(ask="explain", tag="pres")
    with pytest.raises(GatewayError, match="press is no tag: expected DEVICE/TAG"):
        await local.ask(ask="explain", tag="press")
    with pytest.raises(GatewayError, match="no tag matches oven"):
        await asyncio.to_thread(lambda: next(stream(local.site.data, {"ask": "tail", "tags": ["oven/*"]})))


async def test_tail_gives_the_last_scan_at_once_and_then_what_is_read(local: Local) -> None:
    await local.until(lambda answer: group_of(answer)["scans"] >= 1, ask="status", over=0)

    def three() -> list[dict[str, Any]]:
        lines = stream(local.site.data, {"ask": "tail", "tags": ["press/temperature", "press/state"]})
        return [next(lines) for _ in range(4)]

    table, *readings = await asyncio.to_thread(three)
    assert table["tags"][2]["states"] == {"0": "stopped", "1": "running"}
    assert [each["tag"] for each in readings] == [[1, 2]] * 3
    times = [each["time"][0] for each in readings]
    assert times == sorted(set(times))


async def test_what_is_journalled_can_be_looked_at_too(local: Local) -> None:
    """With a deadband the two differ: the journal has what changed, the path all that was read."""

    def some() -> list[dict[str, Any]]:
        lines = stream(local.site.data, {"ask": "tail", "tags": ["press/temperature"], "journalled": True})
        return [next(lines) for _ in range(2)]

    table, readings = await asyncio.to_thread(some)
    assert table["device"] == "press"
    assert readings["tag"] == [1]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"ask": "wrong"}\n', b'{"ask": {}}\n', b"{}\n"])
async def test_what_is_no_question_is_answered_with_a_sentence_and_the_daemon_goes_on(
    local: Local, line: bytes
) -> None:
    def say() -> dict[str, Any]:
        with place.dial(local.site.data) as sock:
            sock.sendall(line)
            answer: dict[str, Any] = orjson.loads(sock.makefile("rb").readline())
            return answer

    assert "question" in (await asyncio.to_thread(say))["error"]
    assert (await local.ask(ask="status", over=0))["gateway"] == "demo"


async def test_an_asker_that_hangs_up_at_once_or_says_too_much_does_not_disturb(local: Local) -> None:
    place.dial(local.site.data).close()
    with place.dial(local.site.data) as sock:
        await asyncio.to_thread(sock.sendall, b"x" * 100_000)
    assert (await local.ask(ask="status", over=0))["gateway"] == "demo"


def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    place.listen(tmp_path).close()  # its file stays, as after kill -9
    with pytest.raises(NotRunning, match="it is not running"):
        ask(tmp_path, {"ask": "status"})
    with place.listen(tmp_path), place.dial(tmp_path):
        pass


def test_a_socket_that_somebody_answers_at_is_left_alone(tmp_path: Path) -> None:
    with place.listen(tmp_path), pytest.raises(place.Unavailable, match="a data directory of its own"):
        place.listen(tmp_path)


def test_a_data_directory_of_any_length_can_be_asked(tmp_path: Path) -> None:
    """A socket's path may have 107 bytes, and /var/lib/... of a careful integrator has more."""
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    with place.listen(deep), place.dial(deep):
        pass
    assert stat.S_ISSOCK((deep / place.NAME).stat().st_mode)
    place.remove(deep)
    assert list(deep.iterdir()) == []


def test_who_may_not_ask_is_told_who_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: socket.socket, _path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(GatewayError, match="a member of its group"):
        ask(tmp_path, {"ask": "status"})


def table_of(size: int) -> TagTable:
    return TagTable("press", "default", Kind.FLOAT, tuple(Tag(f"t{row}", "") for row in range(size)))


async def test_an_asker_who_reads_slowly_gets_less_and_is_told_how_much_less() -> None:
    """The path never waits for who looks on."""
    table, watch = table_of(10), Watch(["press/t1"], room=35)
    for scan in range(10):
        watch.take(Batch.full(table, np.full(10, float(scan)), scan))
    lines = watch.lines()
    got = [orjson.loads(await anext(lines)) for _ in range(5)]
    await lines.aclose()
    assert [line["value"] for line in got[1:4]] == [[0.0], [1.0], [2.0]]
    assert got[4] == {"dropped": 7}
