"""The finished network: the selected subnetwork as a plain module of the user's own class."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from l0bayes.copying import copied
from l0bayes.layers.full_width import FULL, GIVEN, INDEX, PLACE
from l0bayes.layers.select_inputs import can_select
from l0bayes.structure import GateGroup, join_name
from l0bayes.structure.names import shared_parameters
from l0bayes.subnetwork.resizing import keep_widths, place, tie
from l0bayes.subnetwork.selection import Selector
from l0bayes.subnetwork.tensors import Positions, tensor_of


@torch.no_grad()
def compact_network(
    net: nn.Module, groups: Sequence[GateGroup], gates: Mapping[str, Tensor], round_to: int = 1
) -> nn.Module:
    """A plain copy of the network that consists of the selected subnetwork alone.

    Args:
        net: the full network.
        groups: its gate groups.
        gates: group name to gate values of shape ``(size,)``, folded into the weights that read the features.
        round_to: each group keeps a multiple of this many gates, or all.

    Returns:
        A module of the user's own class, at reduced size, in the training mode of ``net``.
    """
    return compact_with_positions(net, groups, gates, round_to)[0]


@torch.no_grad()
def compact_with_positions(
    net: nn.Module, groups: Sequence[GateGroup], gates: Mapping[str, Tensor], round_to: int = 1
) -> tuple[nn.Module, Positions]:
    """The same, and for each tensor that got smaller what it keeps of the full one: dimensions and indices."""
    # Only a plain layer can be made to select its inputs; a subclass keeps the zero columns.
    whole = {g.name for g in groups if g.selects is not None and not can_select(net.get_submodule(g.selects))}
    selector = Selector(net, groups, whole=frozenset(whole), round_to=round_to)
    selection = selector(net, gates)
    tensors = dict(selection.tensors)
    tensors |= {join_name(layer, INDEX): keep for layer, (keep, _) in selection.features.items()}
    tensors |= {join_name(layer, PLACE): keep for layer, (keep, _) in selection.places.items()}
    small = keep_widths(copied(net), tensors)
    place(small, tensors)
    for attribute, layers in ((GIVEN, selection.features), (FULL, selection.places)):
        for layer, (_, width) in layers.items():
            setattr(small.get_submodule(layer), attribute, width)
    for names in set(shared_parameters(net).values()):
        values = [tensor_of(small, name) for name in names]
        if all(torch.equal(value, values[0]) for value in values):  # gates may have left them different
            tie(small, names)
    return small, selector.positions(gates)
