"""Keep freed pages: a training step allocates and frees the same large buffers again and again."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h


def keep_pages() -> bool:
    """Tell glibc to keep large freed blocks instead of returning them to the system; True where it could.

    By default every large tensor is mapped anew and page-faulted again at each step, which costs up to a
    third of a training step on the CPU. Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    largest = 2**31 - 1
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, largest) and mallopt(_M_TOP_PAD, 1 << 26))
