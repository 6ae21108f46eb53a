"""Another gateway's MQTT output as arrivals: messages of JSON, and a mapping that says where in them things are.

Only what arrives while somebody watches is seen, and times and qualities are as good as the messages have them: a
gateway that sends no quality has only Good readings, and null is a reading without a value.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Self
from urllib.parse import unquote

from gateway import quality as q
from gateway.errors import GatewayError
from gateway.model import Kind
from gateway.mqtt.connection import Arrived, Connection
from gateway.options import MqttOptions
from gateway.testbed.arrivals import Arrivals, Name, Rows
from gateway.testbed.scenario import WatchOptions
from gateway.testbed.truth import Shown
from gateway.trace import BOOLS, CODES, moment

Message = tuple[int, str, bytes]
"""When it came (ns), topic, payload."""
_WORDS: Final = {"good": q.GOOD, "uncertain": q.UNCERTAIN, "bad": q.BAD, "true": q.GOOD, "false": q.BAD}


class Watcher:
    """A subscription in a thread of its own. Use as a context."""

    def __init__(self, url: str) -> None:
        """Prepare. Raises GatewayError where the url names no broker and topic."""
        scheme, _, rest = url.partition("://")
        where, _, self.topic = rest.partition("/")
        if scheme not in ("mqtt", "mqtts") or not where or not self.topic:
            raise GatewayError(f"expected mqtt://HOST:PORT/TOPIC, such as mqtt://127.0.0.1:1883/plant/#, got {url}")
        user, _, host = where.rpartition("@")
        name, _, password = user.partition(":")
        options: dict[str, Any] = {"url": f"{scheme}://{host}", "version": "3.1.1"}
        if name:
            options |= {"username": unquote(name), "password": unquote(password)}
        self._options = MqttOptions.model_validate(options)
        self.messages: list[Message] = []
        self._first, self._ready = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def wait(self, seconds: float) -> bool:
        """Wait for the first message. Raises GatewayError."""
        deadline = time.monotonic() + seconds
        while not self._first.wait(0.2) and time.monotonic() < deadline:
            self.check()
        return self._first.is_set()

    def check(self) -> None:
        """Raise what ended the subscription."""
        if self._failure is not None:
            raise GatewayError(f"the other gateway's broker: {self._failure}") from self._failure

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(60)
        try:
            self.check()
        except GatewayError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._watch())
        except BaseException as error:  # noqa: BLE001  told by `check`, in the thread that asks
            self._failure = error
        finally:
            self._ready.set()

    async def _watch(self) -> None:
        connection: Connection

        def came(message: Arrived) -> None:
            connection.acknowledge(message)
            if not message.retained:  # of the past
                self.messages.append((time.time_ns(), message.topic, message.payload))
                self._first.set()

        connection = Connection(self._options, client_id=f"testbed-{time.time_ns()}", on_message=came)
        await connection.open()
        try:
            (answer,) = await connection.subscribe([self.topic], timeout=10.0)
            if answer.refused:
                raise GatewayError(f"{self.topic} may not be subscribed to: {answer.name}")
            self._ready.set()
            ending = asyncio.create_task(self._end.wait())
            lost = asyncio.create_task(connection.lost.wait())
            await asyncio.wait((ending, lost), return_when=asyncio.FIRST_COMPLETED)
            gone = lost.done() and not ending.done()
            for task in (ending, lost):
                task.cancel()
            if gone:
                raise GatewayError(connection.reason)
        finally:
            await connection.close()


def decoded(messages: Sequence[Message], options: WatchOptions, truth: Mapping[Name, Shown]) -> Arrivals:
    """Read messages as rows of the site's tags; what cannot be read is counted, with some examples."""
    rows: defaultdict[Name, list[tuple[int, Any, int]]] = defaultdict(list)
    came: defaultdict[Name, list[int]] = defaultdict(list)
    others, examples = 0, list[str]()
    for at, topic, payload in messages:
        try:
            found = list(_readings(at, topic, json.loads(payload), options))
        except (ValueError, LookupError, TypeError) as error:
            others += 1
            examples += [f"{topic}: {error!r}: {payload[:200].decode(errors='replace')}"][: 5 - len(examples)]
            continue
        for name, time_, value, code in found:
            shown = truth.get(name)
            if shown is None:
                others += 1
                examples += [f"{topic}: {'/'.join(name)} is no tag of the site"][: 5 - len(examples)]
                continue
            rows[name].append((time_, _held(value, shown.tag.kind), code))
            came[name].append(at)
    columns = {name: Rows.of(truth[name].tag.kind, each, came[name]) for name, each in rows.items()}
    return Arrivals(columns, (), others, tuple(examples))


def _readings(at: int, topic: str, body: Any, options: WatchOptions) -> Iterator[tuple[Name, int, Any, int]]:
    """Give device and tag, time, value and quality of each reading in a message. Raises ValueError, LookupError."""
    for entry in _path(body, options.readings) if options.readings else [body]:
        device = str(_at(topic, entry, options.device))
        when = at if options.time is None else _time(_at(topic, entry, options.time))
        if options.tag == "keys":
            found = {key: value for key, value in _path(entry, options.value).items() if not isinstance(value, dict)}
        else:
            found = {str(_at(topic, entry, options.tag)): _at(topic, entry, options.value)}
        told = None if options.quality is None else _at(topic, entry, options.quality)
        for tag, value in found.items():
            yield (device, tag), when, value, _quality(told, value)


def _at(topic: str, entry: Any, where: str) -> Any:
    if where.startswith("="):
        return where[1:]
    word, _, number = where.partition(" ")
    if word == "topic" and number.isdigit():
        return topic.split("/")[int(number) - 1]
    return _path(entry, where)


def _path(entry: Any, path: str) -> Any:
    for key in path.split(".") if path != "." else ():
        entry = entry[int(key)] if isinstance(entry, list) else entry[key]
    return entry


def _time(told: Any) -> int:
    """Read a time; a number is in s, ms, us or ns, as its size says."""
    if isinstance(told, str) and not told.replace(".", "", 1).isdigit():
        return moment(told)
    number = float(told) if isinstance(told, str) and "." in told else told if isinstance(told, float) else int(told)
    for unit, below in ((10**9, 10**11), (10**6, 10**14), (10**3, 10**17), (1, 10**20)):
        if abs(number) < below:
            return round(number * unit)
    raise ValueError(f"{told} is no time")


def _quality(told: Any, value: Any) -> int:
    """Read a quality: a StatusCode, an OPC DA quality (192 is good), a word, or true and false."""
    if told is None:
        return q.BAD_NO_DATA if value is None else q.GOOD
    if isinstance(told, str):
        code = _WORDS.get(told.lower(), CODES.get(told.lower()))
        told = int(told, 0) if code is None else code
    elif isinstance(told, bool):
        told = q.GOOD if told else q.BAD
    elif 0 <= told < 256:
        told = q.GOOD if told >= 192 or (told == 0 and value is not None) else q.UNCERTAIN if told >= 64 else q.BAD
    return int(told) if value is not None or told >= q.BAD else q.BAD_NO_DATA


def _held(value: Any, kind: Kind) -> Any:
    """Give the value as its tag holds it; as nothing where that cannot be."""
    try:
        match kind:
            case Kind.TEXT:
                return str(value)
            case Kind.BOOL:
                return value if isinstance(value, bool) else BOOLS[str(value).lower().removesuffix(".0")]
            case Kind.FLOAT:
                return float(value)
            case _:
                return kind.dtype.type(value if isinstance(value, int) else int(str(value).removesuffix(".0")))
    except (ValueError, KeyError, OverflowError, TypeError):
        return None
