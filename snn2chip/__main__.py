"""`snn2chip` and `python -m snn2chip`: the command line.

Nothing slow is imported here, so that Ctrl-C is heard while the rest is.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

from snn2chip.boundary import INTERRUPTED, report, unraisable
from snn2chip.processors import considerate


def main() -> None:
    """Entry point of the `snn2chip` command."""
    with suppress(AttributeError, OSError, ValueError):  # letters that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.unraisablehook = unraisable
    considerate()
    code: str | int | None = 0
    try:
        try:
            from snn2chip import cli

            cli.main()
        except BaseException as error:
            code = error.code if isinstance(error, SystemExit) else report(error)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: what comes late must not change the exit code
    except KeyboardInterrupt:  # just before it was, or while an error was being said
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = INTERRUPTED
    exec("")  # after a Ctrl-C within an exec of text, which makes dataclasses, `python -m` would end by the signal
    sys.exit(code)


if __name__ == "__main__":
    main()
