"""Errors that a person can act on.

Every message says what is wrong, where, the value, the limit and the remedy, in one line:
``layer 'conv2': weight 260 exceeds 254 (loihi2); lower --weight-bits``.
The command line prints the message alone and exits with the error's `exit_code`.
"""


class Snn2ChipError(Exception):
    """Base of everything this package raises on purpose.

    `exit_code` is what the command line returns: 1 a check failed, 2 bad input or usage.
    """

    exit_code = 2


class InputError(Snn2ChipError, ValueError):
    """A file, array or option that cannot be used as it is."""


class DataError(InputError):
    """A data set that is missing, damaged or of another shape than its name promises."""


class RecipeError(InputError):
    """A recipe with a wrong key or value."""


class UnsupportedError(InputError):
    """A layer or network that the chip, or netx, has no word for; names the nearest thing that works."""


class ChipLimitError(InputError):
    """A number that does not fit the chip's registers."""


class SetupError(InputError):
    """Something outside this package is missing: an interpreter, an environment, a device."""


class CheckFailed(Snn2ChipError):  # noqa: N818  (a verdict, not a fault)
    """A comparison that had to hold did not."""

    exit_code = 1
