"""`python -m gateway`, and the `plantbridge` command. Ctrl-C is no traceback, not even while modules are loaded."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from gateway.cli.app import main as command  # half a second on a small machine, in which Ctrl-C may come

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
