"""The training loop: deterministic in (seed, epoch, step), so that a resumed run repeats an unbroken one.

All randomness of a step (order, augmentation, dropout, Poisson input) is seeded from (seed, epoch, step):
a checkpoint needs no generator state, and may be taken at any step.

Under torchrun each process takes its part of every batch: order, augmentation, statistics and the mean of the gradients
are those of the whole batch, so that losses are a single process's up to rounding. Dropout and Poisson input draw in
each process for itself, from (seed, epoch, step, rank). The leader alone writes.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip import parallel
from snn2chip.data import Augment, AugmentSpec, ImageSet
from snn2chip.data.augment import mix
from snn2chip.errors import InputError
from snn2chip.files import exclusive, make_way, refuse_results, write_text
from snn2chip.nn import BNTT, LIF, PoissonInput, SpikingNetwork, TDBatchNorm, model_file
from snn2chip.nn.early_exit import early_exit
from snn2chip.nn.neuron import fuse_neurons
from snn2chip.recipe import Recipe
from snn2chip.train import checkpoint
from snn2chip.train.allocator import keep_pages
from snn2chip.train.balance import balance
from snn2chip.train.checkpoint import Progress
from snn2chip.train.optimization import make_optimizer, schedule
from snn2chip.train.quantized import FLOAT, Quantized
from snn2chip.train.start_from_model import shorten, start_from
from snn2chip.train.surroundings import processor_name, whole
from snn2chip.train.whiten import whiten

CHECKPOINT_SECONDS = 60.0
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


def _mix(*parts: int) -> int:
    """One 63-bit seed from several numbers (splitmix64's finalizer, chained)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def validation_seed(recipe: Recipe) -> int:
    """What draws the samples that are set aside, see `ImageSet.set_aside`."""
    return _mix(recipe.train.seed, 4)


def channel_statistics(images: ImageSet) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units of image / max_value."""
    if images.events is not None:
        return [], []  # events reach the network as they are
    mean, std = [], []
    for channel in range(images.images.shape[1]):
        counts = torch.bincount(images.images[:, channel].flatten(), minlength=images.max_value + 1).double()
        levels = torch.arange(len(counts), dtype=torch.float64) / images.max_value
        m = float((counts * levels).sum() / counts.sum())
        mean.append(round(m, 6))
        std.append(round(max(float((counts * (levels - m) ** 2).sum() / counts.sum()) ** 0.5, 1e-3), 6))
    return mean, std


@torch.no_grad()
def evaluate(
    network: SpikingNetwork,
    images: ImageSet,
    *,
    batch_size: int = 250,
    device: torch.device | None = None,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> float:
    """Accuracy of `network` (in eval mode) on `images`, as a fraction. Poisson input restarts from seed 0.

    Several processes share the images. `stop` is asked before every batch whether the result is still wanted.
    """
    device = device or torch.device("cpu")
    network.eval()
    if isinstance(network.encoder, PoissonInput):
        network.encoder.reseed(parallel.rank())
    correct = 0
    part = parallel.share(len(images))
    for start in range(part.start, part.stop, batch_size):
        if stop():
            break
        here = slice(start, min(start + batch_size, part.stop))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            scores = network(images.images[here].to(device))
        correct += int((scores.argmax(1).cpu() == images.labels[here]).sum())
        if progress is not None:
            progress(here.stop - part.start, part.stop - part.start)
    return parallel.sum_over(correct)[0] / len(images)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=_generator(seed))


class Trainer:
    """One training run in folder `out`: `model.pt`, `metrics.jsonl`, `checkpoint.pt`.

    Nothing in `out` is changed before `run`, which holds the folder. A run that is there already is gone on with
    (`resume`), deleted by `run` (`overwrite`), or refused.

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
    ) -> None:
        self.recipe, self.out = recipe, out
        self._resume, self._overwrite = resume, overwrite
        self.train_set, self.validation_set = train.set_aside(recipe.data.validation, validation_seed(recipe))
        self.train_set = self.train_set.subset(recipe.data.train_limit)
        self.test_set = test
        self.device = device or torch.device("cpu")
        self.notes: list[str] = []
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
        torch.manual_seed(_mix(recipe.train.seed))
        mean, std = channel_statistics(self.train_set)
        self.network = model_file.build_network(recipe, train.shape, len(train.classes), train.max_value, mean, std).to(
            self.device
        )
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.train.whiten:
            whiten(self.network, self.train_set)
        self.init, self.teacher_file = init, teacher
        self.teacher = None if teacher is None else self._teacher(teacher)
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
        # the running average of the weights; its buffers are taken anew whenever it is looked at
        self.average = copy.deepcopy(self.network) if recipe.train.average else None
        self.steps_per_epoch = len(self.train_set) // recipe.train.batch_size
        table = recipe.data.augment
        self.augment = Augment(AugmentSpec(**dict(table)))
        self._sides = torch.randint(2, (len(self.train_set),), generator=_generator(_mix(recipe.train.seed, 5)))
        self.progress = Progress()
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
            content, path, self.recipe, self.network, self.average, self.optimizer, self.steps_per_epoch
        )

    def _balance(self) -> None:
        """Thresholds for a network whose weights come from ReLUs, from one batch of training images."""
        spec = self.recipe.train
        if not any(isinstance(module, LIF) for module in self.network.modules()):
            return
        rows = _order(len(self.train_set), _mix(spec.seed, 3))[: spec.batch_size]
        set_to = balance(self.network, self.train_set.images[rows].to(self.device), spec.balance_percentile)
        self.notes.append(
            f"thresholds set to percentile {spec.balance_percentile:g} of the currents: "
            + ", ".join(f"{name} {value:.4g}" for name, value in set_to.items())
        )

    def run(self) -> Iterator[Event]:
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
                order = _order(len(self.train_set), _mix(spec.seed, 1, progress.epoch))
                started = time.monotonic()
                while progress.step < self.steps_per_epoch:
                    # the first step compiles, which takes long and has nothing to lose
                    with whole() if self._stepped else nullcontext():
                        self._half = True
                        self._step(order)
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

    def _step(self, order: Tensor) -> None:
        spec, progress, network = self.recipe.train, self.progress, self.network
        seed = _mix(spec.seed, 2, progress.epoch, progress.step)
        own = _mix(seed, parallel.rank()) if parallel.rank() else seed
        torch.manual_seed(own)
        if isinstance(network.encoder, PoissonInput):
            network.encoder.reseed(own)
        images, labels = self._batch(order, progress.epoch, progress.step)
        count, classes = len(labels), labels.argmax(1) if labels.ndim == 2 else labels
        share = schedule(spec, progress.epoch * self.steps_per_epoch + progress.step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["peak"]
        network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
            steps, scores = self._scores(images)
            taught = None if self.teacher is None else self._taught(images)
        loss = self._loss(steps, scores, labels, taught)
        right = int((scores.argmax(1) == classes).sum())
        total, correct, stopping = parallel.sum_over(loss.item() * count, right, self._interrupt.asked)
        value = total / spec.batch_size if parallel.size() > 1 else loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"loss {value}")
        network.zero_grad()
        if parallel.size() > 1:  # the mean over processes is then that over the batch
            loss = loss * (count * parallel.size() / spec.batch_size)
        loss.backward()  # type: ignore[no-untyped-call]
        parallel.average_gradients([p for p in network.parameters() if p.requires_grad])
        # a neuron turns NaN into silence, so that the loss of a network full of NaN is finite: gradients tell
        limit = math.inf if spec.grad_clip is None else spec.grad_clip
        size = float(nn.utils.clip_grad_norm_(network.parameters(), limit))
        if not math.isfinite(size):
            raise self._diverged(f"gradient {size}")
        self.optimizer.step()
        if self.average is not None:
            done = progress.epoch * self.steps_per_epoch + progress.step
            left = 1 - min(spec.average, (1 + done) / (10 + done))  # young averages forget their start sooner
            with torch.no_grad():
                for kept, new in zip(self.average.parameters(), network.parameters(), strict=True):
                    kept.lerp_(new, left)
        progress.loss_sum += value * spec.batch_size
        progress.correct += int(correct)
        progress.seen += spec.batch_size
        progress.step += 1
        self._stopping = bool(stopping)

    def _scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the loss is of: outputs (T, N, K) and their readout (N, K), which is all that integers give."""
        spec, p, network = self.recipe.train, self.progress, self.network
        if self.quantized is None or spec.quantize is None:
            steps = network.steps(network.encoder(images))
            return steps, network.readout(steps)
        exact = round((1 - spec.quantize.freeze) * spec.epochs * self.steps_per_epoch)  # from here on
        scores = self.quantized(images, frozen=p.epoch * self.steps_per_epoch + p.step >= exact)
        return scores.unsqueeze(0), scores

    def _batch(self, order: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """This process's part of a batch, augmented: images and labels (N,), or (N, K) where images are mixed.

        Augmented whole, so that a part does not depend on how many there are.
        """
        table, size = self.recipe.data.augment, self.recipe.train.batch_size
        rows = order[step * size : (step + 1) * size]
        generator = torch.Generator(self.device).manual_seed(_mix(self.recipe.train.seed, 2, epoch, step))
        flipped = (self._sides[rows] + epoch) % 2 == 1 if table.flip == "alternating" else None
        images = self.augment(self.train_set.images[rows].to(self.device), generator, flipped)
        labels = self.train_set.labels[rows].to(self.device)
        if table.cutmix or table.mixup:
            images, labels = mix(images, labels, self.augment.spec, len(self.train_set.classes), generator)
        part = parallel.share(len(rows))
        images = images[part]
        return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images, labels[part]

    def _loss(self, steps: Tensor, scores: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
        """The recipe's loss of the outputs (T, N, K) and their readout (N, K), with the teacher's scores if there is
        one (Hinton et al. 2015)::

            (1 - d) * cross entropy  +  d * temperature^2 * KL(teacher || network), both at that temperature
        """
        spec = self.recipe.train
        if spec.loss == "steps":
            labels = labels.repeat(len(steps), *(1,) * (labels.ndim - 1))
            own = steps.float().flatten(0, 1)
        else:
            own = scores.float()
        loss = F.cross_entropy(own, labels, label_smoothing=spec.label_smoothing)
        if taught is None:
            return loss
        found = F.log_softmax(scores.float() / spec.temperature, 1)
        wanted = F.log_softmax(taught.float() / spec.temperature, 1)
        apart = F.kl_div(found, wanted, log_target=True, reduction="batchmean") * spec.temperature**2
        return (1 - spec.distill) * loss + spec.distill * apart

    def _teacher(self, path: Path) -> SpikingNetwork:
        model = model_file.load(path)
        if model.network.input_shape != self.network.input_shape or model.classes != self.train_set.classes:
            raise InputError(
                f"--teacher '{path}' tells {len(model.classes)} classes of {model.network.input_shape} images apart, "
                f"the recipe {len(self.train_set.classes)} of {self.network.input_shape}; give a model of this data set"
            )
        network = model.network.to(self.device)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @torch.no_grad()
    def _taught(self, images: Tensor) -> Tensor:
        """The teacher's scores (N, K) of images as the network sees them."""
        assert self.teacher is not None
        scores: Tensor = self.teacher(images)
        return scores

    @property
    def _kept(self) -> SpikingNetwork:
        """The network to keep: the trained one, its integers, or the average of its weights with own statistics.

        Those are the means over `STATISTICS` batches, as the first of an epoch, of what batch normalization computes.
        """
        if self.quantized is not None:
            return self.quantized.deployed()
        if self.average is None:
            return self.network
        spec, network = self.recipe.train, self.average
        norms = [module for module in network.modules() if isinstance(module, (TDBatchNorm, BNTT))]
        usual = [norm.momentum for norm in norms]
        order = _order(len(self.train_set), _mix(spec.seed, 1, self.progress.epoch))
        network.train()
        torch.manual_seed(_mix(spec.seed, 6))
        with torch.no_grad():
            for step in range(min(STATISTICS, self.steps_per_epoch)):
                for norm in norms:
                    norm.momentum = 1 / (step + 1)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
                    network(self._batch(order, self.progress.epoch, step)[0])
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
        return network.eval()

    def _diverged(self, what: str) -> InputError:
        p, spec = self.progress, self.recipe.train
        return InputError(
            f"training diverged: {what} at epoch {p.epoch + 1}, step {p.step + 1}; "
            f"lower train.lr (now {spec.lr}) or set train.grad_clip"
        )

    def _event(self, metrics: dict[str, float] | None = None) -> Event:
        p = self.progress
        return Event(
            epoch=p.epoch,
            epochs=self.recipe.train.epochs,
            step=p.step,
            steps=self.steps_per_epoch,
            loss=p.loss_sum / max(1, p.seen),
            accuracy=p.correct / max(1, p.seen),
            metrics=metrics,
        )

    def _finish_epoch(self) -> None:
        p = self.progress
        spec = self.recipe.train
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
                device=self.device,
                precision=spec.precision if self.quantized is None else "float32",  # exact
                stop=lambda: self._interrupt.asked,
            )
            found["validation_accuracy"] = round(accuracy, 6)
        if self._interrupt.anywhere():
            raise KeyboardInterrupt
        with whole():
            p.history.append(
                {
                    "epoch": p.epoch + 1,
                    "train_loss": round(p.loss_sum / p.seen, 6),
                    "train_accuracy": round(p.correct / p.seen, 6),
                    **found,
                    "learning_rate": rate,
                    "seconds": round(p.seconds, 2),
                }
            )
            p.epoch, p.step, p.loss_sum, p.correct, p.seen, p.seconds = p.epoch + 1, 0, 0.0, 0, 0, 0.0
        self._checkpoint()

    def _checkpoint(self) -> None:
        if not parallel.is_leader():
            return
        checkpoint.save(
            self.out / "checkpoint.pt", self.recipe, self.network, self.average, self.optimizer, self.progress
        )
        lines = "".join(json.dumps(row) + "\n" for row in self.progress.history)
        write_text(self.out / "metrics.jsonl", lines)

    def _processor(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return processor_name()

    def _finish(self) -> None:
        network, recipe = self._kept.eval().to("cpu"), self.recipe
        if self.quantized is not None:
            recipe = self.quantized.recipe
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        accuracy = evaluate(network, self.test_set)
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
            "hardware": f"{self._processor()}, {torch.get_num_threads()} threads"
            + (f", {parallel.size()} processes" if parallel.size() > 1 else ""),
        }
        if self.quantized is not None:
            metrics["quantized"] = self.quantized.figures()
        if any(isinstance(module, BNTT) for module in network.modules()):
            metrics["early_exit"] = self._early_exit(network)
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
            fewer = shorten(network, self.recipe, found.timesteps, len(self.test_set.classes))
            short["accuracy"] = evaluate(fewer, self.test_set.first_steps(found.timesteps))
        return short
