"""What an engine is; and the dense one: float convolutions that are exact on integers (`snn2chip.chip.products`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch

from snn2chip.chip.products import State, check_steps, exact_products, runners_of
from snn2chip.errors import InputError
from snn2chip.ir import Chain, IntArray, require_integers
from snn2chip.ir.trace import Counting, Trace, tally


class Engine:
    """What runs a `Chain`. `name` is printed with the results; `note` says, in one line, what is not as asked for."""

    name: str
    note: str | None = None

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def run(
        self, port: IntArray, *, batch_size: int = 64, keep: bool = True, counting: Counting | None = None
    ) -> Trace:
        """Run port integers (samples, T, ...), so many samples at a time; `keep=False` leaves spikes and voltages out,
        `counting` says what to count.

        Raises:
            InputError: another shape than the network's, no integers, or more steps than a time-varying neuron has
                tables for.
        """
        self.check(port)
        starts = range(0, len(port), batch_size)
        kept = [layer.name for layer in self.chain.layers] if keep else []
        return Trace.joined([self.batch(port[start : start + batch_size], kept, counting) for start in starts])

    def check(self, port: IntArray, before: int = 0) -> None:
        """Refuse what `run` refuses, of samples that have run `before` steps already."""
        shape = self.chain.input_shape
        if port.shape[2:] != shape:
            raise InputError(f"input of shape {port.shape} is not (samples, T, {', '.join(map(str, shape))})")
        require_integers(port, shape)
        if 0 in port.shape[:2]:
            raise InputError(f"input of shape {port.shape}: nothing to run")
        for layer in self.chain.layers:
            if layer.steps is not None:
                check_steps(layer.name, layer.steps, before + port.shape[1])

    def batch(
        self,
        port: IntArray,
        keep: Collection[str],
        counting: Counting | None = None,
        states: Sequence[State] | None = None,
    ) -> Trace:
        """Run some samples that were checked, and keep spikes and voltages of the layers named in `keep`.

        They start at rest, or go on from `states` and leave them at the end of these steps; scores are of these steps.
        """
        raise NotImplementedError

    def rest(self, samples: int) -> list[State]:
        """States at rest of all layers, for `batch` to go on from: each engine has an order of its own in them."""
        raise NotImplementedError


class DenseEngine(Engine):
    """Runs a `Chain` on the CPU or a GPU, layer after layer, all time steps of a batch at once."""

    name = "dense"

    def __init__(self, chain: Chain, device: torch.device | None = None) -> None:
        super().__init__(chain)
        self.device = device or torch.device("cpu")
        self.runners = runners_of(chain, self.device)

    def rest(self, samples: int) -> list[State]:
        """As `Engine.rest`: (samples, *layer.shape)."""
        shapes = [(samples, *layer.shape) for layer in self.chain.layers]
        zeros = [torch.zeros(shape, dtype=torch.int32, device=self.device) for shape in shapes]
        return [State(zero, zero.clone()) for zero in zeros]

    @torch.no_grad()
    def batch(
        self,
        port: IntArray,
        keep: Collection[str],
        counting: Counting | None = None,
        states: Sequence[State] | None = None,
    ) -> Trace:
        """As `Engine.batch`."""
        found = Trace({}, {}, np.zeros(0, dtype=np.int64))
        x = torch.from_numpy(np.require(port, np.int64, ["C", "W"])).to(self.device)
        tallies = [] if counting is None else [tally(x, counting.classes[0])]
        with exact_products():
            for index, runner in enumerate(self.runners):
                name = runner.layer.name
                x, volts, found.largest[name] = runner.run(x, states[index] if states else None)
                found.counts[name] = int(x.sum())
                if counting is not None:
                    tallies.append(tally(x, counting.classes[len(tallies)]))
                if name in keep:
                    found.spikes[name] = x.cpu().numpy().astype(np.uint8)
                    found.voltage[name] = volts.cpu().numpy()
        scores = volts[:, -1].long() if self.chain.readout == "membrane" else x.long().sum(1)
        counted = None if counting is None else counting.of(tallies)
        return replace(found, scores=scores.flatten(1).cpu().numpy(), tally=counted)
