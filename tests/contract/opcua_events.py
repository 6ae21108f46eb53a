"""Alarms for the tests: a server that raises conditions, and lets them be asked for again."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from asyncua import ua
from asyncua.common.event_objects import AlarmCondition, BaseEvent
from opcua_server import Plant

V = ua.VariantType


def moment(tick: int) -> datetime.datetime:
    """Give a time of the tests, and as ns with `nanoseconds`."""
    return datetime.datetime(2026, 3, 4, 5, 6, 7, tick, tzinfo=datetime.UTC)


def nanoseconds(tick: int) -> int:
    return round(moment(0).timestamp()) * 10**9 + tick * 1000


class Alarms:
    """The conditions of one server; what is retained is told again by ConditionRefresh."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.retained: dict[str, AlarmCondition] = {}
        self.refreshes = 0

    async def before_refresh(self) -> None:
        """For tests of servers that are slow, or refuse."""

    async def start(self) -> Alarms:
        server = self.plant.server
        await server.nodes.server.set_event_notifier([ua.EventNotifier.SubscribeToEvents])
        server.link_method(server.get_node(ua.ObjectIds.ConditionType_ConditionRefresh), self._refresh)
        return self

    async def _refresh(self, _parent: Any, _subscription: ua.Variant) -> list[Any]:
        await self.before_refresh()
        self.refreshes += 1
        await self.event(ua.ObjectIds.RefreshStartEventType)
        for condition in list(self.retained.values()):
            await self.send(condition)
        await self.event(ua.ObjectIds.RefreshEndEventType)
        return []

    async def raise_alarm(
        self,
        name: str,
        tick: int,
        *,
        active: bool = True,
        acked: bool = False,
        severity: int = 500,
        quality: int = 0,
        without: dict[str, ua.StatusCode] | None = None,
    ) -> None:
        made = AlarmCondition(message=f"{name} is {'active' if active else 'gone'}", severity=severity)
        made.SourceName, made.ConditionName = "Boiler", name
        made.add_property("ActiveState/Id", active, V.Boolean)
        made.add_property("AckedState/Id", acked, V.Boolean)
        made.add_property("Quality", ua.StatusCode(quality), V.StatusCode)
        for field, status in (without or {}).items():
            made.add_property(field, status, V.StatusCode)
        self._date(made, tick)
        if active or not acked:
            self.retained[name] = made
        else:
            self.retained.pop(name, None)
        await self.send(made)

    async def event(self, kind: int = ua.ObjectIds.BaseEventType, tick: int = 0, severity: int = 500) -> None:
        made = BaseEvent(message="said", severity=severity)
        made.EventType = ua.NodeId(kind)
        self._date(made, tick)
        await self.send(made)

    def _date(self, event: Any, tick: int) -> None:
        event.EventId = uuid.uuid4().bytes
        event.add_property("EventId", event.EventId, V.ByteString)
        event.add_property("Time", moment(tick), V.DateTime)
        event.add_property("ReceiveTime", moment(tick), V.DateTime)

    async def send(self, event: Any) -> None:
        event.emitting_node = ua.NodeId(ua.ObjectIds.Server)
        await self.plant.server.iserver.isession.subscription_service.trigger_event(event)
