"""What can be told of a site file without checking it: where its data is, and which files it is made of.

For those who want back what ran before, because these files are wrong.
"""

from __future__ import annotations

from pathlib import Path

from gateway.config.document import Mapping as Tree
from gateway.config.files import Files
from gateway.config.merge import include
from gateway.config.models import SiteOptions
from gateway.config.references import References
from gateway.errors import GatewayError


def data_directory(path: Path) -> Path:
    """Give the data directory that a site file names. Raises GatewayError where that cannot be told."""
    tree = _tree(path, Files(path.parent, References(needed=False)))
    if tree is None:
        raise GatewayError(f"{path} cannot be read: say where the data is, with --data")
    data = tree.get("data", SiteOptions.model_fields["data"].default)
    if not isinstance(data, str):
        raise GatewayError(f"{path} does not say where the data is: say it with --data")
    return (path.parent / data).absolute()


def files_of(path: Path) -> list[Path]:
    """Give the site file and the files that it includes, as far as they can be read."""
    files = Files(path.parent, References(needed=False))
    tree = _tree(path, files)
    if tree is not None:
        include(tree, path, tree.new(), files)
    return list(files.read) or [path.resolve()]


def _tree(path: Path, files: Files) -> Tree | None:
    try:
        tree = files.open(path)
    except OSError:
        return None
    return tree if isinstance(tree, Tree) else None
