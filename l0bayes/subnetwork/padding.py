"""Gate groups amid code that insists on the full width, such as one written into a ``view``.

The layers that make their features are padded, those that read them select (:mod:`l0bayes.layers.full_width`), and what
stands between runs at the full width. It is exact wherever gates are, and tried out like everything else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from l0bayes.layers.full_width import makes, reads
from l0bayes.structure import GateGroup, Slice
from l0bayes.subnetwork.sorting import Sorting
from l0bayes.subnetwork.trial import Trial


def padded_group(net: nn.Module, group: GateGroup, reason: str) -> GateGroup | None:
    """A group of units whose layers keep their full width to the outside; ``None`` if it cannot be had.

    Args:
        net: the network.
        group: the group.
        reason: why it cannot do without.
    """
    if group.kind != "unit" or group.selects is not None or group.normalised:
        return None
    slices = []
    own = torch.zeros_like(group.own)
    for part in group.slices:
        path, _, name = part.tensor.rpartition(".")
        layer = net.get_submodule(path)
        if part.consumes:
            if reads(layer).get(name) != part.dim:
                return None
            slices.append(part)
        elif makes(layer).get(name) == part.dim:
            slices.append(part)
            own += _paid(net, part, group.size) if name == "weight" else 0
    return (
        replace(group, slices=tuple(slices), own=own, padded=reason.partition(": ")[2] or reason) if any(own) else None
    )


def _paid(net: nn.Module, part: Slice, size: int) -> torch.Tensor:
    """Weights that make the feature of each gate."""
    decides = part.gates >= 0
    each = net.get_parameter(part.tensor).numel() // len(decides)
    return torch.bincount(part.gates[decides], minlength=size) * each


def padded_instead(
    trial: Trial, net: nn.Module, good: Sequence[GateGroup], bad: Sequence[GateGroup], reasons: Mapping[str, str]
) -> list[GateGroup]:
    """Those of the groups that failed that can be had padded.

    Args:
        trial: of the network.
        net: the network.
        good: groups with which all is well.
        bad: the others.
        reasons: what is wrong with them, by name.
    """
    found = [new for group in bad if (new := padded_group(net, group, reasons[group.name])) is not None]
    for case in trial.cases():
        if not found or trial.agree(case, [*good, *found]):
            continue
        sorting = Sorting(trial, case, good)
        sorting.put(found)
        found = sorting.good[len(good) :]
    return found
