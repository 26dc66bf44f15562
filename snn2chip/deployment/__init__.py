"""One call from a trained module to a verified chip file."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.panel import Panel
from torch import nn
from torch.nn.parameter import UninitializedParameter

from snn2chip import chip as chips
from snn2chip import ir
from snn2chip.chip.profile import Chip
from snn2chip.choices import SoftReset, check_choice, check_whole
from snn2chip.data import ImageSet
from snn2chip.deployment.data import Scaling, gather, integers
from snn2chip.deployment.soft_reset import change
from snn2chip.errors import CheckFailed, ChipLimitError, InputError, UnsupportedError
from snn2chip.files import is_hdf5
from snn2chip.fit import demand
from snn2chip.fit import table as fits
from snn2chip.formats import netx
from snn2chip.formats.nir import run as nir
from snn2chip.formats.nir.asked import Asked
from snn2chip.formats.nir.run import Written
from snn2chip.frameworks import harden
from snn2chip.ir.encode import encoder_of
from snn2chip.nn import SpikingNetwork, model_file, safetensors
from snn2chip.nn.build import STEPPED, unwrapped
from snn2chip.passes import pipeline
from snn2chip.passes.adapt import Adapted, Handed, adapt, copied, frames, pixels
from snn2chip.passes.capture import capture, check
from snn2chip.passes.quantize import Strategy
from snn2chip.passes.record import OtherTimeError
from snn2chip.passes.schedule import Relays
from snn2chip.report import summary, tables
from snn2chip.simulate.run import Simulation, simulate
from snn2chip.text import one_line
from snn2chip.verify.compare import Verdict
from snn2chip.verify.ladder import verify


@dataclass(frozen=True, eq=False, repr=False)
class Deployed:
    """A trained network in the chip's integers.

    trained      a copy of the module that was given, in eval mode; or the network or NIR graph
    export       the network at every stage, and what each reported
    fit          its cores
    path         the .net file, if it was saved
    notes        what was assumed or done to the data, and layers that never fire
    """

    trained: Adapted | SpikingNetwork | Written | ir.Network
    export: pipeline.Export
    fit: fits.Fit
    path: Path | None
    notes: tuple[str, ...]
    _scaling: Scaling
    _calibration: ir.IntArray

    @property
    def chain(self) -> ir.Chain:
        """The chip's network."""
        return self.export.chain

    @property
    def agreement(self) -> float:
        """Share of the calibration samples whose decision is the same in float64 and in integers."""
        report = self.export.quantize_report
        return (report.agree or 0) / report.calibration

    def save(self, path: str | Path, *, samples: int = 0) -> Path:
        """Write the chip's network as netx HDF5; or, where `path` ends in .pt or .safetensors, the network that was
        captured, which the commands take as they take a model.pt of `snn2chip train`.

        Args:
            path: the file.
            samples: of a .pt or .safetensors: how many of the calibration samples go into it, as pixels, for commands
                that are given no data set.

        Raises:
            InputError: it cannot be written, or the name ends as that of another kind of file.
        """
        check_whole("samples", samples, 0)
        if Path(path).suffix not in (*_MODELS, *_CHAINS):
            raise InputError(
                f"cannot save as '{path}': expected a name that ends in {', '.join((*_MODELS, *_CHAINS))}; "
                f"`snn2chip export` makes ONNX and NIR of one"
            )
        if Path(path).suffix in _MODELS:
            kept = self._calibration[:samples] if samples else None
            model_file.save_graph(path, model_file.Graph(self.export.captured, str(self.chain.made["model"]), kept, {}))
        else:
            netx.save(path, self.chain)
        return Path(path)

    def pixels(self, data: Any, limit: int | None = None) -> tuple[ir.IntArray, NDArray[np.int64] | None]:
        """Samples as integers (N, ...), and labels, of anything that `deploy` takes for calibration.

        Raises:
            InputError: see `snn2chip.deployment.data`.
        """
        samples, labels = gather(data, limit)
        return self._integers(samples), self._of_classes(labels)

    def _integers(self, samples: NDArray[Any]) -> ir.IntArray:
        given = self.export.captured.input.shape
        samples = samples[:, :, None] if samples.ndim == len(given) == 3 and given[1] == 1 else samples  # rows
        return integers(samples, self._scaling)[0]

    def _of_classes(self, labels: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """Labels, which are those of this network's outputs.

        Raises:
            InputError: they are not.
        """
        outputs = self.chain.layers[-1].shape[0]
        if labels is not None and labels.max() >= outputs:
            raise InputError(
                f"labels {labels.min()}..{labels.max()} of a network of {outputs} outputs, 0..{outputs - 1}; give the "
                f"number of each sample's class, from 0 on"
            )
        return labels

    def verify(self, data: Any = None, *, samples: int = 20, lava: bool = False, onnx: bool = False) -> Verdict:
        """Climb the ladder, from the module's own forward function in float64 to the simulator, and to Lava and ONNX
        Runtime if asked for, with the first `samples` of `data` (of the calibration samples, if None).

        Raises:
            CheckFailed: a rung that had to hold does not; the first difference is named.
            InputError: data that is no input of this network.
            SetupError: Lava or ONNX Runtime is not there.
        """
        check_whole("samples", samples, 1)
        raw, labels = (self._calibration[:samples], None) if data is None else self.pixels(data, samples)
        with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
            path = self.path or self.save(Path(folder) / "model.net")
            verdict = verify(
                self.trained, self.chain, raw, labels=labels, net_path=path, with_lava=lava, with_onnx=onnx
            )
        if not verdict.passed:
            raise CheckFailed("; ".join(tables.failure(rung) for rung in verdict.rungs if not rung.passed))
        return verdict

    def simulate(self, data: Any, *, batch_size: int = 50, keep: bool = False) -> Simulation:
        """Run samples in the chip's integers; `accuracy` is there if `data` has labels.

        Raises:
            InputError: data that is no input of this network.
        """
        return self._simulated(*self.pixels(data), batch_size=batch_size, keep=keep)

    def _simulated(
        self, raw: ir.IntArray, labels: NDArray[np.int64] | None, *, batch_size: int = 50, keep: bool = False
    ) -> Simulation:
        options: dict[str, Any] = {"batch_size": batch_size, "keep": keep}
        if raw.ndim == 4 and self.chain.pixel_max < 256:  # repeated over time batch by batch
            given = torch.from_numpy(np.zeros(len(raw), np.int64) if labels is None else labels)
            images = ImageSet("given", torch.from_numpy(raw.astype(np.uint8)), given, (), self.chain.pixel_max, "given")
            found = replace(simulate(self.chain, images=images, **options), accuracy=None, dataset=None, confusion=None)
        else:
            found = simulate(self.chain, port=self.chain.port(encoder_of(self.chain)(raw)), **options)
        if labels is None:
            return found
        return replace(found, accuracy=float(np.mean(found.trace.scores.argmax(1) == labels)))

    def outputs(self, data: Any) -> NDArray[np.float64]:
        """What the module would return, from the chip's integers and in the module's own units, (N, K).

        The mean over time of the last layer's currents, or of its spikes; where the module returns a sum over time,
        that sum: see `snn2chip.ir.Chain.outputs`, whose unit stands in the file.

        Raises:
            InputError: data that is no input of this network.
        """
        found = self._simulated(self._integers(gather(data, labelled=False)[0]), None).outputs
        assert found is not None  # what was exported says its unit
        return found

    def __rich__(self) -> Panel:
        report = self.export.quantize_report
        facts = {"export": {"fit": self.fit.as_json(), "made": self.chain.made, "quantize": {"layers": report.layers}}}
        netx_of = "stock netx" if self.chain.stock else "a neuron that varies with time: not stock netx"
        more = [
            ("file", f"{len(self.chain.layers)} netx layers, T = {self.chain.timesteps}; {netx_of}"),
            ("agrees", f"with float64 on {self.agreement:.1%} of {len(self._calibration)} calibration samples"),
            *((("saved as", str(self.path)),) if self.path is not None else ()),
            *(("note", note) for note in self.notes),
        ]
        return summary.panel(str(self.chain.made.get("model")), facts, more)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=80, markup=False, highlight=False).print(self.__rich__())
        return text.getvalue().rstrip()


