"""What can go wrong, as a tree. A library's exceptions become these in one place per driver, sink or store.

    GatewayError
    ├ ConfigError       problems in the YAML, all listed together; exit code 2 before any I/O
    ├ DeviceError       (device, status)
    │ ├ NotConnected    the link's session is gone: every device on the link is affected
    │ │ └ ProtocolError the peer spoke nonsense: close, then as NotConnected
    │ └ NoAnswer        this device is silent, the link itself may be well
    ├ SinkUnavailable   back off, go on from the cursor
    ├ StoreUnavailable  do not acknowledge, try again
    └ JournalError      the process ends; the service manager restarts it

Not exceptions: a bad tag, a rejected message, a full journal, a damaged record, a skipped scan. Those are data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway import quality


class GatewayError(Exception):
    """The root. Its text is one sentence for a person: what happened, where, what to do."""

    exit_code = 1  # of a process that it ends

    def spoken(self) -> str:
        """Say it on the standard error of a command."""
        return f"plantbridge: {self}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding in a configuration file. `line` and `column` count from 1; 0 where there is no place.

    `path` is where in the document ("links.line1.devices.press.tags.pressure"), `reason` what is wrong,
    `hint` what to do about it.
    """

    file: str
    line: int
    column: int
    path: str
    reason: str
    hint: str = ""
    severity: str = "error"  # or "warning"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = f"{place}: {self.path + ': ' if self.path else ''}{self.reason}"
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(GatewayError):
    """The configuration cannot be used. Holds every problem found, not just the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def spoken(self) -> str:
        """List the problems, and count them."""
        count = len(self.problems)
        return f"{self}\n{count} problem{'s' if count != 1 else ''} in the configuration."


class DeviceError(GatewayError):
    """A device or its link cannot be read now. `status` becomes the quality of its tags' Bad rows."""

    default_status = quality.BAD_COMMUNICATION_ERROR

    def __init__(self, reason: str, device: str = "", status: int | None = None) -> None:
        self.device = device
        self.status = self.default_status if status is None else status
        super().__init__(f"{device}: {reason}" if device else reason)


class NotConnected(DeviceError):
    """There is no session on this link any more (or none could be made)."""

    default_status = quality.BAD_NOT_CONNECTED


class ProtocolError(NotConnected):
    """The peer's answer makes no sense; the session cannot be trusted and is closed."""

    default_status = quality.BAD_DECODING_ERROR


class NoAnswer(DeviceError):
    """One device on the link did not answer within its timeout; its neighbours are not concerned."""

    default_status = quality.BAD_NO_COMMUNICATION


class SinkUnavailable(GatewayError):
    """The peer cannot take messages now; nothing is lost, the journal keeps them."""


class StoreUnavailable(GatewayError):
    """The store cannot take data now; the broker is not acknowledged and keeps them.

    `permanent` marks data the store will never take: retrying is in vain, the message goes to the dead letters.
    """

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        self.permanent = permanent
        super().__init__(reason)


class JournalError(GatewayError):
    """The journal's disk failed in a way that cannot be survived: end, and be restarted."""


def first_line(error: BaseException) -> str:
    """Give what a library says went wrong, without what it adds in further lines."""
    return str(error).strip().split("\n", 1)[0]
