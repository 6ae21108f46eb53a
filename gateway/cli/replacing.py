"""How commands write over a file that somebody keeps: as a whole or not at all, with the rights it had."""

from __future__ import annotations

from pathlib import Path


def replace(file: Path, content: bytes, like: Path | None = None) -> None:
    """Write a file; a new one gets the rights of `like`, where that is there. Raises OSError."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_bytes(content)
    model = file if file.exists() else like
    if model is not None and model.exists():
        fresh.chmod(model.stat().st_mode)
    fresh.replace(file)
