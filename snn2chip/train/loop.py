"""The training loop: deterministic in (seed, epoch, step), so that a resumed run repeats an unbroken one.

All randomness of a step (order, augmentation, dropout, Poisson input) is seeded from (seed, epoch, step):
a checkpoint needs no generator state, and may be taken at any step.

On a GPU nothing in a step waits for its result: losses and the sizes of gradients are summed up there and read every
`READ` steps, before a checkpoint and at an epoch's end. One that is no longer finite is noticed then.

Under torchrun each process takes its part of every batch: order, augmentation, statistics and the mean of the gradients
are those of the whole batch, so that losses are a single process's up to rounding. Dropout and Poisson input draw in
each process for itself, from (seed, epoch, step, rank). The leader alone writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip import parallel
from snn2chip.data import ImageSet
from snn2chip.errors import InputError
from snn2chip.files import exclusive, make_way, refuse_results, write_text
from snn2chip.nn import BNTT, LIF, PoissonInput, SpikingNetwork, model_file
from snn2chip.nn.early_exit import early_exit
from snn2chip.nn.neuron import fuse_neurons
from snn2chip.recipe import Recipe
from snn2chip.train import checkpoint
from snn2chip.train.allocator import keep_pages
from snn2chip.train.average import Average
from snn2chip.train.balance import balance
from snn2chip.train.batches import Batches, order_of, seed_of
from snn2chip.train.checkpoint import FIRING, Progress
from snn2chip.train.graph import Graphed
from snn2chip.train.measure import FIRING_IMAGES, channel_statistics, evaluate, firing_rates
from snn2chip.train.optimization import make_optimizer, schedule
from snn2chip.train.quantized import FLOAT, Quantized
from snn2chip.train.start_from_model import shorten, start_from
from snn2chip.train.surroundings import arithmetic, processor_name, whole
from snn2chip.train.teaching import loss_of, teacher_of
from snn2chip.train.whiten import whiten

CHECKPOINT_SECONDS = 60.0
READ = 50  # steps on a GPU between two looks at losses
STATISTICS = 50  # batches that the statistics of an averaged network are taken from
RESULTS = ("model.pt", "checkpoint.pt", "metrics.jsonl", FLOAT)  # what another run would destroy


@dataclass(frozen=True)
class Event:
    """What the caller may show: one per training step, and one per epoch with `metrics`."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    metrics: dict[str, float] | None = None


def validation_seed(recipe: Recipe) -> int:
    """What draws the samples that are set aside, see `ImageSet.set_aside`."""
    return seed_of(recipe.train.seed, 4)


