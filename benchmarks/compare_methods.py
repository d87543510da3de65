"""What a user would do instead, and ours: each method gives a plain network of the size that was asked for."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from compare_tasks import Data, Task
from torch import Tensor, nn

from l0bayes import compact, sparsify
from l0bayes.inference import FitOptions, HardConcreteGuide, fit
from l0bayes.models import Classifier
from l0bayes.posterior.cost import cost
from l0bayes.subnetwork.compacted import compact_network

_STEPS = 4  # of iterative pruning
_HALVINGS = 12


@dataclass
class Finished:
    """A trained network.

    Attributes:
        net: the network.
        opened: group name to which units of the full network it has, where that can be said.
    """

    net: nn.Module
    opened: Mapping[str, Tensor] | None = None


def trained(task: Task, net: nn.Module, data: Data, options: FitOptions | None = None) -> nn.Module:
    """A plain network, trained by the same loop, on the same schedule, as everything else here."""
    model = Classifier(net, num_data=len(data.train))
    fit(model, HardConcreteGuide(model), task.batches(data.train), options=options or task.options, progress=False)
    return net


def share_of(task: Task, small: nn.Module, full: nn.Module, example: Tensor) -> float:
    """What a network has of the full one's parameters, or MACs, as the target counts."""
    of = "parameters" if task.target.of == "parameters" else "macs"
    kept, whole = (getattr(cost(net, example), of) for net in (small, full))
    return float(kept / whole)


def uniform(task: Task, example: Tensor) -> Mapping[str, Tensor]:
    """The same share of every group of units, the largest under which the target is met."""
    full = task.build()
    groups = sparsify(full, example, gates=task.gates).groups
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        opened = {g.name: torch.arange(g.size) < max(1, round(middle * g.size)) for g in groups}
        fits = share_of(task, compact_network(full, groups, _floats(opened)), full, example) <= task.target.share
        low, high = (middle, high) if fits else (low, middle)
    return {g.name: torch.arange(g.size) < max(1, round(low * g.size)) for g in groups}


def _floats(opened: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: gates.float() for name, gates in opened.items()}


def _with_units(task: Task, net: nn.Module, opened: Mapping[str, Tensor], example: Tensor) -> nn.Module:
    return compact_network(net, sparsify(net, example, gates=task.gates).groups, _floats(opened))


# -- the methods ------------------------------------------------------------------------------------------------------


def dense(task: Task, data: Data, example: Tensor, _found: Any) -> Finished:  # noqa: ARG001 (all are called alike)
    """The full network."""
    return Finished(trained(task, task.build(), data))


def thin(task: Task, data: Data, example: Tensor, _found: Any) -> Finished:
    """A network with fewer units, the same share in every layer, from scratch."""
    net = _with_units(task, task.build(), uniform(task, example), example)
    task.initialise(net)
    return Finished(trained(task, net, data))


def found_from_scratch(task: Task, data: Data, example: Tensor, found: Mapping[str, Tensor]) -> Finished:
    """The widths that ours found, from scratch."""
    net = _with_units(task, task.build(), found, example)
    task.initialise(net)
    return Finished(trained(task, net, data))


def ticket(task: Task, data: Data, example: Tensor, found: Mapping[str, Tensor]) -> Finished:
    """The units that ours found, with the weights that they started from."""
    return Finished(trained(task, _with_units(task, task.build(), found, example), data))


def magnitude(task: Task, data: Data, example: Tensor, _found: Any) -> Finished:
    """Torch-Pruning: units of the smallest weights over the whole network, in four steps, training in between."""
    net, full = task.build(), task.build()
    options, goal = task.options, task.target.share
    each = task.pruned_by // _STEPS or 1
    done = 0
    for step in range(1, _STEPS + 1):
        epochs = min(each, task.pruned_by - done)
        if epochs:
            trained(task, net, data, options.changed(epochs=epochs, schedule="constant", ema=None))
            done += epochs
        net = _pruned(task, net, full, example, 1 - (1 - goal) * step / _STEPS)
    flat = max(0, round(3 / 8 * options.epochs) - done)
    if flat:
        trained(task, net, data, options.changed(epochs=flat, schedule="constant", ema=None))
    return Finished(trained(task, net, data, options.changed(epochs=options.epochs - done - flat, schedule="cosine")))


def _pruned(task: Task, net: nn.Module, full: nn.Module, example: Tensor, goal: float) -> nn.Module:
    """The network that global magnitude pruning leaves at a size."""
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1:]
    names = {id(module): name for name, module in net.named_modules()}

    def at(ratio: float) -> nn.Module:
        small = copy.deepcopy(net)
        pruner = torch_pruning.pruner.MagnitudePruner(
            small,
            example,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=0.95,
            ignored_layers=[small.get_submodule(names[id(module)]) for module in last],
        )
        pruner.step()
        return small

    low, high = 0.0, 0.99
    best = net
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        small = at(middle)
        if share_of(task, small, full, example) <= goal:
            best, high = small, middle
        else:
            low = middle
    return best


def ours(task: Task, data: Data, example: Tensor, _found: Any) -> Finished:
    """The library with its defaults."""
    return _gated(task, data, example, task.options)


def paper(task: Task, data: Data, example: Tensor, _found: Any) -> Finished:
    """Gates drawn and moved by their gradients to the same target; fixed in the last quarter of the epochs."""
    late = max(1, task.options.epochs // 4)
    options = task.options.changed(selection="svi", epochs=task.options.epochs - late, fine_tune=late)
    return _gated(task, data, example, options)


def _gated(task: Task, data: Data, example: Tensor, options: FitOptions) -> Finished:
    model = Classifier(sparsify(task.build(), example, gates=task.gates), num_data=len(data.train))
    guide = HardConcreteGuide(model)
    fit(model, guide, task.batches(data.train), target=task.target, options=options, progress=False)
    opened = {name: gates != 0 for name, gates in guide.point().items()}
    return Finished(compact(model, guide), opened)


METHODS: dict[str, Callable[[Task, Data, Tensor, Any], Finished]] = {
    "dense": dense,
    "thin, from scratch": thin,
    "Torch-Pruning, magnitude": magnitude,
    "l0bayes": ours,
    "widths of l0bayes, from scratch": found_from_scratch,
    "units of l0bayes, rewound": ticket,
    "l0bayes, drawn gates (svi)": paper,
}
NEEDS_OURS = ("widths of l0bayes, from scratch", "units of l0bayes, rewound")