def deploy(
    network: nn.Module | Written | ir.Network,
    calibration: Any,
    *,
    chip: str | Chip = "loihi2",
    timesteps: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    max_value: int | None = None,
    classes: Sequence[str] = (),
    out: str | Path | None = None,
    name: str | None = None,
    samples: int = 64,
    weight_bits: int | None = None,
    strategy: Strategy = "auto",
    relays: Relays = "auto",
    must_fit: bool = True,
    soft_reset: SoftReset = "refuse",
    run: Callable[[nn.Module, torch.Tensor], Any] | None = None,
) -> Deployed:
    """Take a trained network to the chip's integers, and to a file if `out` is given.

    Args:
        network: a `snn2chip.nn.SpikingNetwork`, or a trained module of torch's layers with neurons of snn2chip.nn,
            SpikingJelly or snnTorch (see `snn2chip.passes.adapt` for the ways it may take time). Or a network that a
            file holds, as `snn2chip.load` gives it.
        calibration: samples that choose the scales: a tensor or an array (N, C, H, W) of images, (N, C, L) of rows or
            (N, T, C, H, W) of frames of spikes or counts (of rows: H = 1), a pair (samples, labels), a DataLoader or a
            Dataset. Integers are pixels; floats must be what the network sees of whole pixels
            (`snn2chip.deployment.data`).
        chip: a profile or its name.
        timesteps: steps a sample; needed for images given to a module of another framework.
        mean, std: how that module's input was normalized, ``(pixel / max_value - mean) / std``: one number, or one a
            channel. Default 0 and 1, as torchvision's ToTensor gives it.
        max_value: the largest pixel or count; default 255 for images, the largest in `calibration` for frames.
        classes: their names.
        out: a folder for NAME.net, or the name of the file.
        name: of the network; default its class.
        samples: how many of the calibration samples are used.
        weight_bits: fewer than the chip's 8.
        strategy, relays: see `snn2chip.passes.quantize` and `snn2chip.passes.schedule`.
        must_fit: refuse a network that cannot be placed on the chip's cores.
        soft_reset: neurons that reset by subtraction, which no neuron of netx does, are refused, with what a reset to
            zero would change on the calibration samples; 'hard' takes that and says it in the notes. Better is a
            network that is trained with a reset to zero, from this one on.
        run: what runs the network, ``run(network, x)``, where that is not its forward function alone: one whose loop
            over time steps is outside of it, say.

    Raises:
        UnsupportedError, ChipLimitError: what cannot be exported or placed, named by layer, with what can.
        InputError: samples that are no input of this network, or a missing number.
    """
    if not isinstance(handed := cast("object", network), (nn.Module, Written, ir.Network)):
        said = handed.__name__ if isinstance(handed, type) else f"a {type(handed).__name__}"
        raise InputError(
            f"network is {said}; give the trained module itself, or what snn2chip.load reads of a file (a state_dict "
            f"goes into a module first: module.load_state_dict)"
        )
    if isinstance(network, nn.Module) and any(
        value.is_meta or isinstance(value, UninitializedParameter) for value in network.parameters()
    ):
        raise InputError("network: some of its weights have no values yet; load or train them first")
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise InputError(f"classes {one_line(classes)}: expected a list of names, one for each output")
    classes = tuple(map(str, classes))
    check_choice("soft_reset", soft_reset, SoftReset)
    profile = (chip if isinstance(chip, Chip) else chips.load(str(chip))).with_weight_bits(weight_bits)
    if profile.layers is not None:
        raise UnsupportedError(f"{profile.name} is not placed on cores; save the model and export it with its command")
    given, _ = gather(calibration, samples, labelled=False)
    share: float | None = None
    softened: list[str] = []
    called = name or type(network).__name__.lower()
    path = None if out is None else _target(Path(out), called)
    if run is not None:
        if not isinstance(network, nn.Module):
            raise InputError("run is for modules; what a file holds runs as it is, so leave it out")
        network = Handed(network, run)
    own = network if isinstance(network, (Written, ir.Network)) else _own(network)
    trained: Adapted | SpikingNetwork | Written | ir.Network
    if own is None:
        assert isinstance(network, nn.Module)
        rows = given.ndim == 3
        given = given[:, :, None] if rows else given
        scaling, described, steps = _described(given, timesteps, mean, std, max_value)
        module = copied(network)
        softened = harden(module)
        try:
            trained = adapt(module, described, steps, classes)
        except InputError as error:
            if not rows and not isinstance(error, OtherTimeError):
                raise
            more = " (samples of three axes are rows (N, C, L); images are (N, C, H, W))" if rows else ""
            if isinstance(error, OtherTimeError) and any(isinstance(part, STEPPED) for part in module.modules()):
                more += (
                    "; layers of snn2chip.nn take all steps at once, so put the network into snn2chip.nn.SpikingNetwork"
                    "(encoder, network, readout, input_shape), which gives them these, and train it so"
                )
            raise type(error)(f"{error}{more}") from None
        captured = trained.captured
        share = trained.ending.factor if trained.ending.layout == "total" else None
    else:
        for what, value in (("timesteps", timesteps), ("max_value", max_value), ("mean", mean), ("std", std)):
            if value is not None:
                raise InputError(f"{what} is said by the network itself, by its encoder or its file; leave it out")
        if isinstance(own, SpikingNetwork):
            trained = unwrapped(copied(own))  # what is deployed stays as it is, whatever is trained on
            captured = capture(trained, classes)
        else:
            if classes:
                raise InputError("classes are said by the file itself; leave them out")
            trained, captured = own, own.captured if isinstance(own, Written) else own
        scaling = Scaling(captured.input.pixel_max, asked=False)
    outputs = captured.shape(captured.readout.inputs[0])[0]
    if len(classes) not in (0, outputs):
        raise InputError(f"{len(classes)} classes for {outputs} outputs; give the names of all, in their order")
    raw_samples, scaled = integers(given, scaling)
    raw = encoder_of(captured)(raw_samples)
    changed: tuple[str, ...] = ()
    if softened:
        assert isinstance(trained, Adapted) and isinstance(network, nn.Module)  # ours have none
        changed = _changed(trained, network, softened, raw, soft_reset)
    source = pipeline.Source(captured, called)
    export = pipeline.export(source, profile, calibration=raw, strategy=strategy, relays=relays, share=share)
    found = fits.fit(demand.of_chain(export.chain), profile)
    if must_fit and not found.fits:
        raise ChipLimitError(f"{'; '.join(found.problems)}; must_fit=False exports it all the same")
    if path is not None:
        netx.save(path, export.chain)
    notes = tuple(dict.fromkeys([*((scaled,) if scaled else ()), *changed, *export.notes]))
    return Deployed(trained, export, found, path, notes, scaling, raw_samples)


