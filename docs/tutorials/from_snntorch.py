# %% [markdown]
# # From snnTorch
#
# A network as snnTorch's tutorials write it, a loop over steps that hands the membranes on, to a verified chip file.

# %%
import snntorch as snn
import torch
from torch import nn

import snn2chip
from snn2chip.data import load

torch.manual_seed(0)
train, test = load("digits", "train"), load("digits", "test")  # uint8 (N, 1, 8, 8), pixels 0..16
STEPS = 5


# %% [markdown]
# `reset_mechanism="zero"` is what the chip's neuron does; snnTorch's default subtracts the threshold, and is refused
# with what a reset to zero would change, or taken so with `soft_reset="hard"`. The image is shown at every step; spikes
# of the last layer are counted.


# %%
class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(64, 100), snn.Leaky(beta=0.8, reset_mechanism="zero")
        self.fc2, self.lif2 = nn.Linear(100, 10), snn.Leaky(beta=0.8, reset_mechanism="zero")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for _ in range(STEPS):
            hidden, first = self.lif1(self.fc1(x.flatten(1)), first)
            out, second = self.lif2(self.fc2(hidden), second)
            spikes.append(out)
            membranes.append(second)
        return torch.stack(spikes), torch.stack(membranes)


network = Net()
optimizer = torch.optim.Adam(network.parameters(), 2e-3)
for _ in range(5):
    for rows in torch.randperm(len(train)).split(64):
        _, membranes = network(train.images[rows] / 16)
        loss = sum(nn.functional.cross_entropy(membranes[t], train.labels[rows]) for t in range(STEPS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %%
deployed = snn2chip.deploy(network, train, timesteps=STEPS, max_value=16, out="snntorch", name="digits")
print(deployed)
for rung in deployed.verify(test, samples=10).rungs:
    print(f"{rung.name:22} {'holds' if rung.passed else 'differs'}  {rung.detail}")
with torch.no_grad():
    wanted = network(test.images / 16)[0].sum(0).argmax(1)  # the class whose neuron fires most
accuracy = deployed.simulate(test).accuracy
before = (wanted == test.labels).float().mean().item()
print(f"accuracy {before:.4f} in float32, {accuracy:.4f} in integers")
assert accuracy is not None and abs(accuracy - before) < 0.1
