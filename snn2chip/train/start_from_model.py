"""Start a network from a trained one of the same layers: other time steps, another normalization.

What a module keeps its parameters in may differ between the two (a trainable tau is a logit, a fixed one a
buffer; BNTT has one row a step where tdBN has one): each is carried over by what it means.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snn2chip.errors import InputError
from snn2chip.nn import BNTT, LIF, DirectInput, SpikingNetwork, TDBatchNorm, in_float64, model_file
from snn2chip.recipe import Recipe, parse


def _leaves(body: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in body.named_modules() if not list(module.children())}


def fit_steps(table: Tensor, timesteps: int) -> Tensor:
    """Rows of a per-step table (T, C) for another T.

    What a step sees depends on the steps before it alone, so the first rows stay as they are when T shrinks; when T
    grows, the last row is repeated.
    """
    kept = table[:timesteps]
    return torch.cat([kept, kept[-1:].expand(timesteps - len(kept), *kept.shape[1:])])


def _neuron(name: str, old: LIF, new: LIF) -> None:
    old = in_float64(old)
    tau, threshold = old.tau.detach(), old.threshold.detach()
    if new.tau_logit is not None:
        if float(tau) >= 1:
            raise InputError(
                f"layer '{name}': tau 1 (no leak) cannot become a trainable one, which is below 1; "
                f"set model.neuron.trainable_tau = false"
            )
        new.tau_logit.copy_(torch.logit(tau))
    else:
        new.get_buffer("fixed_tau").copy_(tau)
    if new.log_threshold is not None:
        new.log_threshold.copy_(threshold.log())
    else:
        new.get_buffer("fixed_threshold").copy_(threshold)


def _steps(old: BNTT, new: BNTT) -> None:
    for name, value in old.state_dict().items():
        new.state_dict()[name].copy_(fit_steps(value, new.timesteps))


def _scaled(old: TDBatchNorm, new: TDBatchNorm) -> None:
    """The same function: alpha and the threshold in tdBN's gain are the recipe's, gamma makes up for another one."""
    new.load_state_dict(old.state_dict())
    gain, wanted = new.alpha * new.threshold, old.alpha * old.threshold
    if gain != wanted:
        new.weight.mul_(wanted / gain)
    new.running_var.add_(old.eps - new.eps).clamp_(min=0)


def _per_step(name: str, old: TDBatchNorm, new: BNTT, synapse: nn.Module | None) -> str | None:
    """tdBN's gamma, mean and variance at every step; returns what BNTT has no place for."""
    gamma = old.weight.detach() * old.alpha * old.threshold
    if bool((gamma == 0).any()):
        channel = int((gamma == 0).nonzero()[0])
        raise InputError(f"layer '{name}': gamma 0 of channel {channel} has no place in BNTT, whose gamma is positive")
    mean = old.running_mean
    if bool((gamma < 0).any()):
        if not isinstance(synapse, (nn.Conv2d, nn.Linear)):
            raise InputError(f"layer '{name}': a negative gamma cannot become BNTT's without a layer to negate")
        sign = gamma.sign()
        synapse.weight.mul_(sign.reshape(-1, *(1,) * (synapse.weight.ndim - 1)))
        if synapse.bias is not None:
            synapse.bias.mul_(sign)
        mean = mean * sign
    new.log_weight.copy_(gamma.abs().log().expand_as(new.log_weight))
    new.running_mean.copy_(mean.expand_as(new.running_mean))
    new.running_var.copy_((old.running_var + old.eps - new.eps).clamp_min(0).expand_as(new.running_var))
    beta = float(old.bias.detach().abs().max())
    return f"{name}: tdBN's beta (up to {beta:.3g}) is left out, BNTT has none" if beta else None


def _same_but_kernel(ours: nn.Conv2d, theirs: nn.Conv2d) -> bool:
    return (
        ours.weight.shape != theirs.weight.shape
        and ours.weight.shape[:2] == theirs.weight.shape[:2]
        and all(getattr(ours, key) == getattr(theirs, key) for key in ("stride", "dilation", "groups"))
        and (ours.bias is None) == (theirs.bias is None)
    )


def _taps(name: str, old: nn.Conv2d, new: nn.Conv2d) -> str:
    """A kernel of another size: each weight goes where it meets the same pixel, what is new there is zero.

    Tap i of a kernel meets pixel ``stride * x + dilation * i - padding``.

    Raises:
        InputError: the paddings do not differ by whole taps.
    """
    places: list[tuple[slice, slice]] = []
    for axis, (had, has) in enumerate(zip(old.weight.shape[2:], new.weight.shape[2:], strict=True)):
        ahead, odd = divmod(int(new.padding[axis]) - int(old.padding[axis]), int(new.dilation[axis]))
        if odd:
            raise InputError(f"layer '{name}': the taps of its kernel lie between those of the one to start from")
        first, end = max(0, ahead), min(has, had + ahead)
        places.append((slice(first, end), slice(first - ahead, end - ahead)))
    new.weight.zero_()
    new.weight[:, :, places[0][0], places[1][0]] = old.weight[:, :, places[0][1], places[1][1]]
    if new.bias is not None and old.bias is not None:
        new.bias.copy_(old.bias)
    sizes = (" x ".join(map(str, conv.weight.shape[2:])) for conv in (old, new))
    return f"{name}: its kernel was {next(sizes)} and is {next(sizes)}; the taps that both have keep their weights"


