"""`plantbridge ingest`: the cloud side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ingest(
    cloud: Annotated[Path, typer.Argument(help="The cloud file: broker and store.", metavar="CLOUD.yaml")],
) -> None:
    """Take in what gateways publish, and store it; the broker is told so only when the store has committed.

    Ends in order on SIGTERM or Ctrl-C: what has arrived is stored, the broker keeps the rest for the next start.

    Example: plantbridge ingest /etc/plantbridge/cloud.yaml
    """
    from gateway import ingest as cloud_side
    from gateway.config import load_cloud
    from gateway.log import configure
    from gateway.loop import run_until_signal

    loaded = load_cloud(cloud)
    configure(loaded.log)
    run_until_signal(lambda stop: cloud_side.run(loaded, stop))
