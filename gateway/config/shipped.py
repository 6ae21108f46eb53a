"""Where the shipped data lies: sample site, device templates, JSON schema.

In an installed wheel it is gateway/shipped; in a checkout the folder config/ beside gateway/.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import gateway


@cache
def shipped() -> Path:
    """Give the folder with sample.yaml, cloud.yaml, templates/ and schema/."""
    package = Path(gateway.__file__).parent
    installed = package / "shipped"
    return installed if installed.is_dir() else package.parent / "config"
