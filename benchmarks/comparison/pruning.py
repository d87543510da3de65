"""Structured pruning as Torch-Pruning does it: units closed by a criterion, then more training."""

import copy

import torch_pruning
from torch import Tensor, nn

from comparison.tasks import Task
from comparison.training import HALVINGS, Finished, Job, share_of, trained

_STEPS = 4  # of iterative pruning


def magnitude(job: Job) -> Finished:
    """Torch-Pruning: units of the smallest weights over the whole network, in four steps, training in between."""
    task = job.task
    net, full = task.build(), task.build()
    options, goal = task.options, task.target.share
    each = task.pruned_by // _STEPS or 1
    done = 0
    for step in range(1, _STEPS + 1):
        epochs = min(each, task.pruned_by - done)
        if epochs:
            trained(job, net, options.changed(epochs=epochs, schedule="constant", ema=None))
            done += epochs
        net = _pruned(task, net, full, job.example, 1 - (1 - goal) * step / _STEPS)
    flat = max(0, round(3 / 8 * options.epochs) - done)
    if flat:
        trained(job, net, options.changed(epochs=flat, schedule="constant", ema=None))
    return Finished(trained(job, net, options.changed(epochs=options.epochs - done - flat, schedule="cosine")))


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
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        small = at(middle)
        if share_of(task, small, full, example) <= goal:
            best, high = small, middle
        else:
            low = middle
    return best
