"""How the programs in this folder fail: one line on stderr and an exit status."""

from __future__ import annotations

import os
import sys

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
