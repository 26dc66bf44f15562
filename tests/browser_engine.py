"""The engine for a browser, run in Python by wasmtime: what the page's script does, without a page."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip import ir
from snn2chip.simulate.events import browser
from snn2chip.simulate.events.plan import chunk_of, plan


class BrowserEngine:
    """A chain in WebAssembly."""

    def __init__(self, chain: ir.Chain, chunk: int | None = None) -> None:
        import wasmtime

        engine = wasmtime.Engine()
        self.store = wasmtime.Store(engine)
        module = wasmtime.Module(engine, browser.module())

        def refuse(*_arguments: Any) -> int:
            raise AssertionError("the module called its system")

        imports = [wasmtime.Func(self.store, each.type, refuse) for each in module.imports]
        self.exports = wasmtime.Instance(self.store, module, imports).exports(self.store)
        self.call("_initialize")
        self.chain = chain
        plans = plan(chain)
        image = browser.image(plans)
        where = self.call("malloc", len(image))
        self.memory(where, len(image), np.uint8)[:] = np.frombuffer(image, np.uint8)
        membrane = int(chain.readout == "membrane")
        self.engine = self.call("snn2chip_browser_open", where, len(plans), membrane, chunk or chunk_of(plans))
        assert self.engine

    def call(self, name: str, *arguments: int) -> int:
        """One of the module's functions."""
        answer: int = self.exports[name](self.store, *arguments)
        return answer

    def memory(self, where: int, count: int, kind: type[np.generic]) -> NDArray[Any]:
        """The module's own memory, until it grows."""
        memory = self.exports["memory"]
        size = memory.data_len(self.store)
        whole = np.ctypeslib.as_array(
            ctypes.cast(memory.data_ptr(self.store), ctypes.POINTER(ctypes.c_uint8)), shape=(size,)
        )
        bytes_of = whole[where : where + count * np.dtype(kind).itemsize]
        return bytes_of.view(kind)

    def run(self, port: ir.IntArray) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.int32]], ir.IntArray]:
        """One sample (T, ...): spikes and voltages (T, *shape) of each layer, and scores."""
        steps = len(port)
        shapes = [layer.shape for layer in self.chain.layers]
        sizes = [steps * int(np.prod(shape)) for shape in shapes]
        places = [self.call("malloc", size) for size in (8 * port.size, sum(sizes), 4 * sum(sizes), 8 * sizes[-1])]
        self.memory(places[0], port.size, np.int64)[:] = port.ravel()
        low, high = int(self.chain.port_range[0].min()), int(self.chain.port_range[1].max())
        answer = self.call("snn2chip_browser_run", self.engine, places[0], steps, port[0].size, low, high, *places[1:])
        assert answer == 0
        ends = np.cumsum(sizes)[:-1]
        spikes = np.split(self.memory(places[1], sum(sizes), np.uint8).copy(), ends)
        voltage = np.split(self.memory(places[2], sum(sizes), np.int32).copy(), ends)
        scores = self.memory(places[3], sizes[-1] // steps, np.int64).copy()
        for place in places:
            self.exports["free"](self.store, place)
        return (
            [part.reshape(steps, *shape) for part, shape in zip(spikes, shapes, strict=True)],
            [part.reshape(steps, *shape) for part, shape in zip(voltage, shapes, strict=True)],
            scores,
        )

    def weights(self, layer: int, channel: int) -> NDArray[np.int32]:
        """(in_channels, kh, kw) of one output channel."""
        this = self.chain.layers[layer]
        before = self.chain.layers[layer - 1].shape if layer else self.chain.input_shape
        kernel = this.weight.shape[2:] if this.kind == "conv" else (*before[1:], 1, 1)[:2]
        shape = (before[0], *kernel)
        where = self.call("malloc", 4 * int(np.prod(shape)))
        self.exports["snn2chip_browser_weights"](self.store, self.engine, layer, channel, where)
        found: NDArray[np.int32] = self.memory(where, int(np.prod(shape)), np.int32).copy().reshape(shape)
        self.exports["free"](self.store, where)
        return found


def weights_of(chain: ir.Chain, layer: int, channel: int) -> NDArray[np.int64]:
    """As `BrowserEngine.weights`, out of the chain: zeros where another group reads."""
    this = chain.layers[layer]
    before = chain.layers[layer - 1].shape if layer else chain.input_shape
    if this.kind == "dense":
        return this.weight[channel].reshape(*before, *(1,) * (3 - len(before)))
    whole = np.zeros((before[0], *this.weight.shape[2:]), dtype=np.int64)
    per_group = this.weight.shape[1]
    group = channel // (len(this.weight) // this.groups)
    whole[group * per_group : (group + 1) * per_group] = this.weight[channel]
    return whole
