"""JSON objects that show who wrote them: HMAC-SHA-256 with a key that gateway and cloud share.

A sealed message is the object with one last member, "signature": 64 hex digits over the bytes of the object without it.
A receiver without a key takes sealed and plain messages alike; one with a key takes only what its key has signed.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final

import orjson

_MARK: Final = b',"signature":"'


def seal(body: dict[str, Any], key: str | None) -> bytes:
    """Write `body`, which must not be empty; signed where there is a key."""
    plain = orjson.dumps(body)
    return plain if key is None else plain[:-1] + _MARK + _signature(plain, key) + b'"}'


def unseal(payload: bytes, key: str | None) -> dict[str, Any]:
    """Read what `seal` wrote. Raises ValueError where it is no JSON object, or not signed with this key."""
    head, mark, tail = payload.rpartition(_MARK)
    plain = head + b"}" if mark else payload
    if key is not None:
        if not mark:
            raise ValueError("it is not signed, and a key is configured here")
        if not hmac.compare_digest(_signature(plain, key) + b'"}', tail):
            raise ValueError("its signature is not by the key that is configured here")
    body = orjson.loads(plain)
    if not isinstance(body, dict):
        raise ValueError("not a JSON object")
    return body


def _signature(plain: bytes, key: str) -> bytes:
    return hmac.new(key.encode(), plain, hashlib.sha256).hexdigest().encode()
