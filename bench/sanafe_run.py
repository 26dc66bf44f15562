"""A placed network in SANA-FE; run by the Python of its own environment, which has neither snn2chip nor numpy.

    python bench/sanafe_run.py given.json made.json

given.json: groups (name, core of each neuron, synapse unit, threshold, leak, biases; or spike trains of inputs), links
(two groups, pairs, weights), steps, and what an input neuron is to take, which in SANA-FE's loihi.yaml is nothing.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import sanafe  # type: ignore[import-not-found]


def architecture(inputs: dict[str, float]) -> Any:
    """SANA-FE's Loihi with other figures for its input neurons."""
    text = files("sanafe.examples").joinpath("loihi.yaml").read_text()
    before, found, rest = text.partition("- name: loihi_inputs[")
    assert found
    for key, value in inputs.items():
        rest, count = re.subn(rf"{key}: 0\.0\b", f"{key}: {value!r}", rest, count=1)
        assert count == 1, key
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(before + found + rest)
        file.flush()
        return sanafe.load_arch(file.name)


def network(given: dict[str, Any], arch: Any) -> Any:
    """Groups of neurons on their cores, and every synapse."""
    net, cores, groups = sanafe.Network(), arch.cores(), {}
    for group in given["groups"]:
        many = len(group["cores"])
        made = groups[group["name"]] = net.create_neuron_group(group["name"], many)
        seen: dict[int, int] = {}
        for place, (neuron, core) in enumerate(zip(made, group["cores"], strict=True)):
            if "spikes" in group:
                unit = seen[core] = seen.get(core, -1) + 1
                neuron.set_attributes(
                    soma_hw_name=f"loihi_inputs[{unit}]", model_attributes={"spikes": group["spikes"][place]}
                )
            else:
                constants = {"threshold": group["threshold"], "leak_decay": group["leak"], "input_decay": 0.0}
                constants |= {"bias": group["bias"][place], "reset_mode": "hard", "force_update": True}
                neuron.set_attributes(
                    soma_hw_name="loihi_lif",
                    default_synapse_hw_name=group["synapse"],
                    dendrite_hw_name="loihi_dendrites",
                    model_attributes=constants,
                )
            neuron.map_to_core(cores[core])
    for link in given["links"]:
        pairs = [tuple(pair) for pair in link["pairs"]]
        groups[link["from"]].connect_neurons_sparse(groups[link["to"]], {"weight": link["weights"]}, pairs)
    return net


def main() -> None:
    """Run it with both timing models."""
    given = json.loads(Path(sys.argv[1]).read_text())
    made: dict[str, Any] = {}
    for model in ("simple", "detailed"):
        arch = architecture(given["inputs"])
        chip = sanafe.SpikingChip(arch)
        chip.load(network(given, arch))
        result = chip.sim(given["steps"], timing_model=model, perf_trace=True)
        made[model] = {
            "energy": result["energy"],
            "time": result["sim_time"],
            "each_step": list(result["perf_trace"]["sim_time"]),
            "spikes": result.get("neurons_fired", result["spikes"]),
            "counts": {key: value for key, value in result.items() if isinstance(value, (int, float))},
        }
    Path(sys.argv[2]).write_text(json.dumps(made))


if __name__ == "__main__":
    main()
