"""`make bench`: run the measurements and print them in one table, with the machine's name.

Figures are CPU time unless they say otherwise. Machines differ and are shared: read the ratios, and compare two
figures only where they come from the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

PARTS: Final = (
    "config",
    "pipeline",
    "journal",
    "publish",
    "formats",
    "commands",
    "ingest",
    "fleet",
    "modbus",
    "opcua",
    "edge",
)


def processor() -> str:
    """Give the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"which of {', '.join(PARTS)}; all where none is named"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    wanted = parser.parse_args()
    unknown = set(wanted.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    rows: list[dict[str, Any]] = []
    for part in wanted.parts or PARTS:
        print(f"{part} …", file=sys.stderr, flush=True)
        rows += [{"part": part, **row} for row in import_module(f"bench.{part}").run()]
    machine = f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.platform()}"
    if wanted.json:
        print(json.dumps({"machine": machine, "rows": rows}, ensure_ascii=False, indent=1))
        return
    table = Table("part", "what", "measured", "unit", "goal", title=machine, title_justify="left")
    for row in rows:
        value = row["value"]
        text = f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"
        table.add_row(row["part"], row["name"], text, row["unit"], str(row.get("goal", "")))
    Console().print(table)


if __name__ == "__main__":
    main()
