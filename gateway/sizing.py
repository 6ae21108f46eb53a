"""How large one publisher's messages may be, how much of the journal is read for one, and when records go one by one.

- The largest message is the least of `max_message`, what the valve lets through at once, what the peer names in this
  session, and what the ends of sessions have taught.
- A session that ends over a message (mosquitto ends it over one it refuses, AWS IoT over one too large) is followed by
  a careful one: a record at a time, each settled before the next, so that the guilty one does not hold up the others.
  Where nothing goes through session after session, messages are made smaller.
- A peer that takes few messages a second gets small pieces of the journal: each is to be through before the next
  trouble of the line.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from gateway.contracts import Peer
from gateway.dialects import Limits
from gateway.encoders import Sized
from gateway.extract import Extract
from gateway.valve import Valve

if TYPE_CHECKING:
    from gateway.options import PublisherOptions

SMALLEST: Final = 4096
_BARREN: Final = 3  # sessions without any acknowledgement after which messages are made smaller
_SLOW: Final = 10  # messages a second, at most, of a peer that gets small pieces of the journal
_FEW: Final = 1024  # bytes of such a piece
_CAREFUL: Final = 50  # records that go one by one after a session that ended over a message


class Sizing:
    """The sizes of one publisher's messages, over any number of sessions."""

    def __init__(
        self, options: PublisherOptions, limits: Limits | None, extract: Extract, valve: Valve, peer: Peer, log: Any
    ) -> None:
        """Prepare. `log` is the publisher's."""
        self._extract = extract
        self._valve = valve
        self._peer = peer
        self.most = _most(options, limits)  # bytes of a payload beyond which it is not worth sending
        self.careful = 0  # records that are still to be sent one by one
        self._slow = limits is not None and limits.messages <= _SLOW
        self._barren = 0  # sessions in a row that ended over their first message
        self._largest = options.max_message
        self._shrink(valve.largest)
        self._fitting = self._largest  # what this session's peer takes of that
        self._log = log

    @property
    def piece(self) -> int:
        """How many bytes of records to read at once; 1 gives a single record."""
        if self.careful:
            return 1
        if self._slow:
            return _FEW
        return self._valve.piece(int(min(self._fitting, max(SMALLEST, self._valve.second))))

    def begin(self) -> None:
        """Take note of what the peer of a session that begins now takes."""
        self._fitting = min(self._largest, self._peer.largest or self._largest)
        if isinstance(self._extract.encoder, Sized):
            self._extract.encoder.max_message = self._fitting

    def learn(self, *, sent: int, settled: int, refused: int) -> None:
        """Draw conclusions from the end of a session in which so many messages were sent, answered and refused."""
        barren = not self._peer.connected and sent > 0 and not settled
        if barren or refused:
            self.careful = _CAREFUL
        self._barren = self._barren + 1 if barren else 0
        if self._peer.overrun:
            self.careful, self._barren = _CAREFUL, _BARREN
        if self._barren >= _BARREN and self._largest > SMALLEST:
            self._barren = 0
            self._shrink(self._largest / 2)
            self._log.warning(
                "The peer ends sessions over messages, it seems too large ones: trying smaller. Set max_message if that"
                " helps.",
                max_message=self._largest,
            )

    def settled(self) -> None:
        """Take note that a record which went by itself is done with."""
        self.careful = max(0, self.careful - 1)

    def _shrink(self, most: float) -> None:
        """Make messages no larger than this."""
        self._largest = max(SMALLEST, int(min(self._largest, most)))
        if isinstance(self._extract.encoder, Sized):
            self._extract.encoder.max_message = min(self._extract.encoder.max_message, self._largest)


def _most(options: PublisherOptions, limits: Limits | None) -> float:
    """Give the largest payload that the peer takes, where the platform or the site file names one."""
    named = float(options.max_message) if "max_message" in options.model_fields_set else inf
    platform = float(limits.payload) if limits is not None and limits.payload < options.max_message else inf
    return min(named, platform)
