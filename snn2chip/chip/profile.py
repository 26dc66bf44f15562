"""What fits the chip: one profile a chip, from deploy/chips/, the folder $SNN2CHIP_CHIPS or a user's own file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from snn2chip import files, places
from snn2chip.errors import InputError
from snn2chip.text import one_line

DECAY_ONE = 4096  # 12-bit decays: the value that takes everything away
STATE_SHIFT = 6  # inputs, biases and thresholds are shifted left by this against u and v
UNIT = 2**STATE_SHIFT  # so that 1 of them is this much of u and v
STATE_MAX = 2**23  # u wraps past it, v is clipped one below it
INPUT_MAX = 2**17 - 1  # the largest |sum w s| that leaves u unwrapped when u holds nothing else


@dataclass(frozen=True)
class Figure:
    """A number of a chip, 1 or more, and where it is from."""

    value: int
    source: str

    def __post_init__(self) -> None:
        if self.value < 1:
            raise ValueError(f"value {self.value} is below 1")


@dataclass(frozen=True)
class Capacity:
    """What a core holds, and how the compiler lays synapses into its memory (`snn2chip.fit.words`).

    cores           a chip
    neurons, axons_in, axons_out, synaptic_words (of 64 bits)  a core
    list_bits       header of a list of synapses; list_synapses: the longest list
    index_bits      beside each weight of a dense layer
    reckoned_bits   of a dense synapse while the compiler divides a layer, before it knows the weights' bits
    """

    cores: Figure
    neurons: Figure
    axons_in: Figure
    axons_out: Figure
    synaptic_words: Figure
    list_bits: Figure
    list_synapses: Figure
    index_bits: Figure
    reckoned_bits: Figure


@dataclass(frozen=True)
class Price:
    """What one event takes: pJ, ns of the core where it happens, and where both are from."""

    energy: float
    source: str
    time: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.energy < math.inf and 0 <= self.time < math.inf):
            raise ValueError(f"energy {self.energy} and time {self.time} are not numbers from 0")


@dataclass(frozen=True)
class Prices:
    """What a chip's events take, and what joins its cores (`snn2chip.fit.cost`).

    synapse, dense_synapse  a synaptic operation of a convolution, of a dense layer
    update                  a neuron at a step
    spike                   of a neuron that fires, besides its update
    send, receive           of a spike and a core that it goes to: at its own core, at the other
    across, along           from a tile to the next one, E-W and N-S
    barrier                 [tiles, ns], ascending: the end of a step on so many tiles or more
    tile_cores, tile_rows   cores of a tile; tiles of a column, which are filled one column after another
    zeros_free              synapses with a weight of 0 cost nothing
    energy_within, time_within  the truth lies within 1/x and x times what is said, as far as `within_source` goes
    """

    synapse: Price
    dense_synapse: Price
    update: Price
    spike: Price
    send: Price
    receive: Price
    across: Price
    along: Price
    barrier: tuple[tuple[int, float], ...]
    barrier_source: str
    tile_cores: Figure
    tile_rows: Figure
    energy_within: float
    time_within: float
    within_source: str
    zeros_free: bool = False

    def __post_init__(self) -> None:
        if not all(1 <= factor < math.inf for factor in (self.energy_within, self.time_within)):
            raise ValueError(f"energy_within {self.energy_within}, time_within {self.time_within}: a factor is below 1")
        tiles = [least for least, _ in self.barrier]
        if not tiles or tiles != sorted(set(tiles)) or not all(0 <= ns < math.inf for _, ns in self.barrier):
            raise ValueError(f"barrier is not ascending pairs of tiles and ns from 0: {self.barrier}")


@dataclass(frozen=True)
class Layers:
    """What layers a chip has that takes whole layers instead of synapses; all kernels and strides are square.

    weight_bits          a weight's, where the layer does not read the input: 1 is 0..1, b is +-(2^(b-1) - 1)
    input_channels, input_kernels, input_strides  of the first layer, a convolution of an image of uint8
    smallest, largest    side of that image, with what is padded
    kernels, strided_kernels  of the other convolutions, at stride 1 and at stride 2
    """

    weight_bits: tuple[int, ...]
    input_channels: tuple[int, ...]
    input_kernels: tuple[int, ...]
    input_strides: tuple[int, ...]
    smallest: int
    largest: int
    kernels: tuple[int, ...]
    strided_kernels: tuple[int, ...]
    source: str

    def __post_init__(self) -> None:
        if not self.weight_bits or min(self.weight_bits) < 1:
            raise ValueError("weight_bits: one number of bits or more, each 1 or more")


_BOUNDS = {  # of a chip's numbers; registers are of at most 32 bits
    "weight_bits": (2, 16),
    "input_weight_bits": (2, 16),
    "bias_bits": (2, 32),
    "threshold_bits": (1, 32),
    "decay_max": (1, DECAY_ONE),
    "state_bits": (STATE_SHIFT + 2, 32),
    "message_bits": (0, 32),
    "timesteps": (1, 2**31 - 1),
}


@dataclass(frozen=True)
class Chip:
    """Register widths of one chip, what its cores hold, and, where it is known, what its events take.

    Weights of `weight_bits` = N: any integer of magnitude up to 2^(N-1) - 1, or even ones up to 2^N - 2 (the
    chip then stores half of them and a shift). `programmable_neurons`: constants of a neuron may be tables over time.

    `input_weight_bits`: of weights that multiply the input, where they have others. `timesteps`: the most that a sample
    may have, where membranes do not last. A chip has cores that are filled, `capacity`, or `layers` as a whole.
    """

    name: str
    weight_bits: int
    bias_bits: int
    threshold_bits: int
    decay_max: int
    state_bits: int
    message_bits: int
    programmable_neurons: bool
    capacity: Capacity | None = None
    prices: Prices | None = None
    input_weight_bits: int | None = None
    timesteps: int | None = None
    layers: Layers | None = None

    def __post_init__(self) -> None:
        if (self.capacity is None) == (self.layers is None):
            raise ValueError("a chip has either [capacity] or [layers]")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} {value} is outside {least}..{most}")

    @property
    def cores(self) -> Capacity:
        """What a core holds.

        Raises:
            InputError: the chip has none that networks are placed on by a rule known here.
        """
        if self.capacity is None:
            raise InputError(
                f"{self.name} has no cores to count by a rule; `snn2chip fit NET --chip {self.name}` asks it"
            )
        return self.capacity

    @property
    def at_input(self) -> Chip:
        """The same chip as the layer that reads the input has it."""
        return self if self.input_weight_bits is None else replace(self, weight_bits=self.input_weight_bits)

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
        if not isinstance(bits, int) or not 2 <= bits <= self.weight_bits:
            raise InputError(f"--weight-bits {bits} is outside 2..{self.weight_bits} ({self.name})")
        return replace(self, weight_bits=bits)


def load(name: str) -> Chip:
    """The profile of a chip by name, or from a file of one: a path that ends with .toml.

    Raises:
        InputError: there is no such profile (the message lists those there are), or the file is not one.
    """
    if name.endswith(".toml"):
        return _read(Path(name))
    known = places.chip_files()
    if name not in known:
        raise InputError(
            f"unknown chip '{one_line(name)}': expected one of {', '.join(known)}, or a path to a profile, NAME.toml; "
            f"profiles in the folder {places.CHIPS_VARIABLE} are known by name"
        )
    chip = _read(known[name])
    if chip.name != name:
        raise InputError(f"'{known[name]}': name = '{one_line(chip.name)}', but the file is {name}.toml; make them one")
    return chip


def with_cores(chip: Chip) -> Chip:
    """The chip, or for one of whole layers Loihi 2, in whose file the integers of its networks are."""
    return chip if chip.layers is None else load("loihi2")


def _read(path: Path) -> Chip:
    from pydantic import TypeAdapter, ValidationError  # slow, and not needed for --help

    try:
        values = files.read(path, "TOML")
    except FileNotFoundError:
        raise InputError(f"no chip profile '{path}'; copy one of deploy/chips and change its numbers") from None
    whole = values.get("layers")  # a table of its own names
    misread = ""
    for table, kinds in (({**values, "layers": None}, (Chip, Capacity, Figure, Price, Prices)), (whole, (Layers,))):
        types = {name: each.type for kind in kinds for name, each in kind.__dataclass_fields__.items()}
        for key, value in _pairs(table):
            if key not in types:
                raise InputError(f"'{path}': unknown key '{one_line(key)}'; copy one of deploy/chips")
            if isinstance(value, str | bool) and types[key] != type(value).__name__:  # pydantic makes numbers of them
                misread = f"'{key}' is {one_line(repr(value))}, expected {types[key]}"
    try:
        chip = TypeAdapter(Chip).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"'{path}': '{one_line(where)}': {one_line(first['msg'])}; copy one of deploy/chips") from None
    if misread:
        raise InputError(f"'{path}': {misread}; copy one of deploy/chips")
    return chip


def _pairs(value: object, key: str | None = None) -> Iterator[tuple[str, object]]:
    """Every key of tables in tables with what it holds, and with each item of a list."""
    if key is not None:
        yield key, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _pairs(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner, key)