_MODELS = (".pt", safetensors.SUFFIX)
_CHAINS = (".net", ".h5", ".hdf5")


def _target(out: Path, name: str) -> Path:
    """The .net file that `out` names, or that is made in the folder `out`.

    Raises:
        InputError: `out` is the name of another kind of file, or `name` that of no file.
    """
    if out.suffix == ".net":
        return out
    if out.suffix.lower() in (*_MODELS, *_CHAINS, ".pth", ".onnx", ".nir") and not out.is_dir():
        raise InputError(
            f"out '{out}': expected a folder, or a name that ends in .net; .save() of what it gives writes "
            f"{' and '.join(_MODELS)}"
        )
    if Path(f"{name}.net").name != f"{name}.net":
        raise InputError(f"name '{one_line(name)}' is no name of a file; leave out what makes folders of it")
    return out / f"{name}.net"


def _changed(
    trained: Adapted, network: nn.Module, names: Sequence[str], raw: ir.IntArray, wanted: SoftReset
) -> tuple[str, ...]:
    """What is said of a reset by subtraction.

    Raises:
        UnsupportedError: it was not asked for.
    """
    said = change(trained, replace(trained, module=copied(network)), names, raw)
    if wanted == "refuse":
        raise UnsupportedError(
            f"network: {said}. Train on with a reset to zero (SpikingJelly v_reset=0.0, snnTorch "
            f"reset_mechanism='zero'), or take it as it is with soft_reset='hard'"
        )
    return (said,)