class Trainer:
    """One training run in folder `out`: `model.pt`, `metrics.jsonl`, `checkpoint.pt`.

    Nothing in `out` is changed before `run`, which holds the folder. A run that is there already is gone on with
    (`resume`), deleted by `run` (`overwrite`), or refused. `graph`: on a GPU, replay a step as one CUDA graph; by
    default where that can be.

    Raises:
        InputError: `out` holds a run and neither was said; resume without a checkpoint, of another recipe or from a
            damaged one; `out` cannot be made; a loss, gradient or statistic that is no longer finite.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ImageSet,
        test: ImageSet,
        out: Path,
        *,
        device: torch.device | None = None,
        resume: bool = False,
        overwrite: bool = False,
        init: Path | None = None,
        teacher: Path | None = None,
        fuse: bool = True,
        graph: bool | None = None,
    ) -> None:
        self.recipe, self.out = recipe, out
        self._resume, self._overwrite = resume, overwrite
        self.train_set, self.validation_set = train.set_aside(recipe.data.validation, validation_seed(recipe))
        self.train_set = self.train_set.subset(recipe.data.train_limit)
        self.test_set = test
        self.device = device or torch.device("cpu")
        self.notes = [note for images in (self.train_set, test) if (note := images.note)]
        if recipe.train.batch_size > len(self.train_set):
            raise InputError(
                f"train.batch_size {recipe.train.batch_size} exceeds the {len(self.train_set)} training images; "
                f"lower it with --set train.batch_size={len(self.train_set)}"
            )
        if recipe.train.batch_size < parallel.size():
            raise InputError(
                f"train.batch_size {recipe.train.batch_size} is less than the {parallel.size()} processes; raise it, "
                f"or lower --nproc-per-node"
            )
        if self.device.type == "cpu":
            keep_pages()
        torch.manual_seed(seed_of(recipe.train.seed))
        mean, std = channel_statistics(self.train_set)
        self.network = model_file.build_network(recipe, train.shape, len(train.classes), train.max_value, mean, std).to(
            self.device
        )
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.train.whiten:
            whiten(self.network, self.train_set)
        self.init, self.teacher_file = init, teacher
        self.teacher = (
            None if teacher is None else teacher_of(teacher, self.network, self.train_set.classes, self.device)
        )
        if init is not None:
            trained = model_file.load(init).network
            self.notes += start_from(self.network, trained, f"--init '{init}'")
            if any(isinstance(module, nn.ReLU) for module in trained.modules()) and not resume:
                with parallel.alone():  # all of them see the same batch
                    self._balance()
        if fuse and (note := fuse_neurons(self.network, self.device)):
            self.notes.append(note)
        self.quantized: Quantized | None = None
        if recipe.model.integers:
            raise InputError("model.integers is what retrain --quantize leaves, not to train; use [train.quantize]")
        if recipe.train.quantize is not None:
            if init is None and not resume:
                raise InputError("train.quantize goes on from a trained network: give --init, or retrain --quantize")
            self.quantized = Quantized(self.network, recipe, len(train.classes), fresh=not resume, fuse=fuse)
        self.optimizer = make_optimizer(self.network, recipe.train)
        self.average = Average(self.network, recipe.train.average) if recipe.train.average else None
        self.batches = Batches(self.train_set, recipe, self.device)
        self.steps_per_epoch = self.batches.steps
        self.progress = Progress()
        # of the epoch: losses times images, right answers, sizes of gradients; read from here into `progress`
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self._every = 1 if self.device.type == "cpu" or parallel.size() > 1 else READ
        self._unread = 0  # steps
        self._shown = (0.0, 0.0)  # loss and accuracy as last read
        self._work: Callable[[Tensor, Tensor], None] = self._pass
        if graph is not False:
            self._replay(asked=graph is True)
        self._half = False  # in the middle of a step: nothing to keep
        self._stepped = False
        self._interrupt = parallel.Interrupt()
        self._stopping = False  # all processes were asked to stop after this step
        if parallel.is_leader():
            with exclusive(out):  # only to say it before training; `run` holds it
                if not resume:
                    refuse_results(out, self._results, overwrite, "--resume")
        if resume:
            self._restore()

    @property
    def _results(self) -> list[Path]:
        return [self.out / name for name in RESULTS]

    def _restore(self) -> None:
        path = self.out / "checkpoint.pt"
        content = parallel.from_leader(lambda: checkpoint.load(path))
        self.progress = checkpoint.restore(
            *(content, path, self.recipe, self.network, None if self.average is None else self.average.network),
            *(self.optimizer, self.steps_per_epoch),
        )
        self._start_sums()

    def _replay(self, asked: bool) -> None:
        """Replay steps as a graph; where that cannot be, note why if it was asked for."""
        why = None
        if self.device.type != "cuda" or parallel.size() > 1:
            why = "it needs one process on a GPU"
        elif self.quantized is not None or isinstance(self.network.encoder, PoissonInput):
            why = "the exporter in every step, and Poisson input, work on the host too"
        if why is None:
            self._work = Graphed(self._pass, [p for p in self.network.parameters() if p.requires_grad])
        elif asked:
            self.notes.append(f"steps are not replayed as a graph: {why}")

    def _balance(self) -> None:
        """Thresholds for a network whose weights come from ReLUs, from one batch of training images."""
        spec = self.recipe.train
        if not any(isinstance(module, LIF) for module in self.network.modules()):
            return
        rows = order_of(len(self.train_set), seed_of(spec.seed, 3))[: spec.batch_size]
        set_to = balance(self.network, self.train_set.images[rows].to(self.device), spec.balance_percentile)
        self.notes.append(
            f"thresholds set to percentile {spec.balance_percentile:g} of the currents: "
            + ", ".join(f"{name} {value:.4g}" for name, value in set_to.items())
        )

    def run(self) -> Generator[Event, None, None]:
        """Train to the end, yielding after every step and epoch; writes everything when done.

        Whatever ends it early (Ctrl-C, an exception, the caller leaving the loop) leaves a checkpoint of the
        last whole step. A Ctrl-C inside a step waits for its end; a second one does not, and leaves the
        checkpoint that was there.

        Raises:
            InputError: another process trains into the same folder, or training diverged.
        """
        with parallel.held_back() as self._interrupt:
            if not parallel.is_leader():
                yield from self._run()
                return
            with exclusive(self.out):
                if not self._resume:
                    make_way(self.out, self._results, self._overwrite, "--resume")
                    self._resume = True  # what comes to be there is ours
                yield from self._run()

    def _run(self) -> Iterator[Event]:
        spec, progress = self.recipe.train, self.progress
        saved = time.monotonic()
        try:
            while progress.epoch < spec.epochs:
                started = time.monotonic()
                while progress.step < self.steps_per_epoch:
                    # the first step compiles, which takes long and has nothing to lose
                    with whole() if self._stepped else nullcontext():
                        self._half = True
                        self._step()
                        self._half, self._stepped = False, True
                    if self._stopping:
                        raise KeyboardInterrupt
                    now = time.monotonic()
                    progress.seconds += now - started
                    started = now
                    if now - saved > CHECKPOINT_SECONDS:
                        self._checkpoint()
                        saved = time.monotonic()
                        started = saved
                    yield self._event()
                self._finish_epoch()
                yield self._event(progress.history[-1])
        except BaseException:
            if (progress.step or progress.epoch) and not self._half:
                self._checkpoint()
            raise
        self._finish()

    def _step(self) -> None:
        spec, progress, network = self.recipe.train, self.progress, self.network
        done = progress.epoch * self.steps_per_epoch + progress.step
        seed = seed_of(spec.seed, 2, progress.epoch, progress.step)
        own = seed_of(seed, parallel.rank()) if parallel.rank() else seed
        torch.manual_seed(own)
        if isinstance(network.encoder, PoissonInput):
            network.encoder.reseed(own)
        share = schedule(spec, done, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["peak"]
        network.train()
        self._work(*self.batches(progress.epoch, progress.step))
        self._unread += 1
        progress.seen += spec.batch_size
        if self._unread >= self._every:
            self._read()
        self.optimizer.step()
        if self.average is not None:
            self.average.add(network, done)
        progress.step += 1

    def _pass(self, images: Tensor, labels: Tensor) -> None:
        """Gradients of a batch, and what `_sums` says of it; of one process nothing here waits for the device."""
        spec, network = self.recipe.train, self.network
        count, classes = len(labels), labels.argmax(1) if labels.ndim == 2 else labels
        with arithmetic(self.device, spec.precision, spec.deterministic):
            steps, scores = self._scores(images)
            with torch.no_grad():
                taught = None if self.teacher is None else self.teacher(images)
        with arithmetic(self.device, "float32", spec.deterministic):
            loss = loss_of(spec, steps, scores, labels, taught)
            seen = torch.stack([loss.detach().double() * count, (scores.argmax(1) == classes).sum().double()])
            network.zero_grad()
            if parallel.size() > 1:  # the mean over processes is then that over the batch
                loss = loss * (count * parallel.size() / spec.batch_size)
            loss.backward()  # type: ignore[no-untyped-call]
        if parallel.size() > 1:
            *totals, stopping = parallel.sum_over(*seen.tolist(), self._interrupt.asked)
            seen, self._stopping = seen.new_tensor(totals), bool(stopping)
            parallel.average_gradients([p for p in network.parameters() if p.requires_grad])
        # a neuron turns NaN into silence, so that the loss of a network full of NaN is finite: gradients tell
        limit = math.inf if spec.grad_clip is None else spec.grad_clip
        size = nn.utils.clip_grad_norm_(network.parameters(), limit)
        self._sums += torch.cat([seen, size.double().view(1)])

    def _start_sums(self) -> None:
        p = self.progress
        self._sums.copy_(torch.tensor([p.loss_sum, p.correct, 0.0], dtype=torch.float64))
        self._shown = p.loss_sum / max(1, p.seen), p.correct / max(1, p.seen)

    def _read(self) -> None:
        """Take `_sums` into `progress`; waits for the device.

        Raises:
            InputError: a loss or gradient that is not finite: training diverged.
        """
        if not self._unread:
            return
        p, (loss, right, size) = self.progress, self._sums.tolist()
        for what, value in (("loss", loss), ("gradient", size)):
            if not math.isfinite(value):
                self._half = True  # not worth a checkpoint
                raise self._diverged(f"{what} {value}")
        p.loss_sum, p.correct, self._unread = loss, int(right), 0
        self._shown = p.loss_sum / p.seen, p.correct / p.seen

    def _scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the loss is of: outputs (T, N, K) and their readout (N, K), which is all that integers give."""
        spec, p, network = self.recipe.train, self.progress, self.network
        if self.quantized is None or spec.quantize is None:
            steps = network.steps(network.encoder(images))
            return steps, network.readout(steps)
        exact = round((1 - spec.quantize.freeze) * spec.epochs * self.steps_per_epoch)  # from here on
        scores = self.quantized(images, frozen=p.epoch * self.steps_per_epoch + p.step >= exact)
        return scores.unsqueeze(0), scores

    @property
    def _kept(self) -> SpikingNetwork:
        """The network to keep: the trained one, its integers, or the average of its weights, with statistics of the
        first `STATISTICS` batches of an epoch."""
        if self.quantized is not None:
            return self.quantized.deployed()
        if self.average is None:
            return self.network
        p, spec = self.progress, self.recipe.train
        torch.manual_seed(seed_of(spec.seed, 6))
        with arithmetic(self.device, spec.precision, spec.deterministic):
            return self.average.settle(
                self.batches(p.epoch, step)[0] for step in range(min(STATISTICS, self.steps_per_epoch))
            )

    def _diverged(self, what: str) -> InputError:
        p, spec = self.progress, self.recipe.train
        last = p.seen // spec.batch_size
        steps = f"step {last}" if self._unread < 2 else f"steps {last - self._unread + 1} to {last}"
        return InputError(
            f"training diverged: {what} at epoch {p.epoch + 1}, {steps}; "
            f"lower train.lr (now {spec.lr}) or set train.grad_clip"
        )

    def _event(self, metrics: dict[str, float] | None = None) -> Event:
        p = self.progress
        return Event(p.epoch, self.recipe.train.epochs, p.step, self.steps_per_epoch, *self._shown, metrics)

    def _finish_epoch(self) -> None:
        p = self.progress
        spec = self.recipe.train
        self._read()
        rate = spec.lr * schedule(spec, p.epoch * self.steps_per_epoch + p.step, self.steps_per_epoch)
        for name, value in self.network.state_dict().items():
            if not bool(torch.isfinite(value).all()):
                self._half = True  # not worth a checkpoint
                raise self._diverged(f"'{name}' is no longer finite")
        found = {}
        if self.validation_set is not None:
            accuracy = evaluate(
                self._kept,
                self.validation_set,
                precision=spec.precision if self.quantized is None else "float32",  # exact
                stop=lambda: self._interrupt.asked,
            )
            found["validation_accuracy"] = round(accuracy, 6)
        rows = order_of(len(self.train_set), seed_of(spec.seed, 1, p.epoch))[:FIRING_IMAGES]
        firing = firing_rates(
            self.network if self.quantized is None else self.quantized.deployed(),
            self.train_set.images[rows].to(self.device),
            spec.precision,
            spec.deterministic,
        )
        if self._interrupt.anywhere():
            raise KeyboardInterrupt
        with whole():
            p.history.append(
                {
                    "epoch": p.epoch + 1,
                    "train_loss": round(p.loss_sum / p.seen, 6),
                    "train_accuracy": round(p.correct / p.seen, 6),
                    **found,
                    **{f"{FIRING}{name}": rate for name, rate in firing.items()},
                    "learning_rate": rate,
                    "seconds": round(p.seconds, 2),
                }
            )
            p.epoch, p.step, p.loss_sum, p.correct, p.seen, p.seconds = p.epoch + 1, 0, 0.0, 0, 0, 0.0
            self._start_sums()
        self._checkpoint()

    def _checkpoint(self) -> None:
        self._read()
        if not parallel.is_leader():
            return
        average = None if self.average is None else self.average.network
        checkpoint.save(self.out / "checkpoint.pt", self.recipe, self.network, average, self.optimizer, self.progress)
        lines = "".join(json.dumps(row) + "\n" for row in self.progress.history)
        write_text(self.out / "metrics.jsonl", lines)

    def _finish(self) -> None:
        network, recipe = self._kept.eval(), self.recipe
        if self.quantized is not None:
            recipe = self.quantized.recipe
        accuracy = evaluate(network, self.test_set)
        gpu = self.device.type == "cuda"
        processor = torch.cuda.get_device_name(self.device) if gpu else processor_name()
        metrics: dict[str, Any] = {
            "dataset": self.test_set.name,
            "source": self.test_set.edition,
            "samples": len(self.test_set),
            "timesteps": network.timesteps,
            **({} if self.recipe.binning is None else {"binning": self.recipe.binning.as_json()}),
            "float_accuracy": accuracy,
            "training_samples": len(self.train_set),
            **self._validated(network),
            "epochs": self.recipe.train.epochs,
            "init": None if self.init is None else self.init.parent.name,
            "teacher": None if self.teacher_file is None else self.teacher_file.parent.name,
            "training_seconds": round(sum(row["seconds"] for row in self.progress.history), 1),
            "hardware": f"{processor}, {torch.get_num_threads()} threads"
            + (f", {parallel.size()} processes" if parallel.size() > 1 else ""),
        }
        if self.quantized is not None:
            metrics["quantized"] = self.quantized.figures()
        if any(isinstance(module, BNTT) for module in network.modules()):
            metrics["early_exit"] = self._early_exit(network)
        network.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.metrics = metrics
        if not parallel.is_leader():
            return
        model_file.save(
            self.out / "model.pt",
            network,
            recipe,
            max_value=self.test_set.max_value,
            classes=self.test_set.classes,
            metrics=metrics,
        )
        if self.quantized is not None:
            self.quantized.save_float(
                self.out / FLOAT, max_value=self.test_set.max_value, classes=self.test_set.classes
            )

    def _validated(self, network: SpikingNetwork) -> dict[str, Any]:
        """The images that were set aside, and the accuracy on them, which choices are made by."""
        kept = self.validation_set
        if kept is None:
            return {}
        return {"validation_samples": len(kept), "validation_accuracy": evaluate(network, kept)}

    def _early_exit(self, network: SpikingNetwork) -> dict[str, Any]:
        """After how many steps the gammas say that no more is to come, and the accuracy there."""
        found = early_exit(network)
        short = {"limit": found.limit, "timesteps": found.timesteps, "layers": dict(found.layers)}
        if found.timesteps < network.timesteps:
            fewer = shorten(network, self.recipe, found.timesteps, len(self.test_set.classes)).to(self.device)
            short["accuracy"] = evaluate(fewer, self.test_set.first_steps(found.timesteps))
        return short
