"""Quality of a reading: an OPC UA StatusCode (Part 4, 7.39), 32 bits, kept exact.

The top two bits say Good (00), Uncertain (01) or Bad (10); the next 14 the reason; the rest are flags.
The same code means the same for every driver, every format and every store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the command line's help needs the names only
    import numpy as np
    from numpy.typing import NDArray

GOOD: Final = 0x00000000
GOOD_CLAMPED: Final = 0x00300000
UNCERTAIN: Final = 0x40000000
UNCERTAIN_LAST_USABLE_VALUE: Final = 0x40900000
UNCERTAIN_ENGINEERING_UNITS_EXCEEDED: Final = 0x40940000
BAD: Final = 0x80000000
BAD_INTERNAL_ERROR: Final = 0x80020000
BAD_COMMUNICATION_ERROR: Final = 0x80050000
BAD_DECODING_ERROR: Final = 0x80070000
BAD_TIMEOUT: Final = 0x800A0000
BAD_WAITING_FOR_INITIAL_DATA: Final = 0x80320000
BAD_NODE_ID_INVALID: Final = 0x80330000
BAD_NODE_ID_UNKNOWN: Final = 0x80340000
BAD_OUT_OF_RANGE: Final = 0x803C0000
BAD_NOT_SUPPORTED: Final = 0x803D0000
BAD_NO_MATCH: Final = 0x806F0000
BAD_TYPE_MISMATCH: Final = 0x80740000
BAD_CONFIGURATION_ERROR: Final = 0x80890000
BAD_NOT_CONNECTED: Final = 0x808A0000
BAD_DEVICE_FAILURE: Final = 0x808B0000
BAD_SENSOR_FAILURE: Final = 0x808C0000
BAD_OUT_OF_SERVICE: Final = 0x808D0000
BAD_NOT_READABLE: Final = 0x803A0000
BAD_NOT_WRITABLE: Final = 0x803B0000
BAD_NO_COMMUNICATION: Final = 0x80310000
BAD_RESOURCE_UNAVAILABLE: Final = 0x80040000
BAD_NO_DATA: Final = 0x809B0000

SEVERITY: Final = 0xC0000000
_REASON: Final = 0xFFFF0000

_NAMES: Final = {
    code: "".join(word.capitalize() for word in name.split("_"))
    for name, code in list(globals().items())
    if name.isupper() and isinstance(code, int) and not name.startswith("_") and name != "SEVERITY"
}


def name(code: int) -> str:
    """Give the code's name ("BadTimeout"), or its hexadecimal form with its severity where it is not one of ours."""
    known = _NAMES.get(code & _REASON)
    if known:
        return known
    return f"{severity(code)} 0x{code:08X}"


def severity(code: int) -> str:
    """Give "Good", "Uncertain" or "Bad"."""
    return ("Good", "Uncertain", "Bad", "Bad")[(code & SEVERITY) >> 30]


def is_good(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Mark the rows whose severity is Good."""
    good: NDArray[np.bool_] = (codes & SEVERITY) == 0
    return good


def is_bad(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Mark the rows whose severity is Bad."""
    bad: NDArray[np.bool_] = codes >= BAD
    return bad
