"""The configurations that ran, as the files were: so that one can see what changed, and go back.

    DATA/versions/12/version.json   {"number": 12, "time": ns, "by": "reload", "outcome": "applied", "reason": "",
                                     "files": {"/etc/plantbridge/site.yaml": "1-site.yaml", ...}}
    DATA/versions/12/1-site.yaml    byte by byte what was read

- The first file is the site file; then come fragments and templates. Files of secrets are never among them, and
  what is shipped with the gateway neither. Somebody may have typed a password into the YAML: so only the gateway's user
  may read here.
- A version appears as a whole (a rename). The last KEPT stay. Equal files make no new version.
- Outcomes: "applied", "on probation", "rolled back", "replaced while on probation". The newest of the first two runs.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import orjson

KEPT: Final = 20
DIRECTORY: Final = "versions"  # below the data directory
APPLIED: Final = "applied"
PROBATION: Final = "on probation"
ROLLED_BACK: Final = "rolled back"
REPLACED: Final = "replaced while on probation"
RAN: Final = (APPLIED, PROBATION)
"""Outcomes of what runs, where nothing newer does."""


@dataclass(frozen=True, slots=True)
class Version:
    """One configuration. `files` maps what was read to what it is called here; `time` in ns."""

    number: int
    time: int
    by: str  # start, reload, SIGHUP, watch
    outcome: str
    reason: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


class Versions:
    """The history of one gateway."""

    def __init__(self, data: Path) -> None:
        self.directory = data / DIRECTORY

    def all(self) -> list[Version]:
        """Give what is kept, oldest first; what cannot be read is left out. Raises OSError."""
        found = []
        for place in self.directory.iterdir() if self.directory.is_dir() else ():
            if place.name.isdigit():
                try:
                    found.append(Version(**orjson.loads((place / "version.json").read_bytes())))
                except (FileNotFoundError, ValueError, TypeError):
                    continue
        return sorted(found, key=lambda version: version.number)

    def running(self) -> Version | None:
        """Give the one that runs, or ran last."""
        return next((version for version in reversed(self.all()) if version.outcome in RAN), None)

    def texts(self, version: Version) -> dict[Path, bytes]:
        """Give a version's files. Raises OSError."""
        place = self.directory / str(version.number)
        return {Path(path): (place / name).read_bytes() for path, name in version.files.items()}

    def record(self, sources: Mapping[Path, bytes], by: str, outcome: str, time: int) -> Version:
        """Keep files (compressed) as the newest version, unless they are the running one's. Raises OSError."""
        texts = {path: zlib.decompress(data) for path, data in sources.items()}
        history = self.all()
        last = next((version for version in reversed(history) if version.outcome in RAN), None)
        if last is not None and last.outcome == APPLIED and self._same(last, texts):
            return last
        number = max((version.number for version in history), default=0) + 1
        files = {str(path): f"{index}-{path.name}" for index, path in enumerate(texts, 1)}
        version = Version(number, time, by, outcome, files=files)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        fresh = self.directory / ".new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for path, data in texts.items():
            (fresh / files[str(path)]).write_bytes(data)
        (fresh / "version.json").write_bytes(orjson.dumps(asdict(version), option=orjson.OPT_INDENT_2))
        fresh.replace(self.directory / str(number))
        for old in history[: max(0, len(history) + 1 - KEPT)]:
            shutil.rmtree(self.directory / str(old.number), ignore_errors=True)
        return version

    def settle(self, version: Version, outcome: str, reason: str = "") -> None:
        """Say what became of a version. Raises OSError."""
        place = self.directory / str(version.number) / "version.json"
        fresh = place.with_suffix(".new")
        fresh.write_bytes(
            orjson.dumps(asdict(replace(version, outcome=outcome, reason=reason)), option=orjson.OPT_INDENT_2)
        )
        os.replace(fresh, place)

    def _same(self, version: Version, texts: Mapping[Path, bytes]) -> bool:
        try:
            return self.texts(version) == dict(texts)
        except OSError:
            return False
