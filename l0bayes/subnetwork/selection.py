"""The one mechanism: a draw of the gates selects a subnetwork, and only that subnetwork is computed.

For gates z: keep the slices whose gates are not zero, multiply what reads a feature by its gate, and run the user's
own module on those smaller tensors. The selection is the same while training (a sampled z), when predicting (a
posterior draw or the test-time gates) and when the finished network is handed over
(:mod:`l0bayes.subnetwork.compacted`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.structure import GateGroup, Slice
from l0bayes.subnetwork.draw import Dimension, Draw, IndexMap, index_map, moved, rounded_up
from l0bayes.subnetwork.noisy_weights import Noise
from l0bayes.subnetwork.tensors import Kept, narrow, tensor_of


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
    features: Mapping[str, tuple[Tensor, int]] = field(default_factory=dict)
    kept: Mapping[str, tuple[int, Tensor]] = field(default_factory=dict)
    noise: Noise | None = None

    def within(self, module: str) -> "Selection":
        """The part of it that is in one module, by the names there."""

        def inside(values: Mapping[str, Any]) -> dict[str, Any]:
            prefix = f"{module}." if module else ""
            here = {name: value for name, value in values.items() if f"{name}.".startswith(prefix)}
            return {name[len(prefix) :]: value for name, value in here.items()}

        return Selection(inside(self.tensors), inside(self.features), inside(self.kept))


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
        self._axes: list[tuple[IndexMap, ...]] = []
        self._dimensions: dict[str, list[Dimension]] = {}
        self._single = {s.tensor: g.name for g in groups for s in g.slices if s.dim is None}
        self._selects: list[tuple[str, int, tuple[IndexMap, ...]]] = []
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
                known[key] = len(self._axes)
                # A convolution of no width cannot run; a linear layer can.
                fills = self._round_to > 1 or tensor_of(net, tensor).dim() > 2  # noqa: PLR2004
                self._axes.append(
                    tuple(index_map(group, part, fills=fills and group.selects is not None) for group, part in pieces)
                )
            consumes = any(part.consumes for _, part in pieces)
            self._dimensions.setdefault(tensor, []).append(Dimension(dim, known[key], consumes))
            upstream = tuple(index_map(group, part, fills=False) for group, part in pieces if group.selects is None)
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
        draw = Draw(self._axes, gates, kept, self._round_to)
        tensors = dict(values)
        buffers: dict[str, tuple[int, Tensor]] = {}
        for name, group in self._single.items():
            tensors[name] = _times(_value(net, name, values), gates[group])
        for name, dimensions in self._dimensions.items():
            if name in self._names_of_buffers:
                (along,) = dimensions
                keep = draw.keep(along.axis)
                if keep is not None:
                    tensors[name] = tensor_of(net, name).index_select(along.dim, keep)
                    buffers[name] = (along.dim, keep)
            elif (new := _narrowed(tensors.get(name), _value(net, name, values), dimensions, draw)) is not None:
                tensors[name] = new
        noise = None if noise is None else replace(noise, sd=self._narrowed_sd(noise.sd, gates, draw))
        for name in noise.sd if noise else ():
            tensors.setdefault(name, _value(net, name, values))
        return Selection(tensors, self._features(draw, gates, kept), buffers, noise)

    def _narrowed_sd(self, sd: Mapping[str, Tensor], gates: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """Standard deviations, narrowed and gated as their parameters are."""
        narrowed = {}
        for name, whole in sd.items():
            group = self._single.get(name)
            gated = whole if group is None else _times(whole, gates[group])
            new = _narrowed(gated, whole, self._dimensions.get(name, ()), draw)
            narrowed[name] = gated if new is None else new
        return narrowed

    def positions(self, gates: Mapping[str, Tensor]) -> dict[str, Kept]:
        """What a subnetwork keeps of each tensor: dimensions and indices, for those of which something goes."""
        kept = {group.name: self._kept(group.name, gates[group.name]) for group in self._groups}
        draw = Draw(self._axes, gates, kept, self._round_to)
        found = {name: draw.kept(dimensions) for name, dimensions in self._dimensions.items()}
        return {name: kept for name, kept in found.items() if kept}

    def _move(self, device: torch.device) -> None:
        if device != self._device:
            self._axes = [tuple(moved(one, device) for one in maps) for maps in self._axes]
            self._selects = [(a, b, tuple(moved(one, device) for one in maps)) for a, b, maps in self._selects]
            self._device = device

    def _features(
        self, draw: Draw, gates: Mapping[str, Tensor], kept: Mapping[str, Tensor | None]
    ) -> dict[str, tuple[Tensor, int]]:
        found = {}
        for layer, axis, upstream in self._selects:
            keep = draw.keep(axis)
            if keep is None:
                continue
            reaching = Draw([upstream], gates, kept).keep(0) if upstream else None
            if reaching is None:
                found[layer] = (keep, len(self._axes[axis][0].table))
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


def _value(net: nn.Module, name: str, values: Mapping[str, Tensor]) -> Tensor:
    return values[name] if name in values else tensor_of(net, name)


def _times(tensor: Tensor, gate: Tensor) -> Tensor:
    """A tensor each of whose elements has a gate of its own."""
    return tensor * gate.to(tensor.dtype).reshape(tensor.shape)


def _narrowed(gated: Tensor | None, whole: Tensor, dimensions: Sequence[Dimension], draw: Draw) -> Tensor | None:
    """A parameter's slices, multiplied by the gates of what they read; ``None`` if nothing changes."""
    tensor = narrow(whole if gated is None else gated, draw.kept(dimensions))
    for along in dimensions:
        if along.consumes:
            scale = draw.scale(along.axis).to(tensor.dtype)
            behind = tensor.dim() - 1 - along.dim
            tensor = tensor * (scale.reshape(-1, *(1,) * behind) if behind else scale)
    return None if tensor is whole else tensor
