# %% [markdown]
# # From SpikingJelly
#
# A network that SpikingJelly trained (0.0.0.0.14 or 2.0), from its checkpoint to a verified chip file. Its layers,
# neurons and step modes are read as they are.

# %%
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import snn2chip
from snn2chip.data import load

torch.manual_seed(0)
train, test = load("digits", "train"), load("digits", "test")  # uint8 (N, 1, 8, 8), pixels 0..16
STEPS = 4


# %% [markdown]
# `v_reset=0.0` is what the chip's neuron does; a reset by subtraction (`v_reset=None`) is refused with what a reset to
# zero would change, or taken so with `soft_reset="hard"`.


# %%
def network() -> nn.Module:
    made = nn.Sequential(
        *(layer.Conv2d(1, 16, 3, padding=1, bias=False), layer.BatchNorm2d(16)),
        *(neuron.LIFNode(tau=2.0, v_threshold=0.5, v_reset=0.0), layer.MaxPool2d(2)),
        *(layer.Flatten(), layer.Linear(16 * 16, 10)),
    )
    functional.set_step_mode(made, "m")  # all steps at once, (T, N, C, H, W)
    return made


def seen(pixels: torch.Tensor) -> torch.Tensor:
    """As torchvision's ToTensor leaves an image, here of 16 grey levels, at every step."""
    return (pixels / 16).expand(STEPS, *pixels.shape)


trained = network()
optimizer = torch.optim.Adam(trained.parameters(), 3e-3)
for _ in range(4):
    for rows in torch.randperm(len(train)).split(64):
        loss = nn.functional.cross_entropy(trained(seen(train.images[rows])).mean(0), train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(trained)
torch.save(trained.state_dict(), "checkpoint.pth")

# %% [markdown]
# Another day: the module's code and its checkpoint are what is needed. `mean` and `std` would say how the images were
# normalized; `max_value` is their largest pixel.

# %%
mine = network()
mine.load_state_dict(torch.load("checkpoint.pth", weights_only=True))
deployed = snn2chip.deploy(mine, train, timesteps=STEPS, max_value=16, out="jelly", name="digits")
print(deployed)

# %%
verdict = deployed.verify(test, samples=10)  # raises, and names the first difference, where a rung breaks
for rung in verdict.rungs:
    print(f"{rung.name:22} {'holds' if rung.passed else 'differs'}  {rung.detail}")
accuracy = deployed.simulate(test).accuracy
print(f"accuracy in integers: {accuracy:.4f}")
assert accuracy is not None and accuracy > 0.8
