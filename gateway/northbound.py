"""The publishers of a site, made of its options: sink, encoder or dialogue, selection, desk. Part of the composition.

Making a dialogue reads what the last one of that name remembered: the last one has ended before.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.clock import Clock
from gateway.contracts import Encoder, Sink
from gateway.control import Access, Control
from gateway.conversation import Conversation, Desk
from gateway.dialects.dialogue import Dialogue
from gateway.dialects.ingest import Accounted
from gateway.dialects.native import Native
from gateway.encoders import dialogue_for, encoder_for
from gateway.encoders.current import Current
from gateway.errors import ConfigError, Problem
from gateway.health import Health
from gateway.journal import Journal
from gateway.memory import FileMemory, Memory
from gateway.metrics import Metrics
from gateway.model import Batch
from gateway.publisher import Publisher
from gateway.ranges import Range
from gateway.selection import Selection
from gateway.sinks import dialogue_sink, sink_for
from gateway.site import Site
from gateway.statements import Summary

if TYPE_CHECKING:
    from gateway.options import PublisherOptions


@dataclass(frozen=True, slots=True)
class Ground:
    """What all publishers of a gateway stand on."""

    journal: Journal
    metrics: Metrics
    health: Health
    current: Current
    control: Control | None
    clock: Clock | None = None


@dataclass(frozen=True, slots=True)
class Voices:
    """What some publishers may tell (not in `selections`: everything), and the conversations of those that hold one."""

    selections: Mapping[str, Selection]
    dialogues: Mapping[str, Dialogue]


def voices(site: Site, names: Iterable[str], memory: Callable[[Path], Memory] = FileMemory) -> Voices:
    """Make selections and dialogues of these publishers. Raises ConfigError."""
    every = site.tables
    chosen = {name: site.publishers[name] for name in names}
    selections: dict[str, Selection] = {}
    dialogues: dict[str, Dialogue] = {}
    problems: list[Problem] = []
    for name, options in chosen.items():
        kept = memory(site.data / "publishers" / f"{name}.json")
        try:
            if options.tags is not None:
                selections[name] = Selection(options.tags, every)
            tables = selections[name].tables(every) if name in selections else every
            dialogue = dialogue_for(name, options, site.gateway, tables, kept, may_command(site, options))
        except ValueError as error:
            problems.append(Problem("", 0, 0, f"publish.{name}", str(error)))
            continue
        if dialogue is not None:
            dialogues[name] = dialogue
    if problems:
        raise ConfigError(problems)
    return Voices(selections, dialogues)


def may_command(site: Site, options: PublisherOptions) -> bool:
    """Whether values may be set through this publisher."""
    return site.commands is not None and options.commands == "on"


def publisher(ground: Ground, site: Site, name: str, made: Voices) -> Publisher:
    """Make one publisher."""
    options, control, gateway = site.publishers[name], ground.control, site.gateway
    selection, talk, newest = made.selections.get(name), None, ground.current.batches
    desk = _desk(site, name, control, selection) if control is not None and may_command(site, options) else None
    speaker: list[Publisher] = []  # the one that is made here, for what it hears
    sink: Sink
    encoder: Encoder
    if (dialogue := made.dialogues.get(name)) is not None:
        sink = speaking = dialogue_sink(name, options, gateway, dialogue)
        encoder = dialogue
        if selection is not None:
            newest = functools.partial(_selected, ground.current, selection)
        talk = Conversation(name, dialogue, speaking, newest, desk)
    elif desk is not None or options.format == "columns":
        prefix = options.prefix.replace("{gateway}", gateway)
        native = Native(gateway, prefix, time.time_ns) if desk is not None else None
        speech: Accounted | Native
        if options.format == "columns":
            summary = functools.partial(_summary, site, name, ground.journal)
            hears = functools.partial(_stored, speaker) if options.acknowledge == "store" else None
            whose = (gateway, ground.journal.id)
            speech = Accounted(prefix, whose, summary, options.key, native, hears)
        else:
            assert native is not None
            speech = native
        sink = hearing = sink_for(name, options, gateway, speech.subscriptions())
        encoder = encoder_for(options, gateway, ground.journal.id, site.places)
        talk = Conversation(name, speech, hearing, newest, desk)
    else:
        sink = sink_for(name, options, gateway)
        encoder = encoder_for(options, gateway, ground.journal.id, site.places)
    fresh = Publisher(
        name, options, gateway, ground.journal, sink, encoder, ground.metrics, ground.health,
        site.data / "dead-letters",
        conversation=talk, selection=selection, tables=site.tables if options.widen > 1 else (),
        memory=FileMemory(site.data / "publishers" / f"{name}.budget.json") if options.budget else None,
        dates=ground.clock,
    )  # fmt: skip
    speaker.append(fresh)
    return fresh


def _summary(site: Site, name: str, journal: Journal) -> Summary:
    """Say what a publisher of the native format has settled of the journal."""
    options = site.publishers[name]
    complete = options.tags is None and options.widen == 1
    totals, waiting = journal.totals(), tuple(journal.pending(name))
    return Summary(
        site.gateway, journal.id, name, time.time_ns(), journal.committed, totals.appended, waiting, complete,
        __version__, options.acknowledge == "store",
    )  # fmt: skip


def _stored(speaker: Sequence[Publisher], runs: Sequence[Range]) -> None:
    speaker[0].stored(runs)


def _desk(site: Site, name: str, control: Control, selection: Selection | None) -> Desk:
    """Give the place where a publisher's commands go."""
    options = site.publishers[name]
    own = options.format in ("columns", "json")
    # several publishers of one broker hear the same command, where the topic is our own
    scope = " ".join((*options.url, options.prefix.replace("{gateway}", site.gateway))) if own else name
    origin = selection.origin if selection is not None else lambda device, tag: (device, tag)
    access = Access(name, scope, own or options.format in ("sparkplug", "opcua-json", "aws"), origin)
    largest = site.commands.largest if site.commands is not None else 0
    return Desk(
        functools.partial(control.execute, access),
        functools.partial(control.refused, access),
        functools.partial(control.answers, access),
        largest,
    )


def _selected(current: Current, selection: Selection) -> list[Batch]:
    """Give the newest readings that a publisher may tell."""
    return selection.batches(current.batches())
