"""What fits the chip: one profile a chip, read from deploy/chips/."""

from __future__ import annotations

from dataclasses import dataclass, fields

from snn2chip import files, places
from snn2chip.errors import InputError

DECAY_ONE = 4096  # 12-bit decays: the value that takes everything away
STATE_SHIFT = 6  # inputs, biases and thresholds are shifted left by this against u and v
UNIT = 2**STATE_SHIFT  # so that 1 of them is this much of u and v
STATE_MAX = 2**23  # u wraps past it, v is clipped one below it
INPUT_MAX = 2**17 - 1  # the largest |sum w s| that leaves u unwrapped when u holds nothing else


@dataclass(frozen=True)
class Chip:
    """Register widths of one chip.

    Weights of `weight_bits` = N: any integer of magnitude up to 2^(N-1) - 1, or even ones up to 2^N - 2 (the
    chip then stores half of them and a shift). `programmable_neurons`: constants of a neuron may be tables over time.
    """

    name: str
    weight_bits: int
    bias_bits: int
    threshold_bits: int
    decay_max: int
    state_bits: int
    message_bits: int
    programmable_neurons: bool

    @property
    def weight_odd_max(self) -> int:
        """Largest magnitude of a weight when odd weights are wanted (127)."""
        return int(2 ** (self.weight_bits - 1) - 1)

    @property
    def weight_max(self) -> int:
        """Largest magnitude of a weight at all (254, even ones only)."""
        return int(2**self.weight_bits - 2)

    @property
    def bias_max(self) -> int:
        """Largest magnitude of a bias mantissa (4095)."""
        return int(2 ** (self.bias_bits - 1) - 1)

    @property
    def threshold_max(self) -> int:
        """Largest threshold mantissa (131071)."""
        return int(2**self.threshold_bits - 1)

    @property
    def input_max(self) -> int:
        """Largest |sum of weights times inputs| of one step before the current wraps (131071)."""
        return int(2 ** (self.state_bits - 1 - STATE_SHIFT) - 1)

    @property
    def state_max(self) -> int:
        """Largest magnitude of u and v themselves (8388607)."""
        return int(2 ** (self.state_bits - 1) - 1)

    def with_weight_bits(self, bits: int | None) -> Chip:
        """The same chip used with fewer weight bits.

        Raises:
            InputError: bits is outside 2..weight_bits.
        """
        if bits is None:
            return self
        if not 2 <= bits <= self.weight_bits:
            raise InputError(f"--weight-bits {bits} is outside 2..{self.weight_bits} ({self.name})")
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return Chip(**{**values, "weight_bits": bits})


def load(name: str) -> Chip:
    """The profile of a chip by name.

    Raises:
        InputError: there is no such profile; the message lists those there are.
    """
    if name not in places.chip_names():
        raise InputError(f"unknown chip '{name}': expected one of {', '.join(places.chip_names())}")
    return Chip(**files.read(places.deploy_file("chips", f"{name}.toml"), "TOML"))
