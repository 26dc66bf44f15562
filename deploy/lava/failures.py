"""How the programs in this folder fail: one line on stderr and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

BAD_INPUT, LAVA_FAILED, INTERRUPTED, TERMINATED = 2, 3, 130, 143


class RefusedError(Exception):
    """What was asked for cannot be run; the message is for the user."""


class LavaError(Exception):
    """Lava, or one of its processes, failed; the message is for the user."""


def first_line(error: BaseException) -> str:
    """What kind of error it is and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def fail(message: str, status: int) -> None:
    """Say what went wrong and leave at once: Lava's threads and destructors could hang an ordinary exit."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(status)


def leave(action: Callable[[], None]) -> None:
    """Do `action` and leave the process: with status 0, or with one line that says what went wrong."""
    try:
        action()
        sys.stdout.flush()
        os._exit(0)  # as `fail` does
    except RefusedError as error:
        fail(str(error), BAD_INPUT)
    except LavaError as error:
        fail(str(error), LAVA_FAILED)
    except KeyboardInterrupt as error:
        fail("interrupted", error.args[0] if error.args else INTERRUPTED)
    except BrokenPipeError:
        os._exit(TERMINATED)  # whoever read the progress is gone
    except MemoryError:
        fail("memory ran out; run fewer samples at a time", LAVA_FAILED)
    except ImportError as error:
        fail(f"{sys.executable} cannot import Lava: {error}; `snn2chip lava setup` repairs it", LAVA_FAILED)
