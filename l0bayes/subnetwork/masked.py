"""The masked network: full size, closed features multiplied by zero. What subnetworks must agree with."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from l0bayes.structure import GateGroup
from l0bayes.structure.groups import along


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
    return functional_call(net, masked_weights(net, groups, gates), inputs, named, tie_weights=False)


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
            gate = gates[group.name].to(tensor.dtype)
            table = part.gates.to(gate.device)
            value = torch.where(table >= 0, gate[table.clamp(min=0)], 1.0)
            tensors[part.tensor] = tensor * along(value, part.dim, tensor.shape)
    return tensors


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
        yield
    finally:
        for name, value in before.items():
            net.get_parameter(name).data.copy_(value)
