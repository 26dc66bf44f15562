# %% [markdown]
# # From a netx file
#
# A network that lava-dl exported, or anybody else, is looked at, placed on cores, run in raw chip time and written as
# ONNX, without Lava. The commands do it; here they are called from Python.

# %%
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np


def snn2chip(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "snn2chip", *map(str, arguments)], check=True)


# %% [markdown]
# A stand-in for a file of yours: as lava-dl's `export_hdf5` writes it, two dense layers of CUBA neurons whose currents
# last (`iDecay` below 4096). Weights, decays and thresholds are integers in registers.

# %%
rng = np.random.default_rng(0)
with h5py.File("theirs.net", "w") as file:
    layers = file.create_group("layer")
    first = layers.create_group("0")
    first["type"], first["shape"] = "input", np.array([20])
    for number, (inputs, outputs) in enumerate([(20, 16), (16, 4)], 1):
        layer = layers.create_group(str(number))
        layer["type"], layer["shape"] = "dense", np.array([outputs])
        layer["weight"] = (2 * rng.integers(-60, 90, (outputs, inputs))).astype(np.float32)
        layer["inFeatures"], layer["outFeatures"] = inputs, outputs
        neuron = layer.create_group("neuron")
        neuron["type"] = "CUBA"
        for key, value in {"iDecay": 1024, "vDecay": 128, "vThMant": 200, "refDelay": 1}.items():
            neuron[key] = value

# %% [markdown]
# What is in it, and what stock netx or the chip would clip, cut off or refuse; then its cores.

# %%
snn2chip("show", "theirs.net")
snn2chip("fit", "theirs.net")

# %% [markdown]
# Run, step by step as the chip does: 30 steps of input spikes. Nothing is reset and no latency taken out.

# %%
np.savez("stream.npz", input=(rng.random((30, 20)) < 0.3).astype(np.int64))
snn2chip("chip", "theirs.net", "--input", "stream.npz", "--output", "ours.npz")
with np.load("ours.npz") as found:
    for name in sorted(found.files):
        print(f"{name:12} {found[name].shape}, {np.count_nonzero(found[name]):,} not 0")
    assert found["spikes/1"].any()

# %% [markdown]
# The same integers as ONNX, for any runtime (needs the extra `onnx`); and against Lava itself:
#
#     snn2chip export theirs.net --format onnx --clock chip --timesteps 30
#     snn2chip lava run theirs.net --clock chip --input stream.npz --output lava.npz

# %%
print("files:", *sorted(path.name for path in Path().glob("*.n*")))
