"""Runs the user's own module on the tensors of a subnetwork."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.inputs import Inputs
from l0bayes.layers.full_width import padded, selected
from l0bayes.layers.select_inputs import feature_dim, unfused
from l0bayes.layers.widths import attributes, computes_by_width
from l0bayes.structure.names import by_owner
from l0bayes.subnetwork.mirror import Mirror
from l0bayes.subnetwork.noisy_weights import NoisyWeights
from l0bayes.subnetwork.selection import Selection
from l0bayes.subnetwork.tensors import submodule, tensor_of


def run_subnetwork(net: nn.Module, selection: Selection, *args: Any, **kwargs: Any) -> Any:
    """Runs the user's own module on the selected tensors; everything not selected is never computed.

    What runs is a :class:`~l0bayes.subnetwork.mirror.Mirror` of the network, whose own modules stay as they are.
    Running statistics of normalisations are written back to where they belong.

    Args:
        net: the network.
        selection: the tensors, from a :class:`~l0bayes.subnetwork.selection.Selector`.
        args: arguments of the network.
        kwargs: keyword arguments of the network.
    """
    mirror = Mirror(net)
    put_selection(mirror, selection)
    noise = selection.noise
    noisy = nullcontext() if noise is None else NoisyWeights(selection.tensors, noise, Inputs(args, kwargs).rows)
    try:
        with noisy:
            return mirror.net(*args, **kwargs)
    finally:
        _write_back(net, mirror.net, selection)
        mirror.hand_back()


def put_selection(mirror: Mirror, selection: Selection) -> None:
    """Puts the tensors of a selection in place, with what layers compute by besides: numbers of groups and of heads."""
    for path, own in by_owner(selection.tensors).items():
        layer = submodule(mirror.net, path)
        if computes_by_width(layer):
            for attribute, value in attributes(layer, {name: tensor.shape for name, tensor in own.items()}).items():
                mirror.put_attribute(layer, attribute, value)
        for name, tensor in own.items():
            mirror.put_tensor(layer, name, tensor)
    for path, (keep, reaching) in selection.features.items():
        layer = submodule(mirror.net, path)
        mirror.put_forward(layer, partial(_select, keep, feature_dim(layer), reaching))
    for path, (place, width) in selection.places.items():
        layer = submodule(mirror.net, path)
        mirror.put_forward(layer, partial(_pad, place, feature_dim(layer), width))
    for path in {**selection.features, **selection.places}:
        for module, attribute, value in unfused(mirror.net, path):
            mirror.put_attribute(module, attribute, value)


def _select(keep: Tensor, dim: int, size: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Lets a layer read only the selected features of what reaches it."""
    args, kwargs = selected(keep, dim, size, args, kwargs)
    return forward(*args, **kwargs)


def _pad(place: Tensor, dim: int, width: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Lets a layer give features that it does not make too, as zeros."""
    return padded(forward(*args, **kwargs), place, dim, width)


@torch.no_grad()
def _write_back(net: nn.Module, ran: nn.Module, selection: Selection) -> None:
    """Writes narrowed buffers, in place or assigned anew, to the network's own."""
    for name, (dim, keep) in selection.kept.items():
        if submodule(ran, name.rpartition(".")[0]).training:
            tensor_of(net, name).data.index_copy_(dim, keep, tensor_of(ran, name))
