"""Runs the user's own module on the tensors of a subnetwork."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from l0bayes.inputs import Inputs
from l0bayes.layers.full_width import padded, selected
from l0bayes.layers.select_inputs import feature_dim, unfused
from l0bayes.layers.widths import attributes, computes_by_width
from l0bayes.structure.names import by_owner
from l0bayes.subnetwork.noisy_weights import NoisyWeights
from l0bayes.subnetwork.selection import Selection
from l0bayes.subnetwork.tensors import tensor_of


def run_subnetwork(net: nn.Module, selection: Selection, *args: Any, **kwargs: Any) -> Any:
    """Runs the user's own module on the selected tensors; everything not selected is never computed.

    Running statistics of normalisations are written back to where they belong.
    """
    tensors = dict(selection.tensors)  # a buffer that the network assigns anew is in it afterwards
    with ExitStack() as stack:
        stack.enter_context(_narrow_inputs(net, selection.features))
        stack.enter_context(_pad_outputs(net, selection.places))
        stack.enter_context(_narrow_widths(net, tensors))
        if selection.noise is not None:
            stack.enter_context(NoisyWeights(tensors, selection.noise, Inputs(args, kwargs).rows))
        output = functional_call(net, tensors, args, kwargs, tie_weights=False)
    for name, (dim, keep) in selection.kept.items():
        if net.get_submodule(name.rpartition(".")[0]).training:
            with torch.no_grad():
                tensor_of(net, name).data.index_copy_(dim, keep, tensors[name])
    return output


@contextmanager
def _narrow_inputs(net: nn.Module, features: Mapping[str, tuple[Tensor, int]]) -> Iterator[None]:
    """Lets the named layers read only the selected features of what reaches them."""
    with ExitStack() as hooks:
        for name, (keep, reaching) in features.items():
            layer = net.get_submodule(name)
            select = partial(_select, keep, feature_dim(layer), reaching)
            hooks.callback(layer.register_forward_pre_hook(select, with_kwargs=True).remove)
            for module, attribute, value in unfused(net, name):
                hooks.callback(setattr, module, attribute, getattr(module, attribute))
                setattr(module, attribute, value)
        yield


def _select(keep: Tensor, dim: int, size: int, _layer: nn.Module, args: Any, kwargs: Any) -> Any:
    return selected(keep, dim, size, args, kwargs)


@contextmanager
def _pad_outputs(net: nn.Module, places: Mapping[str, tuple[Tensor, int]]) -> Iterator[None]:
    """Lets the named layers give features that they do not make too, as zeros."""
    with ExitStack() as hooks:
        for name, (place, width) in places.items():
            layer = net.get_submodule(name)
            pad = partial(_pad, place, feature_dim(layer), width)
            hooks.callback(layer.register_forward_hook(pad, prepend=True).remove)
            for module, attribute, value in unfused(net, name):
                hooks.callback(setattr, module, attribute, getattr(module, attribute))
                setattr(module, attribute, value)
        yield


def _pad(place: Tensor, dim: int, width: int, _layer: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return padded(output, place, dim, width)


@contextmanager
def _narrow_widths(net: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Sets, for a while, the attributes by which some layers compute: numbers of groups and of heads."""
    changed: list[tuple[nn.Module, str, Any]] = []
    try:
        for owner, own in by_owner({name: tensor.shape for name, tensor in tensors.items()}).items():
            module = net.get_submodule(owner)
            if computes_by_width(module):
                for attribute, value in attributes(module, own).items():
                    changed.append((module, attribute, getattr(module, attribute)))
                    setattr(module, attribute, value)
        yield
    finally:
        for module, attribute, value in reversed(changed):
            setattr(module, attribute, value)
