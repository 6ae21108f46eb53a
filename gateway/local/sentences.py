"""The daemon's account of one tag (`explain`) as sentences, from the definition to the last PUBACK. Pure.

The first thing on the way that is wrong explains the rest, so it is said first. What is right is said too where it
looks wrong from outside: a value that stands still inside its deadband is not published again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

from gateway import quality as q

LATE: Final = 3  # intervals without a scan
HUNG: Final = 5.0  # s that a scan may be late besides

_MEANING: Final = {
    q.BAD_CONFIGURATION_ERROR: "The device answers others: {note}.",
    q.BAD_DECODING_ERROR: "Bytes came, and they hold no value of this type.",
    q.BAD_TYPE_MISMATCH: "The server sends another type than the tag's: {note}.",
    q.BAD_NODE_ID_UNKNOWN: "The server has no such node.",
    q.BAD_NO_MATCH: "The server has no node at this browse path.",
    q.BAD_NODE_ID_INVALID: "The server does not understand the node id.",
    q.BAD_NOT_READABLE: "The server does not let this user read the node.",
    q.BAD_TIMEOUT: "The device answered others, but not this request.",
    q.BAD_DEVICE_FAILURE: "The device says that it failed at this request (exception 04).",
    q.BAD_RESOURCE_UNAVAILABLE: "The device says that it is busy.",
    q.BAD_NO_DATA: "The device says itself that it has no value.",
    q.BAD_WAITING_FOR_INITIAL_DATA: "Nothing has come for it yet.",
}


@dataclass(slots=True)
class Account:
    """What is said of a tag: sentences, the next commands, and whether the tag is well."""

    said: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)
    well: bool = True

    def wrong(self, sentence: str, *commands: str) -> None:
        """Say what is wrong."""
        self.said.append(sentence)
        self.next += [each for each in commands if each not in self.next]
        self.well = False


def account(found: dict[str, Any], site: str) -> Account:
    """Say why a tag does not update, or why its value is what it is."""
    told = Account()
    if _reached(found, site, told) and _asked(found, site, told):
        _became(found, site, told)
        _reported(found, told)
    _sent(found, site, told)
    if not told.next:
        told.next.append(f"plantbridge tail {site} {found['tag']}")
    return told


def _reached(found: dict[str, Any], site: str, told: Account) -> bool:
    """Say whether link and device are there."""
    link, device, name = found["link"], found["device"], found["tag"]
    probe = f"plantbridge probe {site} {device['device']}"
    if found["down"]:
        since = f" since {link['since']}" if link.get("since") else ""
        why = _ended(link.get("reason") or found["down"])
        told.wrong(
            f"{name} does not update: its link {link['link']} is down{since}: {why}"
            " All tags of the link are Bad until it is back. The gateway tries again by itself.",
            probe, f"plantbridge status {site}",
        )  # fmt: skip
        return False
    if device["up"] is False or device["declared"]:
        told.wrong(
            f"{name} does not update: the device {device['device']} does not answer since {device.get('since', '?')}:"
            f" {_ended(device.get('reason', ''))} The link itself is up. All tags of the device are Bad"
            " until it answers.",
            probe, f"plantbridge status {site}",
        )  # fmt: skip
        return False
    return True


def _asked(found: dict[str, Any], site: str, told: Account) -> bool:
    """Say whether it was asked for, and something came."""
    scan, answer, name = found["scan"], found["answer"], found["tag"]
    if not scan["began"]:
        told.wrong(
            f"{name} has no value yet: its group {scan['group']} was not read so far.", f"plantbridge status {site}"
        )
        return False
    since = (found["now"] - scan["began"]) / 1e9
    if not scan["subscribed"] and since > LATE * scan["interval"] / 1e9 + HUNG:
        why = found["journal"]["trouble"] or "Another device may take the link."
        told.wrong(
            f"{name} does not update: the last scan of its group {scan['group']} was {since:.0f} s ago, and one is due"
            f" every {scan['interval'] / 1e9:g} s. {why}",
            f"plantbridge status {site}", f"plantbridge plan {site}",
        )  # fmt: skip
        return False
    if answer is None:
        told.said.append(f"{name} was last read {since:.1f} s ago; its driver keeps no answers to show.")
        return False
    if answer["value"] is None and answer["quality"] >= q.BAD:
        meaning = _MEANING.get(answer["quality"], "The device or the driver gives no value: {note}.")
        sentence = meaning.format(note=answer["note"] or q.name(answer["quality"]))
        where = found["definition"]["where"]
        told.wrong(
            f"{name} is Bad ({q.name(answer['quality'])}). {sentence} It is asked for in {answer['request']}."
            f" Compare the address at {where} with the device's manual.",
            f"plantbridge probe {site} {found['device']['device']}",
        )
        return False
    return True


def _became(found: dict[str, Any], site: str, told: Account) -> None:
    """Say what the raw value becomes, and why."""
    definition, answer, normal, name = found["definition"], found["answer"], found["normalised"], found["tag"]
    unit = f" {definition['unit']}" if definition.get("unit") else ""
    if normal is None:
        told.said.append(f"{name} was answered; the driver does not keep this kind of value to show it.")
        return
    shown = _number(normal["value"])
    if normal["quality"] == q.GOOD:
        told.said.append(f"{name} is read and Good: {shown}{unit}.")
    elif normal["value"] is None:
        why = "a raw value that means 'no value'" if normal["quality"] == q.BAD_NO_DATA else "outside its limits"
        told.wrong(
            f"{name} is Bad ({q.name(normal['quality'])}): the raw value {_number(answer['value'])} is {why}, see"
            f" {definition['where']}.",
            f"plantbridge probe {site} {found['device']['device']}",
        )
    else:
        told.wrong(
            f"{name} is {shown}{unit} and {q.name(normal['quality'])}: {_outside(definition, normal['value'])}",
            f"plantbridge probe {site} {found['device']['device']}",
        )
    if answer["guess"]:
        told.wrong(
            f"The value itself {answer['guess']}, at {definition['where']}.",
            f"plantbridge probe {site} {found['device']['device']}",
        )


def _outside(definition: dict[str, Any], value: Any) -> str:
    low, high = definition.get("min", -math.inf), definition.get("max", math.inf)
    if isinstance(value, int | float) and not low <= value <= high and "range" not in definition.get("said", ()):
        return f"it lies outside min..max = {low:g}..{high:g}. Either the plant is there, or scale or limits are wrong."
    if definition.get("states"):
        return "it is none of the states that are named in the site file."
    return "the device or server itself marks it so."


def _reported(found: dict[str, Any], told: Account) -> None:
    """Say whether report by exception holds it back."""
    passed, definition = found["passed"], found["definition"]
    reported, held = passed["reported"], passed["held"]
    if passed["always"] or definition["deadband"] is None:
        told.said.append("It has no deadband: every new reading is journalled.")
        return
    if held is None or reported is None:
        told.said.append("Its last reading passed report by exception and was journalled.")
        return
    unit = f" {definition['unit']}" if definition.get("unit") else ""
    ago = (found["now"] - reported["time"]) / 1e9
    silence = definition["max_silence"] / 1e9
    again = (
        f"it is reported again after {silence:g} s without a report (max_silence)"
        if silence
        else "max_silence is not set, so it may stay silent for ever"
    )
    told.said.append(
        f"What is stored is {_number(reported['value'])}{unit}, reported {ago:.1f} s ago. Since then the value moved"
        f" by no more than its deadband of {definition['deadband']:g}{unit}, so nothing new is sent, as"
        f" configured; {again}."
    )


def _sent(found: dict[str, Any], site: str, told: Account) -> None:
    """Say how far it got to the brokers."""
    sequence = found["passed"]["sequence"]
    if found["journal"]["trouble"]:
        told.wrong(f"In the journal: {found['journal']['trouble']}.", f"plantbridge journal {site}")
    if found.get("clock", {}).get("trouble"):
        told.wrong(f"There is no date for it: {found['clock']['trouble']}.", f"plantbridge status {site}")
    for each in found["publishers"]:
        name = each["publisher"]
        if not each["shows"]:
            told.said.append(f"Publisher {name} does not tell this tag: its `tags` leave it out.")
        elif not each["up"]:
            told.wrong(
                f"Publisher {name} is not sending: {_ended(each['reason'])} What is read waits in the journal.",
                f"plantbridge status {site}",
            )
        elif sequence and each["waits"]:
            told.said.append(
                f"Publisher {name} has sent all of it: the broker took record {each['taken']}. Record {sequence}, the"
                " last with this tag, stays in the journal until the broker has lived on for a while (settle)."
                if each.get("taken", 0) >= sequence
                else f"Publisher {name} is connected; record {sequence}, the last with this tag, is on its way."
            )
        elif sequence:
            told.said.append(f"Publisher {name} has sent all of it: the broker took record {sequence} or a later one.")


def _ended(reason: str) -> str:
    """End a reason as a sentence."""
    return reason if reason.endswith(("?", ".", "!")) else f"{reason}."


def _number(value: Any) -> str:
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.7g}" if isinstance(value, float) else str(value)
