"""What is measured of a network and of its data: accuracy, firing rates, mean and deviation of channels."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from snn2chip import parallel
from snn2chip.data import ImageSet
from snn2chip.nn import PoissonInput, SpikingNetwork
from snn2chip.nn.neuron import listening
from snn2chip.train.surroundings import arithmetic

BATCH = 250  # images of an evaluation
FIRING_IMAGES = 64  # that firing rates are taken from after an epoch
LOOKED_AT = 10_000  # images that are decoded for a data set's mean and deviation


def channel_statistics(images: ImageSet) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units of image / max_value; of files those of the first
    `LOOKED_AT`, which are of all classes alike."""
    if images.events is not None:
        return [], []  # events reach the network as they are
    sums = torch.zeros(images.shape[0], 256, dtype=torch.int64)
    for _, part in images.subset(None if images.files is None else LOOKED_AT).in_parts(BATCH):
        for channel, total in enumerate(sums):
            total += torch.bincount(part[:, channel].flatten(), minlength=256)
    mean, std = [], []
    levels = torch.arange(images.max_value + 1, dtype=torch.float64) / images.max_value
    for counts in sums[:, : len(levels)].double():
        m = float((counts * levels).sum() / counts.sum())
        mean.append(round(m, 6))
        std.append(round(max(float((counts * (levels - m) ** 2).sum() / counts.sum()) ** 0.5, 1e-3), 6))
    return mean, std


@torch.no_grad()
def evaluate(
    network: SpikingNetwork,
    images: ImageSet,
    *,
    batch_size: int = BATCH,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> float:
    """Accuracy of `network` (in eval mode) on `images`, as a fraction, computed where the network is. Poisson input
    restarts from seed 0.

    Several processes share the images. `stop` is asked before every batch whether the result is still wanted.
    """
    device = next(itertools.chain(network.parameters(), network.buffers())).device
    network.eval()
    if isinstance(network.encoder, PoissonInput):
        network.encoder.reseed(parallel.rank())
    correct = torch.zeros((), dtype=torch.int64, device=device)
    part = parallel.share(len(images))
    for here, batch in images.in_parts(batch_size, part):
        if stop():
            break
        with arithmetic(device, precision):
            scores = network(batch.to(device))
        correct += (scores.argmax(1) == images.labels[here].to(device)).sum()
        if progress is not None:
            progress(here.stop - part.start, part.stop - part.start)
    return parallel.sum_over(int(correct))[0] / len(images)


@torch.no_grad()
def firing_rates(network: SpikingNetwork, images: Tensor, precision: str, deterministic: bool) -> dict[str, float]:
    """Share of each layer's neurons that fire in a step, in eval mode, on `images` (N, C, H, W), which are where the
    network is. Poisson input restarts from seed 0."""
    if isinstance(network.encoder, PoissonInput):
        network.encoder.reseed(0)
    rates: dict[str, float] = {}

    def told(name: str, spikes: Tensor) -> None:
        rates[name] = round(float(spikes.float().mean()), 6)

    network.eval()
    with listening(network.body, told), arithmetic(images.device, precision, deterministic):
        network(images)
    return rates