def load(path: str | Path, **asked: Unpack[Asked]) -> SpikingNetwork | Written | ir.Network:
    """The network in a file, for `deploy`: of model.pt or model.safetensors, or a NIR graph.

    Args:
        path: the file; what it holds says which it is.
        asked: what a NIR graph of another maker does not say: timesteps (steps a sample), high (the largest input, an
            integer), mean and std (what it reads is ``(value / high - mean) / std``; the integers as they are, if not
            given), dt (seconds a step, default 1e-4), ties ("hold" or "fire": what a membrane right at its threshold
            does) and events (how recordings are binned, `snn2chip.data.recordings.BinSettings`).

    Returns:
        A recipe's network, which can be trained on; the captured network of a graph; a NIR graph with what was read of
        it. Each is taken by `deploy`.

    Raises:
        InputError: unreadable, damaged, no network, or something of `asked` is missing or of no use.
        UnsupportedError: a node that no network of ours has, by name and type.
        SetupError: a NIR graph, and the package nir is not installed.
    """
    if is_hdf5(Path(path)):
        written = nir.load(path, **asked)
        check(written.captured)
        return written
    if asked:
        raise InputError(f"{next(iter(asked))} is for NIR graphs; '{path}' is none, and says it itself; leave it out")
    found = model_file.load_any(path)
    return check(found.network) if isinstance(found, model_file.Graph) else found.network


