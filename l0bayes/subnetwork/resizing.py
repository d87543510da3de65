"""Gives the tensors of a network other shapes, with the attributes by which its layers state how wide they are."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from l0bayes.compat import own_modules, save_with_state
from l0bayes.layers.full_width import FULL, INDEX, PLACE, makes, pad_outputs, reads, select_by_hook
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
    net = keep_widths(net, shapes)
    state = dict(net.named_parameters(remove_duplicate=False)) | dict(net.named_buffers(remove_duplicate=False))
    for name, shape in shapes.items():
        if name not in state or state[name].dim() != len(shape):
            raise ValueError(f"{type(net).__name__} has no tensor {name} of {len(shape)} dimensions")
    same = {name: state[name].shape == torch.Size(shape) for name, shape in shapes.items()}
    place(net, {name: state[name] if same[name] else state[name].new_zeros(shape) for name, shape in shapes.items()})
    return net


def keep_widths(net: nn.Module, names: Iterable[str]) -> nn.Module:
    """Makes layers select their inputs, or pad their outputs, in place, as names of tensors say: ``index``, ``place``.

    Returns:
        ``net``, or what replaced it if it is itself such a layer.
    """
    for name in names:
        path, _, tensor = name.rpartition(".")
        layer = net.get_submodule(path)
        if tensor not in (INDEX, PLACE) or tensor in dict(layer.named_buffers(recurse=False)) or not makes(layer):
            continue
        if tensor == PLACE:
            pad_outputs(layer, layer.get_parameter("weight").shape[makes(layer)["weight"]])
        elif can_select(layer) and not hasattr(layer, FULL):
            net = _replace(net, layer, selecting(layer))
        else:
            select_by_hook(layer, layer.get_parameter("weight").shape[reads(layer)["weight"]])
        for module, attribute, value in unfused(net, path):
            setattr(module, attribute, value)
    return net


@torch.no_grad()
def place(net: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Puts copies of tensors, perhaps of other shapes, in the places of a network's own.

    With them go the attributes by which its layers state how wide they are.

    Args:
        net: the network.
        tensors: name of a parameter or buffer to the tensor.

    Returns:
        Name of each parameter to the one before and the new one.
    """
    replaced = {}
    for path, own in by_owner(tensors).items():
        owner = net.get_submodule(path)
        changed = {name: value.shape for name, value in own.items() if value.shape != tensor_of(owner, name).shape}
        for attribute, stated in attributes(owner, changed).items():
            setattr(owner, attribute, stated)
        for name, value in own.items():
            old = tensor_of(owner, name)
            if name in changed:
                save_with_state(owner, name)  # a fresh network has it at full size
            new: Tensor = laid_out_as(old, value.detach().to(old)).clone()
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
                replaced[join_name(path, name)] = (old, new)
            setattr(owner, name, new)
    return replaced


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Puts one module in the place of another, under every name it has; the root may be replaced too."""
    if net is old:
        return new
    for parent in list(net.modules()):
        for name, child in list(own_modules(parent).items()):  # named_children leaves out second names
            if child is old:
                setattr(parent, name, new)
    return net
