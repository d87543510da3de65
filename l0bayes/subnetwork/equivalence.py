"""Equivalence checks: does the network, with closed features removed, compute what it does with them masked?

Structure shows which slices belong together, not what else the user's code takes for granted, such as a width written
into a ``view``. So it is checked, in float64 and with random weights, and groups that fail are left dense.
"""

import copy
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from l0bayes.compat import tree_leaves
from l0bayes.errors import StructureError
from l0bayes.inputs import Inputs
from l0bayes.structure import GateGroup, Structure
from l0bayes.subnetwork.cases import Difference
from l0bayes.subnetwork.padding import padded_instead
from l0bayes.subnetwork.replacing import kept_elsewhere
from l0bayes.subnetwork.sorting import Sorting
from l0bayes.subnetwork.trial import Trial


def leave_out_what_differs(trial: Trial, net: nn.Module, structure: Structure) -> Structure:
    """The structure without the groups with which masked and removed features give different outputs.

    Args:
        trial: of the network.
        net: the network; a copy of it is run.
        structure: its gate groups.

    Returns:
        The structure, with such groups listed as dense, or padded where that helps.

    Raises:
        StructureError: if no group is left, or what differs does so by chance.
    """
    bad = _used_from_elsewhere(net, structure, trial.rows)
    good: list[GateGroup] = [group for group in structure.groups if group.name not in bad]
    steady, tried = False, dict[str, Difference]()
    for case in trial.cases():
        found = trial.difference(case, good, alone=False) if good else None
        if found is None:  # as it is for most networks, and would not be for one that is random
            continue
        if found.of_numbers and not steady:
            steady = _refuse_chance(trial)
        sorting = Sorting(trial, case)
        sorting.divide(good)
        good = sorting.good
        tried |= sorting.bad
    if not steady and any(found.of_numbers for found in tried.values()):
        _refuse_chance(trial)
    failed = [group for group in structure.groups if group.name in tried]
    padded = padded_instead(trial, net, good, failed, {n: found.reason for n, found in tried.items()}) if failed else []
    structure = structure.with_padded(padded)
    good += padded
    for group in padded:
        del tried[group.name]
    in_numbers = {name for name, found in tried.items() if found.of_numbers}
    bad |= {name: found.reason for name, found in tried.items()}
    drawn = trial.chance(seed=1) if in_numbers else None
    if drawn is not None:
        why = f"{drawn} gives random numbers, which may be others for another width: draw them by torch.randn_like"
        bad |= {name: f"{bad[name]}; {why}" for name in in_numbers}
    if not good:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in bad.items())
        raise StructureError(
            f"no gates that were asked for can be had on this {type(net).__name__} ({reasons}). Gate other layers, by "
            "patterns in gates, or change what the reasons name"
        )
    return structure.without(bad)


def _refuse_chance(trial: Trial) -> bool:
    """Raises if the network gives something else each time it runs, so that groups are not to blame; else ``True``."""
    if (what := trial.chance()) is not None:
        raise StructureError(
            f"net: {what} gives something else each time it runs, and not by one of torch's random functions, which "
            "are held here, so gates cannot be tried out. Draw by those (torch.randn_like, torch.rand), or leave the "
            "noise out while sparsify runs"
        )
    return True


def _used_from_elsewhere(net: nn.Module, structure: Structure, inputs: Inputs) -> dict[str, str]:
    """Groups over tensors that the network does not take from its modules, with the reason."""
    names = {part.tensor for group in structure.groups for part in group.slices}
    elsewhere = kept_elsewhere(net, names, inputs)
    found = {}
    for group in structure.groups:
        tensors = list(dict.fromkeys(part.tensor for part in group.slices if part.tensor in elsewhere))
        if tensors:
            found[group.name] = (
                f"{', '.join(map(repr, sorted(tensors)[:3]))}: used from elsewhere than its module, such as a list, a "
                "dict, a closure or a cached attribute, where gates cannot reach it. Take it from the module in forward"
            )
    return found


@torch.enable_grad()
def refuse_recomputation(net: nn.Module, inputs: Inputs) -> None:
    """Raises if modules run again in backward, when the tensors of the subnetwork are no longer in them.

    Args:
        net: the network; a copy of it is run.
        inputs: an example of its arguments.

    Raises:
        StructureError: if they do.
    """
    net, again = copy.deepcopy(net).train(), list[str]()
    given = inputs.map(lambda x: x.clone().requires_grad_() * 1 if x.is_floating_point() else x)
    try:
        outputs = tree_leaves(given.call(net))
        for name, module in net.named_modules():
            module.register_forward_pre_hook(lambda _module, _args, name=name: again.append(name))
        sums = [y.sum() for y in outputs if isinstance(y, Tensor) and y.requires_grad]
        if sums:
            torch.stack([y.double() for y in sums]).sum().backward()
    except Exception:  # noqa: BLE001 (a network that cannot be trained on this example: nothing to be learned)
        return
    if again:
        raise StructureError(
            f"net: {again[0]!r} runs again in backward (torch.utils.checkpoint), without the gates by then. Call the "
            "layers directly; what closed gates leave out needs no memory"
        )


def keep_the_input_in_sight(trial: Trial, structure: Structure, by_default: Collection[str]) -> Structure:
    """Groups that may vanish as far as their surroundings tell keep a unit where the input takes no other way.

    Args:
        trial: of the network.
        structure: its gate groups.
        by_default: layers whose ``min_units`` nobody asked for.

    Returns:
        The structure, with ``min_units`` 1 for such groups.
    """
    vanishing = [g for g in structure.groups if g.kind == "unit" and g.min_units == 0 and g.layer in by_default]
    blind = trial.blind_without(structure.groups, [group.name for group in vanishing])
    groups = tuple(replace(g, min_units=1) if g.name in blind else g for g in structure.groups)
    return replace(structure, groups=groups)
