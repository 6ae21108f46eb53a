"""References in text values: ${env:NAME} is an environment variable, ${file:PATH} the text of a file.

They keep secrets out of the YAML. A file's path is relative to the YAML file it is written in and may itself hold
${env:NAME}, as in ${file:${env:CREDENTIALS_DIRECTORY}/mqtt}; blanks and line ends around the file's text are dropped.
What they stand for is never shown: `References.hide` replaces it in messages by what was written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_REFERENCE: Final = re.compile(
    r"\$\{env:(?P<env>[^{}]*)\}"
    r"|\$\{file:(?P<file>(?:[^{}]|\$\{env:[^{}]*\})*)\}"
    r"|\$\{(?P<other>[^}]*)\}?"
)
LARGEST: Final = 65_536
"""Bytes of a file that a reference may take in."""


class Referenced(str):
    """A text with its references replaced. `written` is what stands in the file, and all that may be shown."""

    __slots__ = ("written",)
    written: str


class Missing(str):
    """What stands for a reference that could not be resolved; that has been reported, and nothing else need be."""

    __slots__ = ()


def written(text: str) -> str:
    """Give a text as it stands in the file."""
    return text.written if isinstance(text, Referenced) else text


Fault = tuple[str, str]
"""Reason and hint."""


class References:
    """Resolves references for one loading of a configuration, and remembers what must not be shown.

    Where the secrets are not needed (planning, simulating, a build server) those that are not there are warnings.
    """

    def __init__(self, *, needed: bool = True) -> None:
        self.severity = "error" if needed else "warning"
        self.secrets: dict[str, str] = {}  # what a reference stands for -> the reference
        self.files: list[Path] = []

    def resolve(self, text: str, file: str) -> tuple[Referenced | Missing, list[Fault]]:
        """Replace each reference in a text that stands in `file`; say what was wrong with them."""
        faults: list[Fault] = []

        def replaced(match: re.Match[str]) -> str:
            value, fault = self._one(match, file)
            if fault is not None:
                faults.append(fault)
            for secret in (value, value.strip()):
                if len(secret) >= 3:  # shorter ones occur everywhere by chance, and are no secrets
                    self.secrets[secret] = match[0]
            return value

        resolved = Referenced(_REFERENCE.sub(replaced, text))
        resolved.written = text
        return (Missing(), faults) if faults else (resolved, [])

    def _one(self, match: re.Match[str], file: str) -> tuple[str, Fault | None]:
        if match["env"] is not None:
            name = match["env"].strip()
            if name not in os.environ:
                return "", (
                    f"the environment variable {name} is not set",
                    f"set it, or write ${{file:PATH}}: {match[0]}",
                )
            return os.environ[name], None
        if match["file"] is None:
            return "", (f"{match[0]} is not a reference", "write ${env:NAME} or ${file:PATH}")
        inner, faults = self.resolve(match["file"].strip(), file)
        return ("", faults[0]) if faults else self._file(Path(file).parent / inner, match[0])

    def _file(self, path: Path, written: str) -> tuple[str, Fault | None]:
        try:
            with path.open("rb") as stream:
                data = stream.read(LARGEST + 1)
            if len(data) > LARGEST:
                return "", (f"the file of {written} is larger than {LARGEST} bytes", "give a file with one secret")
            value = data.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            return "", (f"the file of {written} is not UTF-8 text", "give a text file")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no such file name"
            return "", (f"the file of {written} cannot be read: {reason}", "paths are relative to this YAML file")
        self.files.append(path)
        return value, None

    def hide(self, text: str) -> str:
        """Replace in a message whatever a reference stands for by the reference."""
        for secret, written in sorted(self.secrets.items(), key=lambda item: -len(item[0])):
            if secret in text:
                text = text.replace(secret, written)
            elif (quoted := repr(secret)[1:-1]) in text:
                text = text.replace(quoted, written)
        return text
