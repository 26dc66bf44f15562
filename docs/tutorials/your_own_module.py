# %% [markdown]
# # Your own module
#
# A module of torch's layers with neurons of `snn2chip.nn` between them, trained as any other, then taken to the chip's
# integers and held against itself. Needs nothing but snn2chip.

# %%
import torch
from torch import nn

import snn2chip
from snn2chip.data import load
from snn2chip.nn import LIF

torch.manual_seed(0)
train, test = load("digits", "train"), load("digits", "test")  # uint8 (N, 1, 8, 8), pixels 0..16
MEAN, STD, STEPS = 0.3, 0.4, 4


# %% [markdown]
# It takes all time steps at once, (T, N, C, H, W): torch's layers see steps and samples in one axis, our neurons see
# them apart. What it returns is averaged over time.


# %%
class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.lif1, self.hidden = LIF(tau=0.5, threshold=0.5), nn.Linear(16 * 64, 64)
        self.lif2, self.out = LIF(tau=0.5, threshold=0.5), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        y = self.hidden(self.lif1(y).flatten(2))
        scores: torch.Tensor = self.out(self.lif2(y)).mean(0)
        return scores


def seen(pixels: torch.Tensor) -> torch.Tensor:
    """What the network is trained on: (pixel / 16 - mean) / std, the same at every step."""
    return ((pixels / 16 - MEAN) / STD).expand(STEPS, *pixels.shape)


network = Mine()
optimizer = torch.optim.Adam(network.parameters(), 2e-3)
for _ in range(4):
    for rows in torch.randperm(len(train)).split(64):
        loss = nn.functional.cross_entropy(network(seen(train.images[rows])), train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %% [markdown]
# One call: fold the normalizations, quantize, place on cores, write a file. The images choose the scales.

# %%
deployed = snn2chip.deploy(
    network, train, timesteps=STEPS, mean=MEAN, std=STD, max_value=16, classes=train.classes, out="mine", name="digits"
)
print(deployed)

# %% [markdown]
# The ladder: the module's own forward function in float64, what was captured of it, folded, in integers, in the file,
# in the simulators. `lava=True` adds Lava's simulator.

# %%
for rung in deployed.verify(test, samples=10).rungs:
    print(f"{rung.name:22} {'holds' if rung.passed else 'DIFFERS'}  {rung.detail}")

# %%
simulated = deployed.simulate(test)
network.eval()
with torch.no_grad():
    wanted = network(seen(test.images)).argmax(1)
print(f"accuracy {(wanted == test.labels).float().mean():.4f} in float32, {simulated.accuracy:.4f} in integers")
assert simulated.accuracy is not None and simulated.accuracy > 0.8

# %% [markdown]
# Saved, the network goes through the commands, without this code:
#
#     snn2chip fold-and-export mine/model.pt -o mine/model.net
#     snn2chip verify mine/model.pt mine/model.net
#     snn2chip export mine/model.pt --format nir

# %%
print("wrote", deployed.save("mine/model.pt", samples=20))
