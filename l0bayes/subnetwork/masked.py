"""The masked network: full size, closed features multiplied by zero. What subnetworks must agree with."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from l0bayes.layers.norms import norm_dim
from l0bayes.structure import GateGroup, Slice
from l0bayes.structure.groups import along
from l0bayes.subnetwork.mirror import Mirror
from l0bayes.subnetwork.running import put_selection
from l0bayes.subnetwork.selection import Selection


def masked_forward(
    net: nn.Module, groups: Sequence[GateGroup], gates: Mapping[str, Tensor], *inputs: Any, **named: Any
) -> Any:
    """The definition everything else must agree with: whatever reads a feature multiplies it by its gate.

    Args:
        net: the network, run at full size.
        groups: its gate groups.
        gates: group name to gate values of shape ``(size,)``.
        inputs: arguments of ``net``.
        named: keyword arguments of ``net``.

    Returns:
        The network's output.
    """
    with norms_over_open(net, groups, gates):
        return functional_call(net, masked_weights(net, groups, gates), inputs, named, tie_weights=False)


@contextmanager
def norms_over_open(net: nn.Module, groups: Sequence[GateGroup], gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it, norms over live features take their statistics over those that are open, and give 0 for the others.

    Args:
        net: the network.
        groups: its gate groups.
        gates: group name to gate values of shape ``(size,)``.
    """
    opened: dict[str, Tensor] = {}
    for group in groups:
        for part in group.slices if group.normalised else ():
            path = part.tensor.rpartition(".")[0]
            if part.consumes or norm_dim(net.get_submodule(path)) is None:
                continue
            here = _along_positions(gates[group.name], part) != 0
            opened[path] = opened[path] & here if path in opened else here
    with ExitStack() as hooks:
        for path, here in opened.items():
            hook = partial(_norm_of_open, here.nonzero().squeeze(1))
            hooks.callback(net.get_submodule(path).register_forward_hook(hook).remove)
        yield


def _norm_of_open(open_: Tensor, norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """What a norm gives for its open features alone, in their places among zeros."""
    dim = norm_dim(norm)
    if dim is None or not len(open_):
        return torch.zeros_like(output)
    mirror = Mirror(norm)
    own = {name: parameter.index_select(0, open_) for name, parameter in norm.named_parameters(recurse=False)}
    put_selection(mirror, Selection(own))
    some = mirror.net.forward(args[0].index_select(dim, open_))  # without its hooks, of which this is one
    mirror.hand_back()
    return torch.zeros_like(output).index_copy(dim, open_, some)


def masked_weights(
    net: nn.Module,
    groups: Sequence[GateGroup],
    gates: Mapping[str, Tensor],
    weights: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Whatever reads a feature, times its gate.

    Args:
        net: the network.
        groups: its gate groups.
        gates: group name to gate values of shape ``(size,)``.
        weights: parameter name to a value that stands in for the network's own.

    Returns:
        Parameter name to its value; those without gates are left out, unless they are in ``weights``.
    """
    tensors = dict(weights or {})
    for group in groups:
        for part in group.slices:
            if not part.consumes:
                continue
            tensor = tensors.get(part.tensor)
            tensor = net.get_parameter(part.tensor) if tensor is None else tensor
            value = _along_positions(gates[group.name].to(tensor.dtype), part)
            tensors[part.tensor] = tensor * along(value, part.dim, tensor.shape)
    return tensors


def _along_positions(gate: Tensor, part: Slice) -> Tensor:
    """The gate of each position of a slice, 1 where none decides."""
    table = part.gates.to(gate.device)
    return torch.where(table >= 0, gate[table.clamp(min=0)], 1.0)


@contextmanager
def multiplied(net: nn.Module, groups: Sequence[GateGroup], gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it, the network's very parameters are multiplied by the gates: the definition without any substitution.

    Args:
        net: the network.
        groups: its gate groups.
        gates: group name to gate values of shape ``(size,)``.
    """
    with torch.no_grad():
        values = masked_weights(net, groups, gates)
        before = {name: net.get_parameter(name).detach().clone() for name in values}
    try:
        for name, value in values.items():
            net.get_parameter(name).data.copy_(value)
        with norms_over_open(net, groups, gates):
            yield
    finally:
        for name, value in before.items():
            net.get_parameter(name).data.copy_(value)
