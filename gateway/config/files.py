"""The YAML files of one loading: read once each, named for messages, and what was wrong with all of them together."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.config import document
from gateway.config.references import References
from gateway.errors import Problem
from gateway.model import Where


def shown(path: Path) -> str:
    """Name a file as a person at this prompt would: relative to the working directory where it lies below it."""
    absolute = Path(os.path.normpath(path.absolute()))
    try:
        return str(absolute.relative_to(Path.cwd()))
    except ValueError:
        return str(absolute)


@dataclass(slots=True)
class Files:
    """What has been read so far, and all problems found so far."""

    folder: Path  # of the site or cloud file
    references: References = field(default_factory=References)
    problems: list[Problem] = field(default_factory=list)
    read: dict[Path, Any] = field(default_factory=dict)
    sources: dict[Path, bytes] = field(default_factory=dict)  # the bytes of what was read, compressed
    names: list[str] = field(default_factory=list)  # of the files read, as messages show them
    instead: Mapping[Path, str] = field(default_factory=dict)  # texts that are not in their files yet, by resolved path

    def open(self, path: Path) -> Any:
        """Give a file's data; None where it is empty or cannot be read, which is then among the problems.

        Raises OSError where there is no such file, so that the caller can name the place that asked for it.
        """
        key = path.resolve()
        if key not in self.read:
            data = self.instead[key].encode() if key in self.instead else path.read_bytes()
            self.sources[key] = zlib.compress(data, 1)
            name = shown(path)
            self.names.append(name)
            text = document.text_of(data, name, self.problems)
            self.read[key] = None if text is None else document.parse(text, name, self.problems, self.references)
        return self.read[key]

    def report(
        self, mark: Where, path: tuple[str | int, ...], reason: str, hint: str = "", severity: str = "error"
    ) -> None:
        """Add a problem at a place; whatever a reference stands for is hidden."""
        hide = self.references.hide
        self.problems.append(
            Problem(mark.file, mark.line, mark.column, path_text(path), hide(reason), hide(hint), severity)
        )

    def found(self) -> list[Problem]:
        """All problems, each once, ordered by file (in order of reading), line and column.

        A mistake in a template is one problem, however many devices use it.
        """
        order = {name: index for index, name in enumerate(self.names)}
        seen: dict[tuple[str, int, int, str], Problem] = {}
        for problem in self.problems:
            seen.setdefault((problem.file, problem.line, problem.column, problem.reason), problem)
        return sorted(seen.values(), key=lambda at: (order.get(at.file, len(order)), at.line, at.column))


def path_text(path: tuple[str | int, ...]) -> str:
    """Write a path as people do: links.press-line.devices.press-1.tags.pressure, include[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
