"""What stays dense, told whole: each element of a parameter is under gates, or there is a reason why it is not."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from l0bayes.structure.groups import GateGroup, Slice, Structure
from l0bayes.structure.names import layer_of
from l0bayes.structure.roles import Roles


def tell_partners(structure: Structure, before: Structure) -> Structure:
    """The structure, with all layers in the list that make the features of a group that was left dense.

    Args:
        structure: without some groups.
        before: with them.
    """
    gated = {part.tensor for group in structure.groups for part in group.slices if not part.consumes}
    dense = dict(structure.dense)
    for group, reason in _gone(structure, before):
        for part in group.slices:
            if not part.consumes and part.tensor not in gated:
                dense.setdefault(layer_of(part.tensor), _partner_of(group, reason))
    return replace(structure, dense=dense)


def tell_all(structure: Structure, before: Structure, roles: Roles) -> Structure:
    """The structure, with every parameter in the list that is not under gates, or in part alone, by its layer.

    Args:
        structure: without groups that were left dense in the end.
        before: with them.
        roles: of the features of the network.
    """
    parts: dict[str, list[Slice]] = {}
    for part in (part for group in structure.groups for part in group.slices):
        parts.setdefault(part.tensor, []).append(part)
    gone = {part.tensor: _partner_of(group, why) for group, why in _gone(structure, before) for part in group.slices}
    padded = {group.name for group in structure.groups if group.padded is not None}
    for group in before.groups:
        if group.name in padded:
            gone |= {part.tensor: f"it is at full width between the layers of {group.name!r}" for part in group.slices}
    dense = dict(structure.dense)
    for name, shape in structure.shapes.items():
        left = without_gates(parts.get(name, ()), shape)
        if left and not is_told(name, structure):
            reason = gone.get(name) or roles.why_dense(name)
            whole = left == shape.numel()
            dense.setdefault(layer_of(name), reason if whole else f"{left} of {shape.numel()} in {name!r}: {reason}")
    return replace(structure, dense=dense)


def without_gates(parts: Sequence[Slice], shape: torch.Size) -> int:
    """How many elements of a tensor no gate decides over.

    Args:
        parts: where gates meet it.
        shape: its shape.
    """
    if any(part.dim is None for part in parts):
        return 0
    free = [torch.ones(size, dtype=torch.bool) for size in shape]
    for part in parts:
        if part.dim is not None:
            free[part.dim] &= part.gates < 0
    return math.prod(int(one.sum()) for one in free)


def is_told(name: str, structure: Structure) -> bool:
    """Whether the list has a parameter's layer, or the module that holds it."""
    return layer_of(name) in structure.dense or name.rpartition(".")[0] in structure.dense


def _gone(structure: Structure, before: Structure) -> list[tuple[GateGroup, str]]:
    left = {group.name for group in structure.groups}
    return [(group, structure.dense[group.layer]) for group in before.groups if group.name not in left]


def _partner_of(group: GateGroup, reason: str) -> str:
    return f"it goes with {group.layer!r}, of which {reason}"
