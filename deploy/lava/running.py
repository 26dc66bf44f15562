"""Run a network in Lava's processes and end them, whatever happens to any of them."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from failures import RefusedError, SimulatorError, first_line, out_of_memory

# isort: split
import numpy as np
from files import Layer, write
from import_lava import import_lava
from recording import RECORDS, Monitors, Record, recording_neurons


def load(net_path: Path, output: Path, patches: Sequence[Callable[[], None]], **options: Any) -> tuple[Any, str]:
    """Import Lava, patch it, and load a network with netx's own `options`: the network, and what netx printed.

    Raises:
        RefusedError: the output has no folder.
        SimulatorError: netx cannot load it.
    """
    if not output.parent.is_dir():
        raise RefusedError(f"'{output}': no such folder; make it first")
    guard_children()
    import_lava()
    for patch in patches:
        patch()
    from lava.lib.dl.netx import hdf5

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return hdf5.Network(net_config=str(net_path), **options), said.getvalue()
    except Exception as error:
        raise SimulatorError(f"netx cannot load '{net_path}': {first_line(error)}") from error


def feed(net: Any, data: np.ndarray) -> dict[int, str]:
    """Connect `data`, chip time last, to the network's port; what to call the process that gives it."""
    from lava.proc.io.source import RingBuffer

    source = RingBuffer(data=data)
    source.s_out.connect(net.inp)
    return {source.id: "the input"}


def record(
    net: Any,
    layers: Sequence[Layer],
    output: Path,
    names: dict[int, str],
    *,
    steps: int,
    samples: int = 1,
    progress: bool,
    monitors: bool = False,
) -> None:
    """Run a network and write what every neuron of `layers` did in `steps` chip steps from its first one on.

    `names`: what the user calls other Lava processes, by id.

    Raises:
        RefusedError: the output cannot be written.
        SimulatorError: a process failed.
    """
    from lava.magma.core.run_configs import Loihi2SimCfg

    total = steps + max((layer.latency for layer in layers), default=0)
    watching = Monitors(total) if monitors else None
    for layer, block in zip(layers, net.layers, strict=True):
        kept = RECORDS[block.neuron.id] = Record(layer, tuple(map(int, block.neuron.v.shape)), steps)
        block.neuron.proc_params["record"] = block.neuron.id
        names[block.neuron.id] = f"layer {layer.number} ({layer.kind})"
        if layer.kind != "input":
            names[block.synapse.id] = names[block.neuron.id]
        if watching:
            watching.add(kept, block.neuron)

    def keep() -> None:
        if watching:
            watching.collect()
        write(output, {name: array for kept in RECORDS.values() for name, array in kept.arrays(samples)})

    models = None if watching else recording_neurons()
    config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=models)
    Run(net, names).through(total, config, progress, keep)


