"""Errors that a person can act on.

Every message says what is wrong, where, the value, the limit and the remedy, in one line:
``layer 'conv2': weight 260 exceeds 254 (loihi2); lower --weight-bits``.
The command line prints the message alone and exits with the error's `exit_code`.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snn2chip.text import first_line


class Snn2ChipError(Exception):
    """Base of everything this package raises on purpose.

    `exit_code` is what the command line returns: 1 a check failed, 2 bad input or usage.
    """

    exit_code = 2

    @property
    def lines(self) -> list[str]:
        """The lines that the command line prints; whatever text from outside is in the message, they are these."""
        return [str(self)]


class InputError(Snn2ChipError, ValueError):
    """A file, array or option that cannot be used as it is."""


class DataError(InputError):
    """A data set that is missing, damaged or of another shape than its name promises."""


class RecipeError(InputError):
    """A recipe with a wrong key or value."""

    @property
    def lines(self) -> list[str]:
        """One for every wrong key."""
        return str(self).split("\n")


class UnsupportedError(InputError):
    """A layer or network that the chip, or netx, has no word for; names the nearest thing that works."""


class ChipLimitError(InputError):
    """A number that does not fit the chip's registers."""


class SetupError(InputError):
    """Something outside this package is missing: an interpreter, an environment, a device."""


class NotEnoughMemoryError(InputError, MemoryError):
    """Memory ran out; which of it and over what, the message says."""


class CheckFailed(Snn2ChipError):  # noqa: N818  (a verdict, not a fault)
    """A comparison that had to hold did not."""

    exit_code = 1


_WORDS = re.compile(
    "(can'?t|cannot|can not|unable to|fail(ed|ure)? to|could not) (re)?alloc|alloc\\w* (of .*)?fail|ALLOC_FAILED|"
    "bad[_ ]alloc|out of( \\w+)? memory|(not enough|insufficient)( \\w+)? memory|memory (is )?exhausted|"
    "could not create a primitive|can'?t start new thread|failed to map segment|Cannot allocate memory",
    re.IGNORECASE,
)
"""Where memory is short: torch and oneDNN, CUDA, HDF5, C++, the system's loader, Python's threads."""


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """The error and, one after the other, those that it came from, to the first that is the project's own."""
    while error is not None:
        yield error
        if isinstance(error, Snn2ChipError):
            return
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def interrupted(error: BaseException) -> bool:
    """Whether an error is a Ctrl-C, or another's wrapping of one: Python up to 3.11 does so around ``__set_name__``."""
    return any(isinstance(each, KeyboardInterrupt) for each in _behind(error))


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error is of memory, or of threads and processes, that ran out, by its type, number, words or cause."""
    for each in _behind(error):
        if isinstance(each, Snn2ChipError):
            return isinstance(each, NotEnoughMemoryError)
        kinds = {kind.__name__ for kind in type(each).__mro__}
        # protobuf's EncodeError says nothing; the messages that are encoded here are whole ones
        if isinstance(each, MemoryError) or kinds & {"OutOfMemoryError", "EncodeError"}:
            return True
        if isinstance(each, OSError) and each.errno in (errno.ENOMEM, errno.EAGAIN):
            return True
        if isinstance(each, Exception) and _WORDS.search(str(each)):
            return True
    return False


_MUTE = (LookupError, TypeError, AttributeError, AssertionError, ArithmeticError)  # say little without their kind


@contextmanager
def reading(path: str | Path, kind: str, *, error: type[InputError] = InputError, remedy: str = "") -> Iterator[None]:
    """Turn whatever a library raises over the file `path` into one line that names it.

    Libraries raise nearly anything over damaged files: HDF5's OSError and RuntimeError, zipfile's NotImplementedError,
    Rust's PanicException, which is no Exception. What says that memory ran out says nothing of the file. What they warn
    of, odd metadata or the text of a header, is no news: the file is read or refused.

    Args:
        kind: what else may be wrong: "no NIR graph".
        error: what is raised.
        remedy: the end of the message.

    Raises:
        InputError: "cannot read" where the system refuses, else "is damaged"; or as raised inside.
        NotEnoughMemoryError: memory ran out.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Snn2ChipError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as found:
        if interrupted(found):
            raise KeyboardInterrupt from None
        kind_of, said = type(found).__name__, first_line(found)
        if isinstance(found, _MUTE) and said != kind_of:
            said = f"{kind_of} {said}"
        if out_of_memory(found):
            raise NotEnoughMemoryError(f"'{path}': not enough memory to read it ({said})") from None
        if isinstance(found, OSError) and found.errno and found.strerror == os.strerror(found.errno):  # not HDF5's
            raise error(f"cannot read '{path}': {found.strerror}") from None
        raise error(f"'{path}' is damaged or {kind}: {said}{remedy and '; '}{remedy}") from None