def _own(network: nn.Module) -> SpikingNetwork | None:
    try:
        return unwrapped(network)
    except InputError:
        return None


def _described(
    samples: NDArray[Any],
    timesteps: int | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    max_value: int | None,
) -> tuple[Scaling, ir.Input, int]:
    """How the samples of a module of another framework are scaled, its input, and its time steps."""
    for what, value in (("timesteps", timesteps), ("max_value", max_value)):
        if value is not None:
            check_whole(what, value, 1)
    shape = samples.shape[1:]
    if samples.ndim == 5:
        if mean is not None or std is not None:
            raise InputError("mean and std are for images; frames reach the network as they are")
        if timesteps not in (None, len(samples[0])):
            raise InputError(f"timesteps {timesteps}, but the samples have {len(samples[0])} steps (N, T, C, H, W)")
        high = max_value if max_value is not None else max(1, int(np.nan_to_num(samples).max(initial=1)))
        return Scaling(high), frames(shape[1:], high), len(samples[0])
    if samples.ndim not in (2, 4):
        raise InputError(
            f"samples of shape {samples.shape}; give images (N, C, H, W), rows (N, C, L), features (N, F) or frames "
            f"(N, T, C, H, W)"
        )
    if timesteps is None:
        raise InputError("images have no time steps; give timesteps=, those that the network was trained for")
    means, deviations = _each("mean", mean, 0.0), _each("std", std, 1.0)
    scaling = Scaling(255 if max_value is None else max_value, means, deviations)
    return scaling, pixels(shape, scaling.high, means, deviations), timesteps


def _each(what: str, value: float | Sequence[float] | None, default: float) -> tuple[float, ...]:
    """One number a channel, or one for all.

    Raises:
        InputError: it is no number.
    """
    try:
        found = np.asarray(default if value is None else value, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} {one_line(value)}: expected a number, or one a channel") from None
    return tuple(found.reshape(-1).tolist())
