"""From the tree of one device's tags to gateway.model.Tag: names, addresses, and rules between a tag's keys.

A tag that its address makes several of (an array) becomes as many Tags, named with the driver's suffix. A 64-bit
integer with a scale or offset is held as float64: the scaled value is no whole number any more, and beyond 2^53 the
last digits are rounded; without them it stays exact. A deadband in percent is of max - min, and needs both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from gateway.config.advice import advise, is_device_habit, is_float, scaled_float, smells
from gateway.config.document import Mapping as Tree
from gateway.config.files import Files
from gateway.config.messages import Piece, check, hint_for, keys_of, shown
from gateway.config.models import STRUCTURE
from gateway.config.references import Missing, Referenced
from gateway.contracts import DriverSpec, Resolved
from gateway.model import Group, Kind, Tag, Where, split_by_kind
from gateway.options import DeviceOptions, GroupOptions, InventoryOptions, LinkOptions, TagOptions, WriteRule

Path = tuple[str | int, ...]

FASTEST: Final = 1_000_000
"""ns; a scan interval below a millisecond is a slip of the unit."""

_PERCENT: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
_IN_TOPIC: Final = re.compile(r"[/+#\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Level:
    """A link's driver and its models; `elsewhere` says of every key whose it is."""

    spec: DriverSpec
    elsewhere: Mapping[str, str]

    @classmethod
    def of(cls, spec: DriverSpec) -> Level:
        elsewhere = dict.fromkeys(keys_of(InventoryOptions), "a device's inventory")
        levels: tuple[tuple[Any, tuple[str, ...], str], ...] = (
            (spec.link, STRUCTURE["link"], "a link"),
            (spec.device, STRUCTURE["device"], "a device"),
            (spec.groups, STRUCTURE["group"], "a device or a group"),
            (spec.tag, (), "a tag"),
        )
        for model, apart, whose in levels:
            elsewhere.update(dict.fromkeys((*keys_of(model), *apart), whose))
        return cls(spec, elsewhere)


def wanted_keys(value: Any, keys: str) -> tuple[str, str]:
    """Give reason and hint where keys were expected and something else is there."""
    if value is None or value in ({}, []):
        return "this key is empty", f"give it {keys}, indented below it, or remove it"
    hint = hint_for(value)
    if isinstance(value, str) and re.match(r"[\w-]+:\S", value):
        hint = hint or "a key needs a blank after its colon"
    return f"expected {keys}, got {shown(value)}", hint


def check_name(name: str, what: str, mark: Where, path: Path, files: Files, *, blanks: bool = False) -> None:
    """A name must fit into topics and full names such as DEVICE/TAG."""
    wrong = _IN_TOPIC.search(name)
    if wrong:
        files.report(mark, path, f"a {what}'s name cannot hold {wrong[0]!r}", "use letters, digits, - _ .")
    elif not name:
        files.report(mark, path, f"a {what}'s name cannot be empty")
    elif name != name.strip() or (not blanks and any(letter.isspace() for letter in name)):
        files.report(mark, path, f"a {what}'s name cannot hold blanks", "use - or _")
    elif len(name) > 128:
        files.report(mark, path, f"a {what}'s name has at most 128 characters", "shorten it")


def _inherited(options: GroupOptions, device: GroupOptions) -> GroupOptions:
    """Give a group's keys with the device's in place of those that the group does not say."""
    keys = set(type(options).model_fields) & set(type(device).model_fields) - options.model_fields_set
    return options.model_copy(update={key: getattr(device, key) for key in keys})


