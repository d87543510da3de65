"""One draw of the gates as seen along the axes of tensors: which positions stay, and what multiplies them.

Which gates are open is read from the device once for all groups, since reading waits for all that the device has yet to
do; every index is worked out on the host and sent back at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from l0bayes.structure import GateGroup, Slice
from l0bayes.subnetwork.tensors import Kept

Indices = NDArray[np.intp]
Positions = Indices | None  # that stay, in order; ``None`` for all


@dataclass(frozen=True)
class IndexMap:
    """A gate vector along an axis: position to gate, ``size`` of the vector where it has no say.

    ``fills``: it selects what arrives, and where that leaves too little, closed positions fill it up.
    """

    group: str
    table: Tensor
    on_host: Indices
    identity: bool
    partial: bool
    fills: bool

    @classmethod
    @torch.inference_mode(mode=False)
    def of(cls, group: GateGroup, part: Slice, *, fills: bool) -> Self:
        """The map of a slice of a group."""
        table = torch.where(part.gates >= 0, part.gates, group.size)
        identity = torch.equal(table, torch.arange(group.size))
        return cls(group.name, table, table.numpy(), identity, bool((part.gates < 0).any()), fills=fills)

    @torch.inference_mode(mode=False)
    def moved(self, device: torch.device) -> Self:
        """The same, on a device."""
        return replace(self, table=self.table.to(device))


Axis = tuple[IndexMap, ...]


@dataclass(frozen=True)
class Dimension:
    """Where a tensor is narrowed: the dimension, the number of its axis, and whether the gates multiply it."""

    dim: int
    axis: int
    consumes: bool


def rounded_up(number: int, step: int) -> int:
    """The next multiple of ``step``, and at least 1."""
    return -(-max(number, 1) // step) * step


def open_on_host(gates: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Which gates are not exactly 0, by group: a single reading from the device, and none for no groups.

    Args:
        gates: group name to gate values of shape ``(size,)``.
        names: of the groups to read.
    """
    if not names:
        return {}
    opened = (torch.cat([gates[name].detach() for name in names]) != 0).cpu().numpy()
    found, begin = {}, 0
    for name in names:
        end = begin + len(gates[name])
        found[name] = opened[begin:end]
        begin = end
    return found


def staying(opened: NDArray[np.bool_], round_to: int) -> Positions:
    """Indices of gates that are open, filled up with closed ones to a multiple; ``None`` if they are all there are."""
    keep = opened.nonzero()[0]
    wanted = min(rounded_up(len(keep), round_to), len(opened))  # a layer of no width cannot run
    if wanted == len(opened):
        return None
    return keep if wanted == len(keep) else _filled(keep, (~opened).nonzero()[0], wanted)


def _filled(keep: Indices, spare: Indices, wanted: int) -> Indices:
    return np.sort(np.concatenate((keep, spare[: wanted - len(keep)])))


def on_device(indices: Sequence[Indices], device: torch.device) -> Sequence[Tensor]:
    """Indices as tensors; to another device than the host's they go at once, and nobody waits."""
    if device.type == "cpu" or not indices:
        return [torch.from_numpy(one) for one in indices]
    sent = torch.from_numpy(np.concatenate(indices)).to(device, non_blocking=True)
    parts: tuple[Tensor, ...] = sent.split([len(one) for one in indices])
    return parts


class Draw:
    """One set of gates along axes, each a row of positions that index maps share; each is worked out once.

    Args:
        axes: the axes.
        gates: group name to gate values.
        kept: group name to the gates whose slices stay.
        round_to: numbers of positions that index maps fill up are rounded up to a multiple of this.

    Attributes:
        positions: that stay along each axis, on the host.
    """

    def __init__(
        self, axes: Sequence[Axis], gates: Mapping[str, Tensor], kept: Mapping[str, Positions], round_to: int = 1
    ) -> None:
        self._axes, self._gates, self._kept, self._round_to = axes, gates, kept, round_to
        self._stays: dict[str, NDArray[np.bool_]] = {}
        self.positions = [self.along(axis) for axis in axes]
        narrowed = {axis: keep for axis, keep in enumerate(self.positions) if keep is not None}
        device = next(iter(gates.values())).device
        self._keep = dict(zip(narrowed, on_device(list(narrowed.values()), device), strict=True))
        self._scale: dict[int, Tensor] = {}

    def keep(self, axis: int) -> Tensor | None:
        """Indices of the positions of an axis that stay; ``None`` for all."""
        return self._keep.get(axis)

    def kept(self, dimensions: Sequence[Dimension]) -> Kept:
        """What stays along some dimensions of a tensor; those of which all does are left out."""
        return tuple((one.dim, keep) for one in dimensions if (keep := self.keep(one.axis)) is not None)

    def along(self, maps: Axis) -> Positions:
        """The positions that stay along an axis, on the host."""
        if len(maps) == 1 and maps[0].identity:
            return self._kept[maps[0].group]
        stays = self._staying(maps)
        if stays is None:
            return None
        keep = stays.nonzero()[0]
        if not any(one.fills for one in maps):
            return keep
        # What units and selected inputs leave between them may be nothing, or no multiple.
        arriving = self._staying(tuple(one for one in maps if not one.fills))
        spare = (~stays if arriving is None else arriving & ~stays).nonzero()[0]
        wanted = rounded_up(len(keep), self._round_to)
        return keep if wanted == len(keep) else _filled(keep, spare, wanted)

    def _staying(self, maps: Axis) -> NDArray[np.bool_] | None:
        stays: NDArray[np.bool_] | None = None
        for one in maps:
            if self._kept[one.group] is not None:
                here: NDArray[np.bool_] = self._stays_in(one.group)[one.on_host]
                stays = here if stays is None else stays & here
        return stays

    def _stays_in(self, group: str) -> NDArray[np.bool_]:
        """Of the gates of a group, and of the position where it has no say."""
        if group not in self._stays:
            found = np.zeros(len(self._gates[group]) + 1, dtype=np.bool_)
            found[self._kept[group]] = True
            found[-1] = True
            self._stays[group] = found
        return self._stays[group]

    def scale(self, axis: int) -> Tensor:
        """What the positions of an axis that stay are multiplied by."""
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
