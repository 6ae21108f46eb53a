"""What the drivers will ask of the devices, computed without connecting to anything.

Opening a driver imports its protocol library; that is why loading a site does not do it, and `check` and `plan` do.
A link is overbooked where its scans need more time than there is: the sum over its poll groups of scan time by
interval is above 1. The times are the drivers' estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from gateway.contracts import PlannedRequest
from gateway.errors import ConfigError, Problem
from gateway.model import Group, Link
from gateway.names import driver_spec


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """The requests of one poll group's scan."""

    group: Group
    requests: tuple[PlannedRequest, ...]

    @property
    def tags(self) -> int:
        return sum(len(table) for table in self.group.tables)

    @property
    def seconds(self) -> float:
        """Estimated time of a scan."""
        return sum(request.seconds for request in self.requests)

    @property
    def load(self) -> float:
        """Share of the link's time that these scans take; 1 is all of it."""
        return self.seconds / (self.group.interval / 1e9)


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """The plans of one link's poll groups."""

    link: Link
    groups: tuple[GroupPlan, ...]

    @property
    def load(self) -> float:
        return sum(group.load for group in self.groups)


@runtime_checkable
class Advising(Protocol):
    """A driver that can say of its link what no key alone shows."""

    def advice(self) -> Sequence[tuple[str, str, str, str]]:
        """Give findings: device, tag (or nothing), what is odd, and a hint."""
        ...


def plan_links(links: Sequence[Link]) -> tuple[list[LinkPlan], list[Problem]]:
    """Plan every poll group; give the plans, and what the drivers have to say against it, as problems."""
    plans: list[LinkPlan] = []
    problems: list[Problem] = []
    for link in links:
        plan, found = _plan_link(link)
        problems += found
        plans.append(plan)
    return plans, problems


def _plan_link(link: Link) -> tuple[LinkPlan, list[Problem]]:
    place = (link.where.file, link.where.line, link.where.column, f"links.{link.name}")
    try:
        driver = driver_spec(link.driver).open(link)
    except ImportError as error:
        reason = f"the driver {link.driver} cannot be used here: {error}"
        return LinkPlan(link, ()), [Problem(*place, reason, "is it fully installed?")]
    except ConfigError as error:
        return LinkPlan(link, ()), list(error.problems)
    groups: list[GroupPlan] = []
    problems: list[Problem] = []
    for group in (group for device in link.devices for group in device.groups):
        try:
            groups.append(GroupPlan(group, tuple(driver.plan(group.tables).requests())))
        except ConfigError as error:
            where = f"links.{link.name}.devices.{group.device}"
            problems += [replace(each, path=f"{where}: {each.path}" if each.path else where) for each in error.problems]
        except Exception as error:  # noqa: BLE001  a third party's driver may raise anything
            path = f"links.{link.name}.devices.{group.device}.groups.{group.name}"
            reason = f"a defect in the driver {link.driver}: it cannot plan this group: {error!r}"
            problems.append(Problem(*place[:3], path, reason, "leave the group out, and report it to its maker"))
    if isinstance(driver, Advising):
        problems += [_odd(link, *each) for each in driver.advice()]
    plan = LinkPlan(link, tuple(groups))
    late = [group for group in groups if group.load > 1]
    problems += [_late(link, group) for group in late]
    if plan.load > 1 and not late:
        reason = f"the link is overbooked: its scans need about {plan.load:.0%} of the time there is"
        hint = "longer intervals, fewer tags, or a second link; see plantbridge plan"
        problems.append(Problem(*place, reason, hint, "warning"))
    return plan, problems


def _odd(link: Link, device: str, tag: str, finding: str, hint: str) -> Problem:
    """Put a driver's finding at its tag, or at the link."""
    where, path = link.where, f"links.{link.name}.devices.{device}"
    if tag:
        tables = (table for table in link.tables if table.device == device)
        found = ((each.where, table.group) for table in tables for each in table.tags if each.name == tag)
        where, group = next(found, (where, "default"))
        path += f".tags.{tag}" if group == "default" else f".groups.{group}.tags.{tag}"
    return Problem(where.file, where.line, where.column, path, finding, hint, "warning")


def _late(link: Link, plan: GroupPlan) -> Problem:
    """Say of a poll group that its own scan takes longer than its interval."""
    group = plan.group
    where = group.where if group.where.line else link.where
    path = f"links.{link.name}.devices.{group.device}" + (f".groups.{group.name}" if group.name != "default" else "")
    reason = f"a scan takes about {plan.seconds:.3g} s, and the interval is {group.interval / 1e9:.3g} s"
    hint = "a longer interval, or fewer tags; see plantbridge plan"
    return Problem(where.file, where.line, where.column, path, reason, hint, "warning")
