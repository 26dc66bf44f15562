"""`snn2chip` and `python -m snn2chip`: the command line, with Ctrl-C heard while it is still being imported."""

import sys


def main() -> None:
    """Entry point of the `snn2chip` command."""
    try:
        from snn2chip import cli

        cli.main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