class Run:
    """A network running in Lava's processes, watched so that no failure in them can leave it hanging."""

    def __init__(self, net: Any, names: dict[int, str]) -> None:
        self.net = net
        self.names = names  # Lava process id -> what the user calls it

    def start(self, steps: int, config: Any) -> None:
        """Build the processes and let them run `steps` chip steps; returns while they run.

        Raises:
            SimulatorError: a process could not be built.
        """
        from lava.magma.core.run_conditions import RunSteps

        # While it builds the processes Lava waits for each without looking whether it still lives; so look,
        # again and again, because what a signal handler raises is lost where Python can only report it.
        signal.signal(signal.SIGALRM, lambda *_: self.check())
        signal.setitimer(signal.ITIMER_REAL, 0.3, 1.0)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self.net.run(condition=RunSteps(num_steps=steps, blocking=False), run_cfg=config)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def through(self, steps: int, config: Any, progress: bool, keep: Callable[[], None]) -> None:
        """Run all steps, `keep` what was recorded, and end the processes; `progress` prints lines `step k/n`.

        Raises:
            SimulatorError: a process failed; and what `keep` raises.
        """
        shown = [-1, time.monotonic()]

        def report(done: int) -> None:
            now = time.monotonic()
            if progress and done != shown[0] and (now - shown[1] > 0.2 or done >= steps):
                print(f"step {min(done, steps)}/{steps}", flush=True)
                shown[:] = done, now

        try:
            self.start(steps, config)
            self.wait(report)
            keep()
            report(steps)
            self.stop()
        except BaseException as error:
            known = isinstance(error, (SimulatorError, RefusedError, BrokenPipeError)) or out_of_memory(error)
            failure = error if known or not isinstance(error, Exception) else self.explain(error)
            self.kill()
            raise failure from (None if failure is error else error)

    @property
    def actors(self) -> list[Any]:
        """Lava's OS processes, in the order in which they were built; none before there is a runtime."""
        infrastructure = getattr(self.net.runtime, "_messaging_infrastructure", None)
        return list(infrastructure.actors) if infrastructure else []

    def check(self) -> None:
        """Raise the failure of a Lava process, which Lava itself would only log.

        Raises:
            SimulatorError: a process raised, or died.
        """
        for index, actor in enumerate(self.actors):
            raised = actor.exception
            if raised is not None:
                raise SimulatorError(f"{self._name(index)} failed{self._step()}: {first_line(raised[0])}") from raised[
                    0
                ]
        for index, actor in enumerate(self.actors):
            code = actor.exitcode
            if code is not None and code < 0:
                hint = "/dev/shm may be full" if -code == signal.SIGBUS else "memory may have run out"
                raise SimulatorError(
                    f"{self._name(index)} was killed by {signal.Signals(-code).name}{self._step()}; {hint}"
                )
            if code:  # 0 is what the others end with when one has failed
                raise SimulatorError(f"{self._name(index)} ended with status {code}{self._step()}")

    def explain(self, error: Exception) -> SimulatorError:
        """The failure of a process behind what Lava raised (it may take a moment to arrive), else that."""
        for _ in range(20):
            try:
                self.check()
            except SimulatorError as failure:
                return failure
            time.sleep(0.02)
        return SimulatorError(first_line(error))

    def _name(self, index: int) -> str:
        processes = list(self.net.runtime._executable.proc_builders)
        if index >= len(processes):
            return "Lava's runtime service"
        process = processes[index]
        where = self.names.get(process.id)
        return f"Lava process {type(process).__name__}" + (f" of {where}" if where else "")

    def _step(self) -> str:
        done = self.steps_done()
        return f" after {done} chip steps" if done else ""

    @staticmethod
    def steps_done() -> int:
        """Chip steps that every recorded layer has run."""
        return min((int(record.done[0]) for record in RECORDS.values()), default=0)

    def wait(self, report: Callable[[int], None]) -> None:
        """Return when all steps are done; call `report` with the number done now and then.

        Raises:
            SimulatorError: a process failed.
        """
        from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal

        answers = self.net.runtime.service_to_runtime
        patience = 0
        while True:
            self.check()
            if all(port.probe() for port in answers):
                if all(enum_equal(port.peek(), MGMT_RESPONSE.DONE) for port in answers):
                    self.net.wait()
                    return
                patience += 1  # an error, whose message is still on its way through another pipe
                if patience > 100:
                    raise SimulatorError(f"Lava stopped{self._step()} and gave no reason")
            report(self.steps_done())
            time.sleep(0.02 if self.steps_done() else 0.002)

    def stop(self) -> None:
        """End the processes in Lava's own way, or by force if that takes long."""

        def too_long(*_: Any) -> None:
            raise SimulatorError("Lava does not stop")

        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(10)
        try:
            self.net.stop()
        except SimulatorError:
            self.kill()
        finally:
            signal.alarm(0)

    def kill(self) -> None:
        """End the processes whatever they are doing, and let go of the shared memory."""
        for actor in self.actors:
            with contextlib.suppress(ValueError):  # already closed
                actor.kill()
        for actor in self.actors:
            with contextlib.suppress(ValueError):
                super(type(actor), actor).join(5)
        infrastructure = getattr(self.net.runtime, "_messaging_infrastructure", None)
        if infrastructure is not None and infrastructure.smm is not None:
            with contextlib.suppress(Exception):
                infrastructure.smm.shutdown()


def guard_children() -> None:
    """Make the processes forked from here end with this one, and end silently when interrupted."""
    parent = os.getpid()

    def leave(number: int, _: Any) -> None:
        if os.getpid() != parent:
            os._exit(128 + number)
        raise KeyboardInterrupt(128 + number)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        death_signal = 1  # PR_SET_PDEATHSIG
        os.register_at_fork(after_in_child=lambda: libc.prctl(death_signal, signal.SIGKILL))
