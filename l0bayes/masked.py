"""The masked network: full size, closed features multiplied by zero. What subnetworks must agree with."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from l0bayes.structure import GateGroup, consumers


def masked_forward(net: nn.Module, groups: Sequence[GateGroup], gates: Mapping[str, Tensor], *inputs: Any) -> Any:
    """The definition everything else must agree with: multiply what enters each consumer by its gates.

    Args:
        net: the network, run as it is, at full size.
        groups: its gate groups.
        gates: group name to gate values of shape ``(size,)``.
        inputs: arguments of ``net``.

    Returns:
        The network's output.
    """
    with ExitStack() as hooks:
        for group in groups:
            gate = gates[group.name]
            for layer in consumers(group):
                handle = net.get_submodule(layer).register_forward_pre_hook(
                    lambda _module, args, gate=gate: (args[0] * gate.to(args[0].dtype), *args[1:])
                )
                hooks.callback(handle.remove)
        return net(*inputs)
