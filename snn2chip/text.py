"""Text from outside (names in files, words of libraries, file names), made harmless for the place where it is shown.

It may hold line breaks, escape sequences of a terminal, marks that turn the direction of writing, halves of characters,
markup and formulas. Every place where text is shown has its function here.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from typing import Any


def printable(text: str) -> str:
    """For a terminal, as long as it was: line breaks and tabs become spaces, all else that is not printed a '?'."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "?" for sign in text)


def one_line(value: Any, most: int = 80) -> str:
    """For a message: one printable line of at most `most` characters; what is no text as Python writes it."""
    if hasattr(value, "item") and value.shape == ():  # a number of numpy's
        value = value.item()
    text = value if isinstance(value, str) else repr(value)
    plain = " ".join(printable(text[: 4 * most]).split())
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def first_line(error: BaseException, most: int = 400) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return one_line((str(error).strip().splitlines() or [""])[0], most) or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to put before the list of what is known; empty where nothing is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean '{near[0]}'? " if near else ""


def in_plot(value: Any, most: int = 80) -> str:
    """For matplotlib, which takes what stands between two '$' for a formula."""
    return one_line(value, most).replace("$", r"\$")


def draw(figure: Any, file: Any, **options: Any) -> None:
    """`savefig` without complaints about letters that matplotlib's font lacks, or names that leave little room."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(file, **options)
