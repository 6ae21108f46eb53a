"""The demonstration's live table: devices, a few values as the store has them, and how far the readings are."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.language import say, word
from gateway.testbed.processes import Samples, Usage, total

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gateway.config import Site

SHOWN: Final = (
    ("press-1", "oil-pressure"), ("boiler-1", "steam-pressure"), ("press-1", "state"), ("press-2", "parts"),
    ("boiler-1", "burner-state"), ("water", "ph"), ("press-2", "material"), ("boiler-2", "flame"),
    ("press-1", "slide-position"), ("press-2", "tonnage"), ("boiler-1", "steam-total"), ("press-1", "order-number"),
    ("boiler-2", "steam-temperature"), ("water", "conductivity"),
)  # fmt: skip
"""The tags whose last values are shown, as stored; as many of them as the terminal has room for."""

OTHER_LINES: Final = 16  # of the picture, without the rows of tags

_LATEST: Final = """
    SELECT device, tag, value, text, unit, status, epoch_ns(time) FROM latest
    WHERE device || '/' || tag IN (SELECT unnest(string_split($names, ',')))
"""


@dataclass(slots=True)
class Screen:
    """What is shown, and what it was a moment ago (for rates)."""

    site: Site
    database: Path
    started: float = field(default_factory=time.monotonic)
    _readings: dict[str, float] = field(default_factory=dict)
    _at: float = 0.0
    _cpu: float = 0.0
    _values: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)

    def draw(self, edge: Samples, ingest: Samples, usage: Usage, height: int) -> RenderableType:
        """Give the whole picture at this moment, in at most `height` lines."""
        from rich.console import Group

        self._look_up()
        now = time.monotonic()
        since, self._at = now - self._at if self._at else 0.0, now
        account = self._account(edge, ingest, usage, since)
        return Group(self._devices(edge, since), "", account, "", self._tags(max(1, height - OTHER_LINES)))

    def _devices(self, edge: Samples, since: float) -> RenderableType:
        from rich.box import SIMPLE

        from gateway.cli.shown import table

        numbers = ("scans", "skipped", "readings", "readings/s")
        title = say(f"PlantBridge, site {self.site.gateway}")
        looks = {"expand": True, "box": SIMPLE, "show_edge": False}
        made = table(
            "device", "link", "state", "scans", "skipped", "readings", "readings/s",
            right=numbers, title=title, **looks,
        )  # fmt: skip
        for link in self.site.links:
            for device in link.devices:
                readings = total(edge, "plantbridge_readings_total", device.name)
                before = self._readings.get(device.name, readings)
                rate = (readings - before) / since if since else 0.0
                self._readings[device.name] = readings
                up = edge.get(("plantbridge_device_up", (device.name,)))
                states = {
                    None: f"[dim]{word('starting')}",
                    0.0: f"[red]{word('silent')}",
                    1.0: f"[green]{word('up')}",
                }
                state = states.get(up, "?")
                scans = total(edge, "plantbridge_scans_total", device.name)
                skipped = total(edge, "plantbridge_scans_skipped_total", device.name)
                made.add_row(
                    device.name, link.name, state, f"{scans:,.0f}", f"{skipped:,.0f}", f"{readings:,.0f}", f"{rate:.0f}"
                )
        return made

    def _tags(self, most: int) -> RenderableType:
        from rich.box import SIMPLE

        from gateway.cli.shown import table

        looks = {"expand": True, "box": SIMPLE, "show_edge": False}
        made = table("tag", "last value stored", "unit", "quality", "age", right=("last value stored", "age"), **looks)
        now = time.time()
        for device, tag in [name for name in SHOWN if name in self._values][:most]:
            value, text, unit, status, at = self._values[device, tag]
            shown = str(text) if text is not None else f"{value:,.6g}" if value is not None else "-"
            color = "green" if status.startswith("Good") else "yellow" if status.startswith("Unc") else "red"
            age = f"{max(0.0, now - at / 1e9):.1f} s"
            made.add_row(f"{device}/{tag}", shown, unit, f"[{color}]{status}", age)
        return made

    def _account(self, edge: Samples, ingest: Samples, usage: Usage, since: float) -> RenderableType:
        from rich.box import SIMPLE

        from gateway.cli.shown import table

        cpu = (usage.cpu_seconds - self._cpu) / since if since else 0.0
        self._cpu = usage.cpu_seconds
        numbers = {
            "seconds": f"{time.monotonic() - self.started:.0f}",
            "appended": f"{total(edge, 'plantbridge_journal_appended_readings_total'):,.0f}",
            "journal depth": f"{total(edge, 'plantbridge_journal_depth_records'):,.0f}",
            "acknowledged": f"{total(edge, 'plantbridge_acknowledged_readings_total'):,.0f}",
            "stored": f"{total(ingest, 'plantbridge_stored_readings_total'):,.0f}",
            "edge": f"{cpu:.1%} CPU, {usage.rss_mb:.0f} MB",
        }
        made = table(*numbers, right=numbers, expand=True, box=SIMPLE, show_edge=False)
        made.add_row(*numbers.values())
        return made

    def _look_up(self) -> None:
        """Ask the store, through ingest, for the last values; keep the old ones where it does not answer."""
        from gateway.errors import StoreUnavailable
        from gateway.stores.inquiry import Refused, read

        names = ",".join("/".join(name) for name in SHOWN)
        with contextlib.suppress(OSError, EOFError, Refused, StoreUnavailable):
            with read(self.database, _LATEST, {"names": names}) as stream:
                found = stream.read_all()
                columns = [found.child(column).to_pylist() for column in range(found.schema.n_fields)]
            for device, tag, *rest in zip(*columns, strict=True):
                self._values[device, tag] = tuple(rest)
