"""What somebody would draw up instead of searching: a network of the same size, thin in every layer, from scratch."""

import torch
from torch import Tensor, nn

from l0bayes.inference.command_line.job import Job, network_of
from l0bayes.sparse_module import SparseModule
from l0bayes.sparsify import sparsify
from l0bayes.subnetwork.compacted import compact_network

_HALVINGS = 20


def thin_network(job: Job, parameters: int) -> nn.Module:
    """A network with new weights and the same share of the units of every layer, all inputs.

    Args:
        job: of which network, on what data.
        parameters: it has at most so many, unless one unit a layer is more.
    """
    torch.manual_seed(job.options.seed)
    example = job.data.train.x[:2]
    sparse = sparsify(network_of(job.options, tuple(example.shape[1:]), job.data.classes), example, gates="unit")
    cost = sparse.live_cost()
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        fits = float(cost.amount(_first(sparse, share))) <= parameters
        low, high = (share, high) if fits else (low, share)
    thin = compact_network(sparse.child("net"), sparse.groups, _first(sparse, low))
    for module in thin.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return thin


def _first(sparse: SparseModule, share: float) -> dict[str, Tensor]:
    """Gates of which the first of each group are open: as many as the share says, one at least."""
    return {
        group.name: (torch.arange(group.size) < max(1, int(share * group.size))).double() for group in sparse.groups
    }
