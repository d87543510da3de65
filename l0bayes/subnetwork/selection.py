"""The one mechanism: a draw of the gates selects a subnetwork, and only that subnetwork is computed.

For gates z: keep the slices whose gates are not zero, multiply what reads a feature by its gate, and run the user's
own module on those smaller tensors. The selection is the same while training (a sampled z), when predicting (a
posterior draw or the test-time gates) and when the finished network is handed over
(:mod:`l0bayes.subnetwork.compacted`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.structure import GateGroup, Slice
from l0bayes.subnetwork.noisy_weights import Noise
from l0bayes.subnetwork.tensors import laid_out_as, tensor_of


@dataclass(frozen=True)
class Selection:
    """The tensors of a subnetwork.

    Attributes:
        tensors: parameter or buffer name to its narrowed, gated value; what is not named stays as it is.
        features: layer name to the indices, among the features that reach it, of those it still reads, and how many
            reach it; for layers whose producer keeps some that they do not read.
        kept: buffer name to the dimension and the indices that its narrowed value holds.
        noise: of the parameters that are to be drawn while the network runs, narrowed and gated like them.
    """

    tensors: Mapping[str, Tensor]
    features: Mapping[str, tuple[Tensor, int]]
    kept: Mapping[str, tuple[int, Tensor]]
    noise: Noise | None = None


@dataclass(frozen=True)
class _Part:
    """A gate vector along a line of positions: position to gate, ``size`` of the vector where it has no say.

    ``fills``: it selects what arrives, and where that leaves too little, closed positions fill it up.
    """

    group: str
    table: Tensor
    identity: bool
    partial: bool
    fills: bool


@dataclass(frozen=True)
class _Cut:
    """Where a tensor is narrowed: the dimension, the line of positions along it, whether the gates multiply it."""

    dim: int
    line: int
    consumes: bool


def rounded_up(number: int, step: int) -> int:
    """The next multiple of ``step``, and at least 1."""
    return -(-max(number, 1) // step) * step


class _Draw:
    """One set of gates, as seen along each line of positions; every line is worked out once."""

    def __init__(
        self,
        lines: Sequence[tuple[_Part, ...]],
        gates: Mapping[str, Tensor],
        kept: Mapping[str, Any],
        round_to: int = 1,
    ) -> None:
        self._lines, self._gates, self._kept, self._round_to = lines, gates, kept, round_to
        self._keep: dict[int, Tensor | None] = {}
        self._gain: dict[int, Tensor] = {}

    def keep(self, line: int) -> Tensor | None:
        """Indices of the positions that stay; ``None`` for all."""
        if line not in self._keep:
            self._keep[line] = self._positions(self._lines[line])
        return self._keep[line]

    def _positions(self, parts: tuple[_Part, ...]) -> Tensor | None:
        if len(parts) == 1 and parts[0].identity:
            keep: Tensor | None = self._kept[parts[0].group]
            return keep
        stays = self._staying(parts)
        if stays is None:
            return None
        keep = stays.nonzero().squeeze(1)
        if not any(part.fills for part in parts):
            return keep
        # What units and selected inputs leave between them may be nothing, or no multiple.
        arriving = self._staying(tuple(part for part in parts if not part.fills))
        spare = (~stays if arriving is None else arriving & ~stays).nonzero().squeeze(1)
        wanted = rounded_up(len(keep), self._round_to)
        return keep if wanted == len(keep) else torch.cat((keep, spare[: wanted - len(keep)])).sort().values

    def _staying(self, parts: tuple[_Part, ...]) -> Tensor | None:
        stays: Tensor | None = None
        for part in parts:
            keep = self._kept[part.group]
            if keep is not None:
                gate = self._gates[part.group]
                opened = torch.zeros(len(gate) + 1, dtype=torch.bool, device=gate.device)
                opened[keep] = True
                opened[-1] = True
                here = opened[part.table]
                stays = here if stays is None else stays & here
        return stays

    def gain(self, line: int) -> Tensor:
        """What the positions that stay are multiplied by."""
        if line not in self._gain:
            keep = self.keep(line)
            factors = [self._factor(part, keep) for part in self._lines[line]]
            total = factors[0]
            for factor in factors[1:]:
                total = total * factor
            self._gain[line] = total
        return self._gain[line]

    def _factor(self, part: _Part, keep: Tensor | None) -> Tensor:
        gate = self._gates[part.group]
        if part.identity:
            return gate if keep is None else gate.index_select(0, keep)
        if part.partial:
            gate = torch.cat((gate, gate.new_ones(1)))
        return gate.index_select(0, part.table if keep is None else part.table.index_select(0, keep))


class Selector:
    """Selects subnetworks of one network; the tables are built once.

    Args:
        net: the network.
        groups: its gate groups.
        narrow_below: share of open gates below which slices of linear layers are taken out. Above it copying them
            costs more than it saves, and the closed gates' zeros stay in the products; the result is the same.
            Convolutions are always narrowed. 1 takes out every closed slice, 0 none at all.
        whole: names of groups that are never taken out.
        round_to: numbers of gates that stay are rounded up to a multiple of this; the added ones are closed.
    """

    def __init__(
        self,
        net: nn.Module,
        groups: Sequence[GateGroup],
        narrow_below: float = 1.0,
        whole: frozenset[str] = frozenset(),
        round_to: int = 1,
    ) -> None:
        self._groups = tuple(groups)
        self._round_to = round_to
        self._narrow_below = {g.name: _narrow_below(net, g, narrow_below) for g in groups if g.name not in whole}
        self._lines: list[tuple[_Part, ...]] = []
        self._cuts: dict[str, list[_Cut]] = {}
        self._single = {s.tensor: g.name for g in groups for s in g.slices if s.dim is None}
        self._selects: list[tuple[str, int, tuple[_Part, ...]]] = []
        self._device = torch.device("cpu")
        self._plan(net)
        self._names_of_buffers = frozenset(name for name, _ in net.named_buffers())

    def _plan(self, net: nn.Module) -> None:
        places: dict[tuple[str, int], list[tuple[GateGroup, Slice]]] = {}
        for group in self._groups:
            for part in group.slices:
                if part.dim is not None:
                    places.setdefault((part.tensor, part.dim), []).append((group, part))
        known: dict[tuple[Any, ...], int] = {}
        for (tensor, dim), pieces in places.items():
            key = tuple((group.name, part.gates.numpy().tobytes()) for group, part in pieces)
            if key not in known:
                known[key] = len(self._lines)
                # A convolution of no width cannot run; a linear layer can.
                fills = self._round_to > 1 or tensor_of(net, tensor).dim() > 2  # noqa: PLR2004
                self._lines.append(
                    tuple(_part(group, part, fills=fills and group.selects is not None) for group, part in pieces)
                )
            self._cuts.setdefault(tensor, []).append(_Cut(dim, known[key], any(part.consumes for _, part in pieces)))
            upstream = tuple(_part(group, part, fills=False) for group, part in pieces if group.selects is None)
            for layer in {group.selects for group, _ in pieces if group.selects is not None}:
                self._selects.append((layer, known[key], upstream))

    def __call__(
        self,
        net: nn.Module,
        gates: Mapping[str, Tensor],
        *,
        values: Mapping[str, Tensor] | None = None,
        noise: Noise | None = None,
    ) -> Selection:
        """Narrows and gates the network's tensors.

        Args:
            net: the network, or a copy of it.
            gates: group name to gate values of shape ``(size,)``; exactly 0 means closed.
            values: parameter name to a value that stands in for the network's own.
            noise: of parameters that are to be drawn while the network runs.

        Returns:
            The selection, differentiable in parameters and gates.
        """
        values = values or {}
        self._move(next(iter(gates.values())).device)
        kept = {group.name: self._kept(group.name, gates[group.name]) for group in self._groups}
        draw = _Draw(self._lines, gates, kept, self._round_to)
        tensors = dict(values)
        buffers: dict[str, tuple[int, Tensor]] = {}
        for name, group in self._single.items():
            tensors[name] = _times(_value(net, name, values), gates[group])
        for name, cuts in self._cuts.items():
            if name in self._names_of_buffers:
                (cut,) = cuts
                keep = draw.keep(cut.line)
                if keep is not None:
                    tensors[name] = tensor_of(net, name).index_select(cut.dim, keep)
                    buffers[name] = (cut.dim, keep)
            elif (new := _cut(tensors.get(name), _value(net, name, values), cuts, draw)) is not None:
                tensors[name] = new
        noise = None if noise is None else replace(noise, sd=self._narrowed(noise.sd, gates, draw))
        for name in noise.sd if noise else ():
            tensors.setdefault(name, _value(net, name, values))
        return Selection(tensors, self._features(draw, gates, kept), buffers, noise)

    def _narrowed(self, sd: Mapping[str, Tensor], gates: Mapping[str, Tensor], draw: _Draw) -> dict[str, Tensor]:
        """Standard deviations, narrowed and gated as their parameters are."""
        narrowed = {}
        for name, whole in sd.items():
            group = self._single.get(name)
            gated = whole if group is None else _times(whole, gates[group])
            new = _cut(gated, whole, self._cuts.get(name, ()), draw)
            narrowed[name] = gated if new is None else new
        return narrowed

    def positions(self, gates: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, Tensor], ...]]:
        """What a subnetwork keeps of each tensor: dimensions and indices, for those of which something goes."""
        kept = {group.name: self._kept(group.name, gates[group.name]) for group in self._groups}
        draw = _Draw(self._lines, gates, kept, self._round_to)
        found = {}
        for name, cuts in self._cuts.items():
            along = tuple((cut.dim, keep) for cut in cuts if (keep := draw.keep(cut.line)) is not None)
            if along:
                found[name] = along
        return found

    def _move(self, device: torch.device) -> None:
        if device != self._device:
            self._lines = [tuple(_moved(part, device) for part in parts) for parts in self._lines]
            self._selects = [(a, b, tuple(_moved(part, device) for part in parts)) for a, b, parts in self._selects]
            self._device = device

    def _features(
        self, draw: _Draw, gates: Mapping[str, Tensor], kept: Mapping[str, Tensor | None]
    ) -> dict[str, tuple[Tensor, int]]:
        found = {}
        for layer, line, upstream in self._selects:
            keep = draw.keep(line)
            if keep is None:
                continue
            reaching = _Draw([upstream], gates, kept).keep(0) if upstream else None
            if reaching is None:
                found[layer] = (keep, len(self._lines[line][0].table))
            elif len(reaching) != len(keep):
                found[layer] = (torch.searchsorted(reaching, keep), len(reaching))
        return found

    def _kept(self, group: str, gate: Tensor) -> Tensor | None:
        """Indices of the gates whose slices stay: those that are not exactly 0; ``None`` for all."""
        if group not in self._narrow_below:
            return None
        keep = gate.detach().nonzero().squeeze(1)
        number, size = len(keep), len(gate)
        if number == size or number >= self._narrow_below[group] * size:
            return None
        # A layer of no width cannot run: one closed slice stays, with zeros in front.
        wanted = min(rounded_up(number, self._round_to), size)
        if wanted > number:
            closed = (gate.detach() == 0).nonzero().squeeze(1)
            keep = torch.cat((keep, closed[: wanted - number])).sort().values
        return None if wanted == size else keep


def _narrow_below(net: nn.Module, group: GateGroup, linear: float) -> float:
    """Taking out pays at once where a slice is read at many positions, and later where it is read once."""
    if not group.removable:
        return 0.0
    touched = [tensor_of(net, part.tensor) for part in group.slices]
    return linear if linear == 0 or all(tensor.dim() <= 2 for tensor in touched) else 1.0  # noqa: PLR2004 (matrices)


@torch.inference_mode(mode=False)
def _part(group: GateGroup, part: Slice, *, fills: bool) -> _Part:
    table = torch.where(part.gates >= 0, part.gates, group.size)
    identity = torch.equal(table, torch.arange(group.size))
    return _Part(group.name, table, identity, bool((part.gates < 0).any()), fills=fills)


@torch.inference_mode(mode=False)
def _moved(part: _Part, device: torch.device) -> _Part:
    return replace(part, table=part.table.to(device))


def _value(net: nn.Module, name: str, values: Mapping[str, Tensor]) -> Tensor:
    return values[name] if name in values else tensor_of(net, name)


def _times(tensor: Tensor, gate: Tensor) -> Tensor:
    """A tensor each of whose elements has a gate of its own."""
    return tensor * gate.to(tensor.dtype).reshape(tensor.shape)


def _cut(gated: Tensor | None, whole: Tensor, cuts: Sequence[_Cut], draw: _Draw) -> Tensor | None:
    """A parameter's slices, multiplied by the gates of what they read; ``None`` if nothing changes."""
    tensor = whole if gated is None else gated
    for cut in cuts:
        keep = draw.keep(cut.line)
        if keep is not None:
            tensor = tensor.index_select(cut.dim, keep)
    tensor = laid_out_as(whole, tensor)
    for cut in cuts:
        if cut.consumes:
            gain = draw.gain(cut.line).to(tensor.dtype)
            behind = tensor.dim() - 1 - cut.dim
            tensor = tensor * (gain.reshape(-1, *(1,) * behind) if behind else gain)
    return None if tensor is whole else tensor
