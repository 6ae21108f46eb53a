"""Counters of the running daemon, in a registry of their own (no globals), served as Prometheus text.

Label children are looked up once, where the thing they count is made, not at each count.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase


class Metrics:
    """All metrics of one daemon. Names carry units; every counter is monotonic over the life of the process."""

    def __init__(self) -> None:
        registry = CollectorRegistry(auto_describe=True)
        self.registry = registry
        device = ("device", "group")
        self.scans = Counter("plantbridge_scans", "Scans that were executed", device, registry=registry)
        self.skipped = Counter("plantbridge_scans_skipped", "Scan instants that passed", device, registry=registry)
        self.readings = Counter("plantbridge_readings", "Readings", ("device", "quality"), registry=registry)
        self.link_up = Gauge("plantbridge_link_up", "1 where a device of it answers", ("link",), registry=registry)
        self.device_up = Gauge("plantbridge_device_up", "1 where it answers", ("device",), registry=registry)
        self.listed = Gauge("plantbridge_devices_listed", "Production equipment in the inventory", registry=registry)
        self.answering = Gauge(
            "plantbridge_devices_answering", "Of the equipment in the inventory, what answers", registry=registry
        )
        self.scan_seconds = Gauge("plantbridge_scan_seconds", "Last scan's duration", device, registry=registry)
        self.appended = Counter("plantbridge_journal_appended_readings", "Readings journalled", registry=registry)
        self.depth = Gauge("plantbridge_journal_depth_records", "Records kept", registry=registry)
        self.bytes = Gauge("plantbridge_journal_bytes", "Bytes of records kept", registry=registry)
        self.dropped = Counter("plantbridge_journal_dropped_readings", "Readings lost", ("reason",), registry=registry)
        self.clock_known = Gauge("plantbridge_clock_known", "0 where readings wait for the time", registry=registry)
        self.clock_known.set(1)
        self.clock_steps = Counter("plantbridge_clock_steps", "Times that the clock was set", registry=registry)
        self.clock_step = Gauge("plantbridge_clock_step_seconds", "By how much it was set last", registry=registry)
        publisher = ("publisher",)
        self.published = Counter("plantbridge_published_messages", "Messages sent", publisher, registry=registry)
        self.published_bytes = Counter(
            "plantbridge_published_bytes", "Payload bytes sent", publisher, registry=registry
        )
        self.acknowledged = Counter(
            "plantbridge_acknowledged_readings", "Readings the peer took over", publisher, registry=registry
        )
        self.rejected = Counter("plantbridge_rejected_messages", "Messages refused", publisher, registry=registry)
        self.thinned = Counter(
            "plantbridge_thinned_readings", "Readings left out to keep a budget", publisher, registry=registry
        )
        self.budget_spent = Gauge(
            "plantbridge_budget_spent_bytes", "Bytes of the budget used in this period", publisher, registry=registry
        )
        self.publisher_up = Gauge("plantbridge_publisher_up", "1 where connected", publisher, registry=registry)
        self.latency = Histogram(
            "plantbridge_latency_seconds",
            "Source time of a message's oldest reading to its acknowledgement",
            publisher,
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600),
            registry=registry,
        )
        self.commands = Counter(
            "plantbridge_commands", "Commands by what became of them", ("publisher", "outcome"), registry=registry
        )
        self.refused = Counter(
            "plantbridge_commands_refused", "Refused commands", ("publisher", "cause"), registry=registry
        )
        self.command_seconds = Histogram(
            "plantbridge_command_seconds",
            "A command's arrival to its result",
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=registry,
        )
        self.isolated = Gauge("plantbridge_isolated", "1 where all writes are stopped", registry=registry)
        self.audit_failures = Counter(
            "plantbridge_audit_failures", "Lines that the audit log could not take", registry=registry
        )
        self.stored = Counter("plantbridge_stored_readings", "Readings the store committed", registry=registry)
        self.undeclared = Gauge(
            "plantbridge_undeclared_records",
            "Journal records that were acknowledged and are not in the store",
            ["gateway"],
            registry=registry,
        )
        self.duplicates = Counter("plantbridge_duplicate_readings", "Readings stored before", registry=registry)
        self.dead_letters = Counter("plantbridge_dead_letters", "Messages set aside", registry=registry)

    def forget(self, **labels: str) -> None:
        """Forget what was counted under these labels: a device, a link or a publisher that is gone."""
        for collector in list(vars(self).values()):
            if isinstance(collector, MetricWrapperBase) and {*labels} <= {*collector._labelnames}:
                collector.remove_by_labels(labels)

    def text(self) -> bytes:
        """Give the Prometheus exposition text."""
        return generate_latest(self.registry)
