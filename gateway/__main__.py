"""`python -m gateway`, and the `plantbridge` command."""

from gateway.cli.app import main

if __name__ == "__main__":
    main()
