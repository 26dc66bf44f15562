"""What the processes of tests/test_parallel.py run: `python parallel_worker.py FOLDER`, with torchrun's variables."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from conftest import tiny_recipe

from snn2chip import data, parallel
from snn2chip.nn import BNTT, TDBatchNorm
from snn2chip.nn.norm import merge
from snn2chip.train.loop import Trainer

LAYERS = [
    {"type": "conv", "channels": 8, "norm": "tdbn", "bias": False},
    {"type": "residual", "channels": 8},
    {"type": "conv", "channels": 8, "stride": 2, "norm": "bntt", "bias": False},
    {"type": "flatten"},
    {"type": "dense", "features": "classes", "neuron": False},
]
RECIPE = {
    "model__layers": LAYERS,
    "train__optimizer": "sgd",
    "train__lr": 0.3,
    "train__batch_size": 31,
    "data__augment": {"crop": 1},
}
MOMENTUM = 0.3


def norms() -> dict[str, Any]:
    """Two passes of uneven parts through each norm in float64: outputs, gradients and statistics of this part."""
    found: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(0)
    for name, make, shape in (
        ("tdbn", lambda: TDBatchNorm(5, momentum=MOMENTUM), (3, 7, 5, 4, 4)),
        ("tdbn flat", lambda: TDBatchNorm(5, momentum=MOMENTUM), (3, 7, 5)),
        ("bntt", lambda: BNTT(5, 3, momentum=MOMENTUM), (3, 7, 5, 4, 4)),
        ("bntt flat", lambda: BNTT(5, 3, momentum=MOMENTUM), (3, 7, 5)),
    ):
        norm = make().double()
        # a large mean and a small deviation: sums of squares would cancel
        batches = [torch.randn(shape, generator=generator, dtype=torch.float64) * 0.01 + 100 for _ in range(2)]
        above = torch.randn(shape, generator=generator, dtype=torch.float64)
        part = parallel.share(shape[1])
        x = batches[1][:, part].clone().requires_grad_()
        norm(batches[0][:, part])
        y = norm(x)
        (y * above[:, part]).sum().backward()
        found[name] = {
            "y": y.detach(),
            "dx": x.grad,
            # the sum over parts, which the mean over processes of a loss is the average of
            "parameters": [parallel.rows_of(p.grad).sum(0) for p in norm.parameters() if p.grad is not None],
            "statistics": list(norm.buffers()),
        }
    return found


def training(folder: Path) -> dict[str, Any]:
    """Steps of a run with tdBN, BNTT and a residual block, in float64 but for its loss."""
    sets = data.load("digits", "train"), data.load("digits", "test").subset(101)
    trainer = Trainer(tiny_recipe(**RECIPE), *sets, folder / f"run{parallel.size()}", fuse=False)
    trainer.network.double()
    losses = [trainer.progress.loss_sum for _ in trainer.run()]
    return {"losses": losses, "state": trainer.network.state_dict(), "accuracy": trainer.metrics["float_accuracy"]}


def broken(folder: Path) -> dict[str, Any]:
    """The same run, but the last of several processes gets a Ctrl-C in its third step; then what goes on from there."""
    sets = data.load("digits", "train"), data.load("digits", "test").subset(101)
    out = folder / f"broken{parallel.size()}"
    interrupted, stopped = False, 0
    if parallel.size() > 1:
        trainer = Trainer(tiny_recipe(**RECIPE), *sets, out, fuse=False)
        trainer.network.double()
        try:
            for event in trainer.run():
                stopped = trainer.progress.step
                if event.step == 2 and parallel.rank() == 1:
                    os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            interrupted, stopped = True, trainer.progress.step
        parallel.all_of(None)  # the leader has written
    files = sorted(path.name for path in out.iterdir()) if out.exists() else []
    trainer = Trainer(tiny_recipe(**RECIPE), *sets, out, fuse=False, overwrite=interrupted)
    # restored here: a checkpoint in float64 is refused for a network of float32
    if interrupted:
        trainer.network.double()
        trainer._resume = True
        trainer._restore()
    for _ in trainer.run():
        pass
    return {"interrupted": interrupted, "stopped at": stopped, "files": files, "state": trainer.network.state_dict()}


@parallel.together
def work(folder: Path) -> None:
    """Everything, into a file a process."""
    torch.set_num_threads(1)
    merged = merge(torch.ones(2, 3).expand(4, 2, 3))
    found = {
        "rank": parallel.rank(),
        "size": parallel.size(),
        "share": [parallel.share(count).indices(count)[:2] for count in (0, 1, 2, 7)],
        "sum": parallel.sum_over(parallel.rank() + 1, 0.5),
        "alone": [],
        "merged": list(merged.shape),
        "from leader": parallel.from_leader(lambda: f"made by {parallel.rank()}"),
        "all": parallel.all_of(parallel.rank() * 10),
        "at leader": parallel.all_at_leader(parallel.rank() * 10),
    }
    with parallel.alone():
        found["alone"] = [parallel.size(), parallel.rank(), parallel.sum_over(3)[0]]
    weight, silent = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))
    weight.grad = torch.full((2, 3), float(parallel.rank()))
    parallel.average_gradients([weight, silent])
    found["gradients"] = [weight.grad, silent.grad]
    found["norms"] = norms()
    found["training"] = training(folder)
    found["broken"] = broken(folder)
    torch.save(found, folder / f"found{found['size']}-{found['rank']}.pt")


if __name__ == "__main__":
    work(Path(sys.argv[1]))
