"""Structured pruning as Torch-Pruning does it: units closed by a criterion, then more training.

All rank units over the whole network, by the importances and with the settings that Torch-Pruning's own examples have.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
import torch_pruning
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from comparison.tasks import Task
from comparison.training import HALVINGS, Finished, Job, share_of, trained
from l0bayes.inference import TensorBatches

_STEPS = 4  # of iterative pruning
_FLAT = 3 / 8  # of the epochs, over which the rate is constant
_LEAST, _OF = 2, 40  # units of a layer that stay, and one of so many
_OUT_OF_REACH = 1e6  # added to importances of about 1
_BATCHES, _IMAGES = 64, 1024  # over which gradients are averaged, of batches or of single images
_GROUP_PULL = 5e-4  # of the mean loss, as Torch-Pruning has it for CIFAR
_SCALE_PULL = 1.0  # by how much a scale shrinks that nothing holds, in all steps until pruning

_Gradients = Mapping[str, Tensor]
_Importance = Callable[[Any], Tensor | None]


def magnitude(job: Job) -> Finished:
    """Torch-Pruning: units of the smallest weights over the whole network, in four steps, training in between."""
    task = job.task
    net, full = task.build(), task.build()
    goal = task.target.share
    each = task.pruned_by // _STEPS or 1
    done = 0
    for step in range(1, _STEPS + 1):
        epochs = min(each, task.pruned_by - done)
        _train(job, net, epochs)
        done += epochs
        importance = torch_pruning.importance.MagnitudeImportance(p=2)
        net = _pruned(job, net, full, importance, 1 - (1 - goal) * step / _STEPS)
    return _finished(job, net, done)


def taylor(job: Job) -> Finished:
    """Torch-Pruning: units whose weights times gradients are smallest, in one step (Molchanov et al. 2019)."""
    net = job.task.build()
    _train(job, net, _until_pruning(job))
    gradients = _mean_gradients(net, job.task.batches(job.data.train), _BATCHES, power=1)
    return _pruned_at_once(job, net, torch_pruning.importance.GroupTaylorImportance(), gradients)


def fisher(job: Job) -> Finished:
    """Torch-Pruning: as in optimal brain damage (LeCun et al. 1989), with the diagonal of the empirical Fisher matrix.

    Its means are taken here: those of Torch-Pruning 1.6 are of the last image alone.
    """
    net = job.task.build()
    _train(job, net, _until_pruning(job))
    singly = TensorBatches(job.data.train.x, job.data.train.y, 1, shuffle=True)
    gradients = _mean_gradients(net, singly, _IMAGES, power=2)
    return _pruned_at_once(job, net, torch_pruning.importance.GroupHessianImportance(), gradients)


def group_sparsity(job: Job) -> Finished:
    """Torch-Pruning: weights of weak groups are pulled to zero before they go (DepGraph, Fang et al. 2023)."""
    net = job.task.build()
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer="max")
    pull = _GROUP_PULL * len(job.data.train)  # of the loss, a sum over the data
    pruner = _pruner(torch_pruning.pruner.GroupNormPruner, job, net, importance, reg=pull)
    return _after_a_pull(job, net, pruner, importance)


def slimming(job: Job) -> Finished:
    """Network slimming (Liu et al. 2017): scales of batch normalisation are pulled to zero, and the smallest go.

    The paper's strength is for 160 epochs; here a scale of 1 that the loss does not hold is 0 when units go.
    """
    options = job.task.options
    steps = _until_pruning(job) * len(job.task.batches(job.data.train))
    pull = _SCALE_PULL / (steps * options.lr / (1 - options.momentum)) * len(job.data.train)
    net, importance = job.task.build(), torch_pruning.importance.BNScaleImportance()
    pruner = _pruner(torch_pruning.pruner.BNScalePruner, job, net, importance, reg=pull)
    return _after_a_pull(job, net, pruner, importance)


def has_scales(task: Task) -> bool:
    """Whether a network has batch normalisation, for slimming to act on."""
    return any(isinstance(module, nn.BatchNorm2d) for module in task.build().modules())


# -- training ---------------------------------------------------------------------------------------------------------


def _train(job: Job, net: nn.Module, epochs: int) -> None:
    """At a constant rate."""
    if epochs:
        trained(job, net, job.task.options.changed(epochs=epochs, schedule="constant", ema=None))


def _until_pruning(job: Job) -> int:
    """Epochs before pruning in one step."""
    return max(1, job.task.pruned_by)


def _finished(job: Job, net: nn.Module, done: int) -> Finished:
    """The pruned network, trained for the epochs that are left."""
    epochs = job.task.options.epochs
    flat = max(0, round(_FLAT * epochs) - done)
    _train(job, net, flat)
    return Finished(trained(job, net, job.task.options.changed(epochs=epochs - done - flat, schedule="cosine")))


def _pruned_at_once(job: Job, net: nn.Module, importance: _Importance, gradients: _Gradients | None = None) -> Finished:
    """A network that was trained until it is pruned: pruned, and trained on."""
    small = _pruned(job, net, net, importance, job.task.target.share, gradients=gradients)
    return _finished(job, small, _until_pruning(job))


def _after_a_pull(job: Job, net: nn.Module, pruner: Any, importance: _Importance) -> Finished:
    """Trains with the pruner's pull on weights, prunes, and trains on."""
    with _before_steps(lambda: pruner.regularize(net)):
        _train(job, net, _until_pruning(job))
    return _pruned_at_once(job, net, importance)


