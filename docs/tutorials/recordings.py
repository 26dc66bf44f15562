# %% [markdown]
# # Recordings of an event camera
#
# From files of events to a verified chip network, and a decision on one recording. The recordings are made here: dots
# that move to the left or to the right. Yours may be .bin, .npz, .aedat, and others (docs/event-cameras.md).

# %%
from pathlib import Path

import numpy as np
import torch
from torch import nn

import snn2chip
from snn2chip.data import load
from snn2chip.data.recordings import BinSettings, bin_events, read_recording
from snn2chip.nn import LIF, EventInput, MembraneReadout, SpikingNetwork

rng = np.random.default_rng(0)
torch.manual_seed(0)
SIDE = 16


def record(path: Path, direction: int) -> None:
    """A dot on a line, 100 ms, some noise: x, y, polarity p, and t in microseconds."""
    t = np.sort(rng.integers(0, 100_000, 400))
    place = rng.integers(SIDE) + direction * t * 12 // 100_000
    x, y = place % SIDE, rng.integers(4, 12) + rng.integers(-1, 2, len(t))
    noise = rng.random(len(t)) < 0.1
    x = np.where(noise, rng.integers(0, SIDE, len(t)), x)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=x, y=y, p=rng.integers(0, 2, len(t)), t=t, sensor=(SIDE, SIDE))


for split, count in (("train", 30), ("test", 6)):
    for name, direction in (("left", -1), ("right", 1)):
        for number in range(count):
            record(Path("dots") / split / name / f"{number}.npz", direction)

# %% [markdown]
# One recording as frames (T, 2, H, W), and a whole folder as a data set of them.

# %%
settings = BinSettings(timesteps=8, dt_us=12_500)
events = read_recording(Path("dots/test/left/0.npz"))
print(len(events), "events;", bin_events(events, settings).shape)
train, test = (load("event-folder", split, Path("dots"), events=settings) for split in ("train", "test"))

# %% [markdown]
# Frames reach the network as they are: what it is trained on is what the chip's port gets.

# %%
body = nn.Sequential(
    *(nn.Conv2d(2, 8, 3, padding=1), LIF(tau=0.5, threshold=0.5)),
    *(nn.Conv2d(8, 8, 3, stride=2), LIF(tau=0.5, threshold=0.5), nn.Flatten(), nn.Linear(8 * 49, 2)),
)
network = SpikingNetwork(EventInput(8, 1), body, MembraneReadout(), (2, SIDE, SIDE))
optimizer = torch.optim.Adam(network.parameters(), 3e-3)
for _ in range(5):
    for rows in torch.randperm(len(train)).split(15):
        loss = nn.functional.cross_entropy(network(train.images[rows]), train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %%
deployed = snn2chip.deploy(network, train, classes=train.classes, out="dots.net", name="dots")
print(deployed)
for rung in deployed.verify(test, samples=6).rungs:
    print(f"{rung.name:22} {'holds' if rung.passed else 'differs'}  {rung.detail}")
print(f"accuracy in integers: {deployed.simulate(test).accuracy:.4f} on {len(test)} recordings")

# %% [markdown]
# One recording, from file to decision. A file made by `snn2chip train` knows how its recordings were binned, so that
# `snn2chip stream model.net FILE` does this, window after window; here the frames are given.

# %%
for name in ("left", "right"):
    frames = bin_events(read_recording(Path(f"dots/test/{name}/1.npz")), settings)
    scores = deployed.simulate(frames[None]).trace.scores[0]
    print(f"{name}: decided {train.classes[int(scores.argmax())]}, scores {scores.tolist()}")
    assert scores.any()
