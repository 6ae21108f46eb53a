"""The edge daemon's process: it runs a site that another process has read, checked and compiled.

Reading YAML takes 25 MB that running does not need: parser, models of every driver, command line, and what the memory
allocator keeps of the work. So `plantbridge run` compiles the site, writes it to an anonymous file, and becomes this
module by `exec`: the same process id for the service manager, none of the memory. Nothing here imports gateway.config
or gateway.cli. Where `exec` would be another process (Windows), the site runs where it was compiled.

The site travels as a pickle between two runs of one program by one user, in a file that has no name.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import gateway
from gateway.folded import dump
from gateway.site import Site


def become(site: Site) -> None:
    """Turn this process into the daemon of `site`. Returns only where that cannot be, after the daemon's end."""
    if os.name != "posix":
        run(site)
        return
    with tempfile.TemporaryFile() as file:
        dump(site, file)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        os.set_inheritable(file.fileno(), True)
        # one arena: the daemon's threads allocate little and seldom, and each arena would keep memory of its own
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *_flags(), "-m", __name__, str(file.fileno()), str(site.files[0])])


def _flags() -> list[str]:
    """Keep the working directory off the module path, unless the package itself was found there; and code small."""
    root = Path(gateway.__file__).parent.parent
    # without the columns of instructions, that only carets in tracebacks need, code takes 2 MB less
    return ["-X", "no_debug_ranges", *([] if sys.path and Path(sys.path[0]) == root else ["-P"])]


def run(site: Site) -> None:
    """Run the daemon until it is asked to end. Raises GatewayError."""
    from gateway import app
    from gateway.log import configure
    from gateway.loop import run_until_signal

    threshold = configure(site.log)
    run_until_signal(lambda stop: app.run(site, stop, threshold))


def main() -> NoReturn:
    """Take the site from the file descriptor that the command line names, and run it."""
    sys.modules["rich"] = None  # type: ignore[assignment]  # structlog would load it, 4 MB, for tracebacks in colour
    from gateway.errors import GatewayError

    try:
        with open(int(sys.argv[1]), "rb") as file:
            site: Site = pickle.load(file)
        run(site)
    except GatewayError as error:
        text = error.spoken()
        if sys.stderr.isatty():  # a person started it: only then is the catalogue worth its memory
            from gateway.language import say

            text = say(text)
        print(text, file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(0)


if __name__ == "__main__":
    main()
