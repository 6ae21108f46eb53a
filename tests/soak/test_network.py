"""The kernel's own faults between edge and broker: a queue of 64 kbit/s (tbf), packets dropped and refused (nftables).

Edge and simulator are in a network namespace of their own, everything else in another; a pair of virtual Ethernet
devices is the line. Only root may do this, and not everywhere: where it is not permitted the tests are skipped.
"""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import prove
from tests.e2e.plant import CONNECTED, plant, wait_until
from tests.servers import need
from tests.soak.conftest import asked

SEED = asked("SEED", 20261122)
SECONDS = asked("NETWORK_SECONDS", 60)
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
HERE, THERE = "10.213.77.1", "10.213.77.2"  # they exist in the two namespaces only


@dataclass(frozen=True)
class Line:
    """The edge's end of the line."""

    name: str

    @property
    def within(self) -> tuple[str, ...]:
        return (need("ip", "/usr/sbin/ip"), "netns", "exec", self.name)

    def do(self, *command: str) -> None:
        subprocess.run([*self.within, *command], check=True, capture_output=True, timeout=30)

    def drop(self, rule: str) -> None:
        """Have packets at the edge's end treated by a rule, both ways."""
        for way in ("in", "out"):
            self.do("nft", "add", "rule", "inet", "faults", way, *rule.split())

    def heal(self) -> None:
        for way in ("in", "out"):
            self.do("nft", "flush", "chain", "inet", "faults", way)


@pytest.fixture
def line() -> Iterator[Line]:
    """Put this process into a fresh network namespace, and make another for the edge."""
    ip, name = need("ip", "/usr/sbin/ip"), f"plantbridge-{os.getpid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(NEW_NETWORK):
        os.close(home)
        pytest.skip("network namespaces are not permitted here (root may make them)")
    made = Line(name)
    try:
        commands = [
            "link set lo up", f"netns add {name}", f"link add near type veth peer name far netns {name}",
            f"addr add {HERE}/30 dev near", "link set near up",
        ]  # fmt: skip
        inside = [f"addr add {THERE}/30 dev far", "link set far up", "link set lo up"]
        tables = [
            "add table inet faults",
            "add chain inet faults in { type filter hook input priority 0 ; }",
            "add chain inet faults out { type filter hook output priority 0 ; }",
        ]
        try:
            for command in commands:
                subprocess.run([ip, *command.split()], check=True, capture_output=True, timeout=30)
            for command in inside:
                made.do(ip, *command.split())
            for command in tables:
                made.do("nft", *command.split())
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a line between namespaces cannot be made here: {getattr(error, 'stderr', error)!r}")
        yield made
    finally:
        subprocess.run([ip, "netns", "del", name], check=False, capture_output=True)
        libc.setns(home, NEW_NETWORK)
        os.close(home)


@pytest.mark.timeout(SECONDS + 400)
def test_64_kbit_per_second_with_packets_lost_and_silent_cuts_costs_nothing(tmp_path: Path, line: Line) -> None:
    moments = random.Random(SEED)
    with plant(tmp_path, host=HERE, within=line.within, keep_alive="4 s", ack_timeout="4 s") as made:
        wait_until(lambda: made.edge.said(CONNECTED), "the first session")
        line.do(
            "tc", "qdisc", "add", "dev", "far", "root", "tbf", "rate", "64kbit", "burst", "3000", "latency", "400ms"
        )
        cuts = 0
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            line.drop(f"ip daddr {HERE} numgen random mod 100 < 5 drop")
            time.sleep(moments.uniform(2.0, 6.0))
            line.drop(
                moments.choice(
                    [
                        "meta l4proto tcp ip daddr 10.213.77.0/30 drop",
                        "meta l4proto tcp ip daddr 10.213.77.0/30 reject with tcp reset",
                    ]
                )
            )
            time.sleep(moments.uniform(1.0, 9.0))
            line.heal()
            cuts += 1
            time.sleep(moments.uniform(1.0, 4.0))
        line.do("tc", "qdisc", "del", "dev", "far", "root")
        evidence = prove(made)
        lost = made.edge.said("The peer is not there")
        print(f"seed {SEED}: {cuts} cuts, {lost} sessions lost, {evidence.count} readings stored")
