"""Build the documentation's site; `make docs` runs this, and it fails on a link or an anchor that leads nowhere, and on
a sample that does not pass `plantbridge check` (docs/samples.py).

Pages lie beside what they describe: drivers/*/README.md, edge_deploy/README.md, docs/guide. mkdocs wants one folder,
so build/pages gets a symbolic link to each page, at the same path, and to each file that a page links to. Nothing is
copied, and links mean the same here and on a code host. Nothing is fetched: a page that would load something from
elsewhere when it is read is an error too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from samples import wrong

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = ROOT / "build/pages"
SITE: Final = ROOT / "build/site"
PLACES: Final = ("*.md", "docs/**/*.md", "docs/**/*.svg", "docs/site/*", "edge_deploy/**/*.md", "drivers/**/*.md")
LINK: Final = re.compile(r"\]\(([^)#\s:]+)[^)\s]*\)")
LOADED: Final = re.compile(
    r"<(?:script|img|iframe)[^>]*\ssrc=\"?(?:https?:)?//[^>]*>|<link[^>]*stylesheet[^>]*//[^>]*>"
)


def sources() -> Iterator[Path]:
    """Give every page, and every file that a page links to."""
    for place in PLACES:
        for page in ROOT.glob(place):
            yield page
            if page.suffix == ".md":
                targets = (page.parent / found for found in LINK.findall(page.read_text(encoding="utf-8")))
                yield from (target.resolve() for target in targets if target.is_file())


def stage() -> None:
    """Lay out build/pages anew, as links."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for source in set(sources()):
        link = PAGES / source.relative_to(ROOT)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)


def loaded() -> list[str]:
    """Name what the built pages would load from elsewhere."""
    return [
        f"{page.relative_to(SITE)}: {found}"
        for page in SITE.rglob("*.html")
        for found in LOADED.findall(page.read_text(encoding="utf-8"))
    ]


def main() -> int:
    if unsound := list(wrong()):
        sys.stderr.write("these samples do not pass check:\n" + "\n".join(unsound) + "\n")
        return 1
    stage()
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "docs/mkdocs.yml")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.writelines(
        line for line in built.stderr.splitlines(keepends=True) if not line.startswith(("INFO", "  - "))
    )
    if built.returncode:
        return built.returncode
    if found := loaded():
        sys.stderr.write("these pages load from elsewhere:\n" + "\n".join(found) + "\n")
        return 1
    sys.stdout.write(f"docs: {SITE / 'index.html'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
