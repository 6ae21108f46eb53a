"""A site file, read and checked in a process of its own for the daemon, which never loads what reads YAML (ADR 011).

    python -m gateway.compile SITE.yaml   <  {"link": "url"} (JSON)   >  the compiled site (gateway.folded)

Exit 2, with the problems on standard error, where the files do not check; the daemon that asked goes on as it is. The
drivers plan what they will ask of each device here too, so that nothing is left to be found out when it is applied.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Compile the site that the command line names; its bytes go to standard output."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # whatever else is printed is no part of the site
        import orjson

        from gateway.config import load_site
        from gateway.config.plans import plan_links
        from gateway.errors import ConfigError, GatewayError
        from gateway.folded import dump

        try:
            site = load_site(Path(sys.argv[1]), links=orjson.loads(sys.stdin.buffer.read() or b"{}"))
            if wrong := [problem for problem in plan_links(site.links)[1] if problem.severity == "error"]:
                raise ConfigError(wrong)
        except GatewayError as error:
            print(error.spoken(), file=sys.stderr)
            sys.exit(error.exit_code)
        dump(site, out)
    sys.exit(0)


if __name__ == "__main__":
    main()
