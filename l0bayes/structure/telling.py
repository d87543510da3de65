"""What stays dense, told whole: each parameter has a slice under gates, or a reason why it has none."""

from dataclasses import replace

from l0bayes.structure.groups import GateGroup, Structure
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
    """The structure, with every parameter in the list that has no slice under gates, by its layer.

    Args:
        structure: without groups that were left dense in the end.
        before: with them.
        roles: of the features of the network.
    """
    gated = {part.tensor for group in structure.groups for part in group.slices}
    gone = {part.tensor: _partner_of(group, why) for group, why in _gone(structure, before) for part in group.slices}
    dense = dict(structure.dense)
    for name in structure.shapes:
        if name not in gated and not is_told(name, structure):
            dense.setdefault(layer_of(name), gone.get(name) or roles.why_dense(name))
    return replace(structure, dense=dense)


def is_told(name: str, structure: Structure) -> bool:
    """Whether the list has a parameter's layer, or the module that holds it."""
    return layer_of(name) in structure.dense or name.rpartition(".")[0] in structure.dense


def _gone(structure: Structure, before: Structure) -> list[tuple[GateGroup, str]]:
    left = {group.name for group in structure.groups}
    return [(group, structure.dense[group.layer]) for group in before.groups if group.name not in left]


def _partner_of(group: GateGroup, reason: str) -> str:
    return f"it goes with {group.layer!r}, of which {reason}"