class TagCompiler:
    """Compiles the tags of one device, group by group; remembers their names.

    Without the link's or the device's options (they are wrong, and reported) it works with made-up ones, to find what
    else is wrong.
    """

    def __init__(
        self, device: str, level: Level, link: LinkOptions | None, options: DeviceOptions | None, files: Files
    ) -> None:
        spec: Any = level.spec
        self.device, self.level, self.files = device, level, files
        self.certain = link is not None and options is not None
        self.link = link if link is not None else spec.link.model_construct()
        self.options = options if options is not None else spec.device.model_construct()
        self.names: dict[str, Any] = {}
        self.device_deadband: float | str | None = None
        self.deadband: float | str | None = None  # of the group that is being compiled
        self.max_silence = 0.0
        self.interval = 0  # ns; of the group that is being compiled
        self.floats = 0
        self.odd: list[tuple[Rules, Tag]] = []  # floats with the scale of an integer

    def group(self, name: str, tree: Tree, path: Path, options: GroupOptions, device: GroupOptions) -> Group | None:
        """Compile one poll group; what it does not say, the device says."""

        def say(key: str) -> Any:
            return getattr(options if key in options.model_fields_set else device, key)

        interval, phase = round(say("interval") * 1e9), round(say("phase") * 1e9)
        self._timing(interval, phase, tree, path)
        self.interval = interval
        trees = tree["tags"]
        path = (*path, "tags")
        if isinstance(trees, Missing):
            return None
        if not isinstance(trees, Tree) or not trees:
            self.files.report(tree.value_at("tags"), path, *wanted_keys(trees, "tags by name"))
            return None
        given = "deadband" in options.model_fields_set
        self.deadband = self.usable_deadband(options, tree, path[:-1]) if given else self.device_deadband
        self.max_silence = say("max_silence") or 0.0
        tags: list[Tag] = []
        for each in trees:
            self._tag(each, trees, (*path, each), tags)
        tables = split_by_kind(self.device, name, tags)
        where = tree.value_at("interval") if "interval" in tree else tree.key_at("tags")
        return Group(self.device, name, interval, phase, tables, _inherited(options, device), where)

    def conclude(self) -> None:
        """Say what only shows when all tags of the device are there."""
        if not is_device_habit(len(self.odd), self.floats):
            for rules, tag in self.odd:
                rules.wrong(*scaled_float(tag), "warning")

    def usable_deadband(self, options: GroupOptions, tree: Tree, path: Path) -> float | str | None:
        """Give a device's or group's deadband for its tags; report one that suits none."""
        wrong = deadband_fault(options.deadband)
        if wrong and "deadband" in tree:
            self.files.report(tree.value_at("deadband"), (*path, "deadband"), *wrong)
        return None if wrong else options.deadband

    def _timing(self, interval: int, phase: int, tree: Tree, path: Path) -> None:
        if interval < FASTEST and "interval" in tree:
            reason = "the interval must be 1 ms or longer"
            self.files.report(tree.value_at("interval"), (*path, "interval"), reason, "is the unit right?")
        elif phase >= interval and "phase" in tree:
            reason = "the phase must be shorter than the interval"
            self.files.report(tree.value_at("phase"), (*path, "phase"), reason)

    def _tag(self, name: str, trees: Tree, path: Path, tags: list[Tag]) -> None:
        tree, (mark, value_mark) = trees[name], trees.at(name)
        if _IN_TOPIC.search(name) or not name or name != name.strip() or len(name) > 128:
            check_name(name, "tag", mark, path, self.files, blanks=True)
        if tree is None or tree == "":
            if not isinstance(tree, Missing):
                self.files.report(value_mark, path, "this tag is empty", "give it an address, or remove it")
            return
        if isinstance(tree, list | bool | float):
            self.files.report(value_mark, path, *wanted_keys(tree, "an address or keys such as {address: ...}"))
            return
        options = self._options(name, trees, path)
        if options is None:
            return
        rules = Rules(options, tree if isinstance(tree, Tree) else None, path, value_mark, self)
        for number, resolved in enumerate(self._resolve(options, trees, name, path)):
            tag = rules.tag(name + resolved.suffix, resolved, mark)
            if number == 0:
                rules.advise(tag, self.interval)
            if tag.name in self.names:
                first = self.names[tag.name]
                hint = f"first in {first.file}:{first.line}; tag names are unique in a device"
                self.files.report(mark, path, f"there is another tag {tag.name} in this device", hint)
            self.names.setdefault(tag.name, mark)
            tags.append(tag)

    def _options(self, name: str, trees: Tree, path: Path) -> TagOptions | None:
        """Validate one tag's keys; most are right, and told so in one call."""
        tree, mark, model = trees[name], trees.key_at(name), self.level.spec.tag
        if not isinstance(tree, Tree):
            try:
                return model.model_validate(tree)
            except ValidationError:
                tree = _long_form(name, trees)
        return check(model, Piece(tree, path, mark, (), self.level.elsewhere), self.files)[0]

    def _resolve(self, options: TagOptions, trees: Tree, name: str, path: Path) -> Sequence[Resolved]:
        """Have the driver read the address; its complaint is a problem at the address."""
        try:
            return self.level.spec.resolve(options, self.options, self.link)
        except ValueError as error:
            address, mark = trees[name], trees.value_at(name)
            if isinstance(address, Tree) and "address" in address:
                address, mark, path = address["address"], address.value_at("address"), (*path, "address")
            if isinstance(address, Missing):
                return ()
            reason = str(error)
            if isinstance(address, Referenced):
                reason = f"the address that {address.written} stands for cannot be used"
            self.files.report(mark, path, reason, hint_for(options.address))
        except Exception:
            if self.certain:
                raise
            # Made-up options: what follows from them is not the integrator's mistake.
        return ()


def _long_form(name: str, trees: Tree) -> Tree:
    """Give the long form of a tag that is written as its address alone."""
    tree = Tree(trees.key_at(name).file, trees.start)
    tree.put("address", trees[name], trees, name)
    return tree


def deadband_fault(given: float | str | None) -> tuple[str, str] | None:
    """Say what is wrong with a deadband, whatever the tag."""
    if isinstance(given, str) and not _PERCENT.fullmatch(given):
        return f"expected a number or a text such as 2 %, got {given!r}", hint_for(given)
    if isinstance(given, int | float) and not (math.isfinite(given) and given >= 0):
        return f"expected a deadband of 0 or more, got {given:g}", ""
    return None


