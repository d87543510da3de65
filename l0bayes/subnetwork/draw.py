"""One draw of the gates as seen along the axes of tensors: what stays there, and what multiplies it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from l0bayes.structure import GateGroup, Slice
from l0bayes.subnetwork.tensors import Kept


@dataclass(frozen=True)
class IndexMap:
    """A gate vector along an axis: position to gate, ``size`` of the vector where it has no say.

    ``fills``: it selects what arrives, and where that leaves too little, closed positions fill it up.
    """

    group: str
    table: Tensor
    identity: bool
    partial: bool
    fills: bool


@dataclass(frozen=True)
class Dimension:
    """Where a tensor is narrowed: the dimension, the number of its axis, and whether the gates multiply it."""

    dim: int
    axis: int
    consumes: bool


@torch.inference_mode(mode=False)
def index_map(group: GateGroup, part: Slice, *, fills: bool) -> IndexMap:
    """The map of a slice of a group, see :class:`IndexMap`."""
    table = torch.where(part.gates >= 0, part.gates, group.size)
    identity = torch.equal(table, torch.arange(group.size))
    return IndexMap(group.name, table, identity, bool((part.gates < 0).any()), fills=fills)


@torch.inference_mode(mode=False)
def moved(index: IndexMap, device: torch.device) -> IndexMap:
    """The same map on another device."""
    return replace(index, table=index.table.to(device))


def rounded_up(number: int, step: int) -> int:
    """The next multiple of ``step``, and at least 1."""
    return -(-max(number, 1) // step) * step


class Draw:
    """One set of gates, as seen along each axis, a row of positions that index maps share; each is worked out once."""

    def __init__(
        self,
        axes: Sequence[tuple[IndexMap, ...]],
        gates: Mapping[str, Tensor],
        kept: Mapping[str, Any],
        round_to: int = 1,
    ) -> None:
        self._axes, self._gates, self._kept, self._round_to = axes, gates, kept, round_to
        self._keep: dict[int, Tensor | None] = {}
        self._scale: dict[int, Tensor] = {}

    def keep(self, axis: int) -> Tensor | None:
        """Indices of the positions that stay; ``None`` for all."""
        if axis not in self._keep:
            self._keep[axis] = self._positions(self._axes[axis])
        return self._keep[axis]

    def kept(self, dimensions: Sequence[Dimension]) -> Kept:
        """What stays along some dimensions of a tensor; those of which all does are left out."""
        return tuple((one.dim, keep) for one in dimensions if (keep := self.keep(one.axis)) is not None)

    def _positions(self, maps: tuple[IndexMap, ...]) -> Tensor | None:
        if len(maps) == 1 and maps[0].identity:
            keep: Tensor | None = self._kept[maps[0].group]
            return keep
        stays = self._staying(maps)
        if stays is None:
            return None
        keep = stays.nonzero().squeeze(1)
        if not any(one.fills for one in maps):
            return keep
        # What units and selected inputs leave between them may be nothing, or no multiple.
        arriving = self._staying(tuple(one for one in maps if not one.fills))
        spare = (~stays if arriving is None else arriving & ~stays).nonzero().squeeze(1)
        wanted = rounded_up(len(keep), self._round_to)
        return keep if wanted == len(keep) else torch.cat((keep, spare[: wanted - len(keep)])).sort().values

    def _staying(self, maps: tuple[IndexMap, ...]) -> Tensor | None:
        stays: Tensor | None = None
        for one in maps:
            keep = self._kept[one.group]
            if keep is not None:
                gate = self._gates[one.group]
                opened = torch.zeros(len(gate) + 1, dtype=torch.bool, device=gate.device)
                opened[keep] = True
                opened[-1] = True
                here = opened[one.table]
                stays = here if stays is None else stays & here
        return stays

    def scale(self, axis: int) -> Tensor:
        """What the positions that stay are multiplied by."""
        if axis not in self._scale:
            keep = self.keep(axis)
            factors = [self._factor(one, keep) for one in self._axes[axis]]
            total = factors[0]
            for factor in factors[1:]:
                total = total * factor
            self._scale[axis] = total
        return self._scale[axis]

    def _factor(self, index: IndexMap, keep: Tensor | None) -> Tensor:
        gate = self._gates[index.group]
        if index.identity:
            return gate if keep is None else gate.index_select(0, keep)
        if index.partial:
            gate = torch.cat((gate, gate.new_ones(1)))
        return gate.index_select(0, index.table if keep is None else index.table.index_select(0, keep))
