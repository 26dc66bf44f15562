"""`snn2chip` and `python -m snn2chip`: the command line, with Ctrl-C heard while it is still being imported."""

import signal
import sys

INTERRUPTED = 130  # what a shell reports for Ctrl-C


def main() -> None:
    """Entry point of the `snn2chip` command."""
    try:
        from snn2chip import cli

        cli.main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # a signal that comes late must not change the exit code
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise


if __name__ == "__main__":
    main()