@dataclass(slots=True)
class Rules:
    """What ties a tag's keys together, and to what its address resolved to."""

    options: TagOptions
    tree: Tree | None  # None for the short form
    path: Path
    mark: Where
    of: TagCompiler

    def tag(self, name: str, resolved: Resolved, place: Where) -> Tag:
        """Make the Tag; report what does not fit together."""
        options, kind = self.options, resolved.kind
        if self.tree is not None:
            self._fit_together(kind)
        if resolved.occurrence:
            self._is_reported_always()
        if kind in (Kind.INT, Kind.UINT) and (options.scale != 1 or options.offset != 0):
            kind = Kind.FLOAT
        return Tag(
            name=name,
            address=options.address,
            source=resolved.source,
            kind=kind,
            type=resolved.type,
            unit=options.unit,
            description=options.description,
            scale=options.scale,
            offset=options.offset,
            minimum=-math.inf if options.minimum is None else options.minimum,
            maximum=math.inf if options.maximum is None else options.maximum,
            out_of_range=options.out_of_range,
            deadband=math.nan if resolved.occurrence else self._deadband(kind),
            max_silence=0 if resolved.occurrence else round((options.max_silence or self.of.max_silence) * 1e9),
            not_available=options.not_available,
            states=tuple(options.states.items()),
            writable=WriteRule() if options.writable is True else options.writable,
            simulate=options.simulate,
            where=place,
        )

    def advise(self, tag: Tag, interval: int) -> None:
        """Warn of what is legal and unwise."""
        for key, reason, hint in advise(tag, interval, inherited=self.options.deadband is None):
            self.wrong(key, reason, hint, "warning")
        if is_float(tag):
            self.of.floats += 1
            if tag.scale != 1 and smells(tag):
                self.of.odd.append((self, tag))

    def wrong(self, key: str, reason: str, hint: str = "", severity: str = "error") -> None:
        """Report a problem of one key; of the tag where that key is not written."""
        mark, path = self.mark, self.path
        if self.tree is not None and key in self.tree:
            mark, path = self.tree.value_at(key), (*path, key)
        self.of.files.report(mark, path, reason, hint, severity)

    def _fit_together(self, kind: Kind) -> None:
        """Check keys that only make sense together, or only for numbers."""
        options = self.options
        assert self.tree is not None
        if kind in (Kind.TEXT, Kind.BOOL):
            what = "text" if kind is Kind.TEXT else "a yes/no value"
            for key in ("scale", "offset", "min", "max", "not_available"):
                if key in self.tree:
                    self.wrong(key, f"{key} belongs to numbers, this tag is {what}", f"remove {key}")
            if "states" in self.tree and kind is Kind.TEXT:
                self.wrong("states", "states names numbers, this tag is text", "remove states")
        for key, value in (("min", options.minimum), ("max", options.maximum)):
            if value is not None and not math.isfinite(value):
                self.wrong(key, f"expected a number that is not infinite, got {value}", f"leave {key} out")
        self._ordered("min", options.minimum, options.maximum)
        if isinstance(options.writable, WriteRule):
            self._ordered("writable", options.writable.minimum, options.writable.maximum)
        if options.scale == 0:
            self.wrong("scale", "a scale of 0 makes every value 0", "leave scale out, or give 1")

    def _is_reported_always(self) -> None:
        for key in ("deadband", "max_silence"):
            if self.tree is not None and key in self.tree:
                self.wrong(key, f"{key} belongs to values, this tag is of events: each is reported", f"remove {key}")

    def _ordered(self, key: str, low: float | None, high: float | None) -> None:
        if low is not None and high is not None and low > high:
            self.wrong(key, f"min {low:g} is greater than max {high:g}", "swap them")

    def _deadband(self, kind: Kind) -> float:
        """Give the deadband in engineering units: NaN for none; 0 for text and yes/no values that inherit one."""
        options = self.options
        given = options.deadband if options.deadband is not None else self.of.deadband
        if given is None:
            return math.nan
        if kind in (Kind.TEXT, Kind.BOOL):
            if options.deadband not in (None, 0):
                self.wrong("deadband", "only numbers have a deadband", "deadband: 0 reports every change")
            return 0.0
        wrong = deadband_fault(given)
        if wrong:
            self.wrong("deadband", *wrong)
        percent = _PERCENT.fullmatch(given) if isinstance(given, str) else None
        if percent is None:
            return 0.0 if isinstance(given, str) else float(given)
        low, high = options.minimum, options.maximum
        if low is None or high is None:
            missing = " and ".join(key for key, value in (("min", low), ("max", high)) if value is None)
            whose = "a" if options.deadband is not None else "the device's or group's"
            reason = (
                f"{whose} deadband of {percent[0].strip()} is of max - min, but {missing}"
                f" {'are' if ' ' in missing else 'is'} not given"
            )
            self.wrong("deadband", reason, f"add {missing}, or give the deadband as a number")
            return 0.0
        return float(percent[1]) / 100 * (high - low)