def _input(network: SpikingNetwork, trained: SpikingNetwork) -> list[str]:
    """The normalization of the input; returns a note where it was another one."""
    new, old = network.encoder, trained.encoder
    if not (isinstance(new, DirectInput) and isinstance(old, DirectInput)) or new.mean.shape != old.mean.shape:
        return []
    other = not (torch.equal(new.mean.cpu(), old.mean.cpu()) and torch.equal(new.std.cpu(), old.std.cpu()))
    new.mean.copy_(old.mean)
    new.std.copy_(old.std)
    if not other:
        return []
    mean, std = (", ".join(f"{value:.4g}" for value in values.tolist()) for values in (old.mean, old.std))
    return [f"input normalized with mean {mean} and std {std}, as where the weights come from"]


@torch.no_grad()
def start_from(network: SpikingNetwork, trained: SpikingNetwork, source: str) -> list[str]:
    """Give `network` the weights, statistics and neuron constants of `trained`; returns what could not go along.

    The layers must be the same by name and size; a kernel may have more or fewer taps (see `_taps`). T may differ (see
    `fit_steps`), tau and the threshold may be trainable in one and fixed in the other, and a tdBN may become a BNTT
    (its beta is left out). Where the trained network has a ReLU, a LIF keeps its constants: its threshold is to be
    balanced (`snn2chip.train.balance`).
    Direct input is normalized with the trained network's mean and deviation, which its weights belong to.

    Raises:
        InputError: a layer is missing on one side, or has another kind or size.
    """
    notes = _input(network, trained)
    old, new = _leaves(trained.body), _leaves(network.body)
    previous: nn.Module | None = None
    for name in [*new, *(name for name in old if name not in new)]:
        ours, theirs = new.get(name), old.get(name)
        if isinstance(ours, LIF) and isinstance(theirs, LIF):
            _neuron(name, theirs, ours)
        elif isinstance(ours, LIF) and isinstance(theirs, nn.ReLU):
            pass
        elif isinstance(ours, TDBatchNorm) and isinstance(theirs, TDBatchNorm) and ours.channels == theirs.channels:
            _scaled(theirs, ours)
        elif isinstance(ours, BNTT) and isinstance(theirs, BNTT) and ours.channels == theirs.channels:
            _steps(theirs, ours)
        elif isinstance(ours, BNTT) and isinstance(theirs, TDBatchNorm) and ours.channels == theirs.channels:
            if note := _per_step(name, theirs, ours, previous):
                notes.append(note)
        elif isinstance(ours, nn.Conv2d) and isinstance(theirs, nn.Conv2d) and _same_but_kernel(ours, theirs):
            notes.append(_taps(name, theirs, ours))
        else:
            shapes = [
                None if module is None else {key: tuple(value.shape) for key, value in module.state_dict().items()}
                for module in (theirs, ours)
            ]
            if ours is None or theirs is None or type(ours) is not type(theirs) or shapes[0] != shapes[1]:
                raise InputError(
                    f"{source}: '{name}' is {_say(theirs)} there and {_say(ours)} in the recipe; the layers must be "
                    f"the same (time steps and kernel sizes may differ, tdBN may become BNTT, a ReLU a LIF)"
                )
            ours.load_state_dict(theirs.state_dict())
        previous = ours
    return notes


def shorten(network: SpikingNetwork, recipe: Recipe, timesteps: int, classes: int) -> SpikingNetwork:
    """A copy of a trained network that stops after its first `timesteps` steps, in eval mode, on the CPU."""
    values = recipe.model_dump(mode="json")
    values["model"]["timesteps"] = timesteps
    encoder = network.encoder
    constants = [encoder.mean.tolist(), encoder.std.tolist()] if isinstance(encoder, DirectInput) else []
    fewer = model_file.build_network(parse(values), network.input_shape, classes, encoder.max_value, *constants)
    start_from(fewer, network, "the network itself")
    return fewer.eval()


def _say(module: nn.Module | None) -> str:
    if module is None:
        return "absent"
    shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in module.state_dict().items() if value.ndim)
    return f"{type(module).__name__}({shapes})" if shapes else type(module).__name__
