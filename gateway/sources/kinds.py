"""Which of a gateway's messages a stream brings; the others are retained, and come over the MQTT session."""

from typing import Final

KINDS: Final = ("columns", "gaps")
