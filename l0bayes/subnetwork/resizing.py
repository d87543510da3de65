"""Gives the tensors of a network other shapes, with the attributes by which its layers state how wide they are."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from l0bayes.compat import own_modules, own_parameters, save_with_state
from l0bayes.layers.select_inputs import can_select, selecting, unfused
from l0bayes.layers.widths import attributes
from l0bayes.structure import join_name
from l0bayes.structure.names import by_owner
from l0bayes.subnetwork.tensors import laid_out_as, tensor_of


def tie(net: nn.Module, names: Sequence[str]) -> None:
    """Makes parameters one, the first of them, under all their names."""
    for name in names[1:]:
        owner, _, attribute = name.rpartition(".")
        setattr(net.get_submodule(owner), attribute, net.get_parameter(names[0]))


def resize(net: nn.Module, shapes: Mapping[str, torch.Size]) -> nn.Module:
    """Gives a network's tensors other shapes, in place; values of those that change are lost.

    Args:
        net: a network.
        shapes: tensor name to shape. An ``index`` that a layer does not have yet makes it one that selects its
            inputs.

    Returns:
        ``net``, or what replaced it if it is itself such a layer.

    Raises:
        ValueError: if a name or a number of dimensions does not fit the network.
    """
    for name in shapes:
        path, _, tensor = name.rpartition(".")
        if tensor == "index" and can_select(layer := net.get_submodule(path)):
            net = _replace(net, layer, selecting(layer))
            for module, attribute, value in unfused(net, path):
                setattr(module, attribute, value)
    state = dict(net.named_parameters(remove_duplicate=False)) | dict(net.named_buffers(remove_duplicate=False))
    for name, shape in shapes.items():
        if name not in state or state[name].dim() != len(shape):
            raise ValueError(f"{type(net).__name__} has no tensor {name} of {len(shape)} dimensions")
    for path, own in by_owner({name: torch.Size(shape) for name, shape in shapes.items()}).items():
        owner = net.get_submodule(path)
        changed = {name: shape for name, shape in own.items() if shape != state[join_name(path, name)].shape}
        for attribute, value in attributes(owner, changed).items():
            setattr(owner, attribute, value)
        for attribute, shape in own.items():
            _reshape(owner, attribute, shape)
    return net


def _reshape(owner: nn.Module, attribute: str, shape: torch.Size) -> None:
    old = own_parameters(owner).get(attribute)  # None: it is a buffer
    value = tensor_of(owner, attribute).detach()
    # A tensor of its own even where the shape stays: tied ones may differ after selection.
    new = value.clone() if value.shape == shape else value.new_zeros(shape)
    new = laid_out_as(value, new)
    if value.shape != shape:
        save_with_state(owner, attribute)  # a fresh network has it at full size
    setattr(owner, attribute, new if old is None else nn.Parameter(new, requires_grad=old.requires_grad))


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Puts one module in the place of another, under every name it has; the root may be replaced too."""
    if net is old:
        return new
    for parent in list(net.modules()):
        for name, child in list(own_modules(parent).items()):  # named_children leaves out second names
            if child is old:
                setattr(parent, name, new)
    return net
