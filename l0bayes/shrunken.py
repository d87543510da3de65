"""Takes units out of a network for good, in place, while it is being trained.

What is left is the same network with fewer units: the same modules, with smaller parameters in them.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from l0bayes.sparse_module import SparseModule
from l0bayes.structure import GateGroup, Slice, Structure
from l0bayes.structure.links import Link
from l0bayes.subnetwork.resizing import place
from l0bayes.subnetwork.selection import Selector
from l0bayes.subnetwork.tensors import Positions, Replaced, narrow, tensor_of


@torch.no_grad()
def remove_units(sparse: SparseModule, stay: Mapping[str, Tensor]) -> tuple[Replaced, dict[str, Tensor]]:
    """Removes all units but some from a sparse module, in place.

    Args:
        sparse: the module; its network's tensors, its structure and its prices get smaller.
        stay: group name to sorted indices of the gates that stay; groups that are not named keep all.

    Returns:
        Each parameter that was replaced, by what, and which of its entries are left; and for every group the gates
        that are left, fewer than in ``stay`` where other groups took what they decide over.
    """
    net, structure = sparse.child("net"), sparse.structure
    gates = {group.name: torch.ones(group.size) for group in structure.groups}
    for name, indices in stay.items():
        gates[name] = torch.zeros_like(gates[name]).index_fill(0, indices.cpu(), 1.0)
    units = [group for group in structure.groups if group.narrows]
    positions = Selector(net, units).positions({group.name: gates[group.name] for group in units})
    left = {group.name: _left(group, gates[group.name], positions, structure) for group in structure.groups}
    log_sd = sparse.child("log_sd")  # standard deviations of normal weights go with the weights
    of_weights = {name: positions[name] for name, _ in log_sd.named_parameters() if name in positions}
    replaced = _narrow(net, positions) + _narrow(log_sd, of_weights)
    sparse.restructure(_narrowed(structure, positions, left), left)
    return replaced, left


def _narrow(module: nn.Module, positions: Positions) -> Replaced:
    """Takes entries out of a module's tensors, in place."""
    placed = place(module, {name: narrow(tensor_of(module, name), kept) for name, kept in positions.items()})
    return [(old, new, positions[name]) for name, (old, new) in placed.items()]


def _left(group: GateGroup, gate: Tensor, positions: Positions, structure: Structure) -> Tensor:
    """The gates of a group that still decide over something."""
    if group.narrows:
        return gate.nonzero().squeeze(1)
    if group.padded is not None:
        return torch.arange(group.size)
    (part,) = group.slices
    left: Tensor = torch.unique(_table(part, positions, structure))
    return left


def _table(part: Slice, positions: Positions, structure: Structure) -> Tensor:
    """Which gates, as numbered so far, decide over the positions that are left."""
    kept = positions.get(part.tensor, ())
    if part.dim is None:
        table: Tensor = part.gates.reshape(structure.shapes[part.tensor])
        for dim, keep in kept:
            table = table.index_select(dim, keep)
        flat: Tensor = table.flatten()
        return flat
    for dim, keep in kept:
        if dim == part.dim:
            return part.gates.index_select(0, keep)
    return part.gates


def _narrowed(structure: Structure, positions: Positions, left: Mapping[str, Tensor]) -> Structure:
    """The structure of what is left, gates numbered anew."""
    groups = []
    for group in structure.groups:
        stays = left[group.name]
        number = torch.full((group.size + 1,), -1)
        number[stays] = torch.arange(len(stays))
        slices = tuple(replace(part, gates=number[_table(part, positions, structure)]) for part in group.slices)
        minimum = min(group.min_units, len(stays))
        groups.append(replace(group, size=len(stays), slices=slices, own=group.own[stays], min_units=minimum))
    shapes = dict(structure.shapes)
    for name in shapes.keys() & positions.keys():
        shape = list(shapes[name])
        for dim, keep in positions[name]:
            shape[dim] = len(keep)
        shapes[name] = torch.Size(shape)
    products = tuple(replace(p, macs=p.macs[left[p.group]]) if p.group else p for p in structure.products)
    links = replace(structure.links, weights=tuple(_narrowed_link(link, positions) for link in structure.links.weights))
    return replace(structure, groups=tuple(groups), shapes=shapes, products=products, links=links)


def _narrowed_link(link: Link, positions: Positions) -> Link:
    kept = dict(positions.get(link.tensor, ()))
    makes, reads = (
        end[kept[dim]] if dim in kept else end
        for end, dim in ((link.makes, link.makes_dim), (link.reads, link.reads_dim))
    )
    return replace(link, makes=makes, reads=reads)