@contextmanager
def _before_steps(change: Callable[[], None]) -> Iterator[None]:
    """Within it, gradients are changed before every step of an optimizer."""
    hook = register_optimizer_step_pre_hook(lambda *_: change())
    try:
        yield
    finally:
        hook.remove()


def _mean_gradients(net: nn.Module, batches: TensorBatches, number: int, power: int) -> dict[str, Tensor]:
    """Parameter to the mean of a power of its gradient's size over some batches, with running statistics."""
    net.eval()
    parameters = dict(net.named_parameters())
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    number = min(number, len(batches))
    for x, y in itertools.islice(batches, number):
        gradients = torch.autograd.grad(F.cross_entropy(net(x), y), list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            sums[name] += gradient.abs() ** power
    net.train()
    return {name: total / number for name, total in sums.items()}


# -- pruning ----------------------------------------------------------------------------------------------------------


def _leaving_some(importance: _Importance) -> _Importance:
    """An importance by which a few units of each layer are out of reach.

    ``max_pruning_ratio`` does not hold where units are ranked over the whole network, and layers that would lose all
    their units then lose none.
    """

    def scores(group: Any) -> Tensor | None:
        found = importance(group)
        if found is None:
            return None
        best = found.topk(min(len(found), max(_LEAST, len(found) // _OF))).indices
        return found.index_add(0, best, torch.full_like(found[best], _OUT_OF_REACH))

    return scores


def _pruner(kind: Any, job: Job, net: nn.Module, importance: _Importance, **settings: Any) -> Any:
    """A pruner of Torch-Pruning's over all layers but the last."""
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1:]
    return kind(net, job.example, importance=importance, global_pruning=True, ignored_layers=last, **settings)


def _pruned(
    job: Job,
    net: nn.Module,
    full: nn.Module,
    importance: _Importance,
    goal: float,
    *,
    gradients: _Gradients | None = None,
) -> nn.Module:
    """The largest network that pruning leaves with no more than a share of the full one."""

    def at(ratio: float) -> nn.Module:
        small = copy.deepcopy(net)
        pruner = _pruner(
            torch_pruning.pruner.MagnitudePruner, job, small, _leaving_some(importance), pruning_ratio=ratio
        )
        for name, gradient in (gradients or {}).items():
            small.get_parameter(name).grad = gradient.clone()
        pruner.step()
        small.zero_grad()
        return small

    low, high = 0.0, 0.99
    best = net
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        small = at(middle)
        if share_of(job.task, small, full, job.example) <= goal:
            best, high = small, middle
        else:
            low = middle
    return best
