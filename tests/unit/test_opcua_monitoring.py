"""What a group's keys become in a request for a monitored item."""

from __future__ import annotations

from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_to_binary, struct_from_binary

from drivers.opcua import wire
from drivers.opcua.driver import wish_of
from drivers.opcua.items import create_request
from drivers.opcua.spec import OpcuaDevice
from gateway.model import Group


def request_of(**keys: Any) -> ua.MonitoredItemCreateRequest:
    """Give the request as the protocol library reads it."""
    device = OpcuaDevice.model_validate({"interval": "1 s", **keys})
    wish = wish_of(device, Group("d", "g", 10**9, 0, (), device))
    assert wish is not None
    identified = nodeid_to_binary(ua.NodeId("a", 2))
    asked = create_request(identified, wire.VALUE, 7, wish, wish.filter())
    made = struct_from_binary(ua.MonitoredItemCreateRequest, Buffer(asked))
    assert (made.ItemToMonitor.NodeId, made.ItemToMonitor.AttributeId) == (ua.NodeId("a", 2), ua.AttributeIds.Value)
    assert made.MonitoringMode == ua.MonitoringMode.Reporting
    assert made.RequestedParameters.ClientHandle == 7
    return made


@pytest.mark.parametrize(
    ("keys", "sampling", "queue", "oldest"),
    [
        ({}, 1000.0, 2, True),
        ({"sampling_interval": "100 ms"}, 100.0, 20, True),  # twice what it can see between two sendings
        ({"sampling_interval": "100 ms", "publishing_interval": "500 ms"}, 100.0, 10, True),
        ({"sampling_interval": "0 s"}, 0.0, 10, True),
        ({"queue_size": 77, "discard": "newest"}, 1000.0, 77, False),
    ],
)
def test_sampling_queue_and_what_gives_way(keys: dict[str, Any], sampling: float, queue: int, oldest: bool) -> None:
    asked = request_of(**keys).RequestedParameters
    assert (asked.SamplingInterval, asked.QueueSize, asked.DiscardOldest) == (sampling, queue, oldest)


@pytest.mark.parametrize(
    ("keys", "trigger", "kind", "size"),
    [
        ({"trigger": "status"}, ua.DataChangeTrigger.Status, 0, 0.0),
        ({"trigger": "timestamp"}, ua.DataChangeTrigger.StatusValueTimestamp, 0, 0.0),
        ({"server_deadband": 0.5}, ua.DataChangeTrigger.StatusValue, 1, 0.5),
        ({"server_deadband": "2 %", "trigger": "timestamp"}, ua.DataChangeTrigger.StatusValueTimestamp, 2, 2.0),
    ],
)
def test_what_counts_as_a_change(keys: dict[str, Any], trigger: ua.DataChangeTrigger, kind: int, size: float) -> None:
    asked = request_of(**keys).RequestedParameters.Filter
    assert (asked.Trigger, asked.DeadbandType, asked.DeadbandValue) == (trigger, kind, size)
