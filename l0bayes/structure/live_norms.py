"""Norms over live features: each feature by itself, since what is closed is not there."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l0bayes.layers.norms import norm_dim
from l0bayes.structure.labelling import Labelling


@dataclass(frozen=True)
class Norm:
    """A norm that is about to run.

    Attributes:
        module: the norm.
        labels: of what it gives.
        live: whether it takes its statistics over live features; one that heads share takes those of each head, which
            goes as a whole.
    """

    module: nn.Module
    labels: Tensor
    live: bool


def norm_of(labelling: Labelling, module: nn.Module, x: Tensor) -> Norm | None:
    """What a norm does with the features that it is given; ``None`` if a module is no such norm.

    Args:
        labelling: what is known so far.
        module: about to run.
        x: its input.
    """
    dim, labels = norm_dim(module), labelling.labels(x)
    if dim is None or labels is None or x.dim() <= 1 or x.shape[dim] != len(module.get_parameter("weight")):
        return None
    others = [other for other in range(x.dim()) if other != dim % x.dim()]
    if _made_apart(labelling, labels, others):
        why = f"{labelling.where} normalises over all features of a head"
        return Norm(module, labelling.features.merge(labels, [dim], why).expand(x.shape), live=False)
    features = labelling.features.merge(labels, others)
    for parameter in module.parameters(recurse=False):
        labelling.features.tie(labelling.known(parameter), features.flatten())
    return Norm(module, features.expand(x.shape), live=True)


def _made_apart(labelling: Labelling, labels: Tensor, dims: list[int]) -> bool:
    """Whether weights make other features at other places along some dimensions, as they do for heads."""
    made = [axis.labels for axis in labelling.axes.values() if not axis.reads]
    if not made:
        return False
    by_weight = torch.isin(labels, torch.cat(made))
    for dim in dims:
        first, first_made = labels.narrow(dim, 0, 1), by_weight.narrow(dim, 0, 1)
        if bool(((labels != first) & by_weight & first_made).any()):
            return True
    return False
