"""Finds the gate groups of a network: from the roles of its features to tables of slices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from l0bayes.errors import StructureError
from l0bayes.layers.kinds import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from l0bayes.structure.groups import GRANULARITIES, GateGroup, Granularity, Product, Slice, Structure
from l0bayes.structure.names import join_name
from l0bayes.structure.roles import Roles

Taken = dict[int, tuple[str, int]]  # class of features to the group that gates it, and the number of its gate there


@dataclass(frozen=True)
class Request:
    """What is asked for a layer.

    Attributes:
        gates: ``"unit"`` (the features that leave it), ``"input"`` (those that enter it) or ``"weight"``.
        min_units: gates that the test-time network keeps at least; ``None`` lets the structure decide: 1, or 0 where
            something else carries on without the layer.
    """

    gates: Granularity
    min_units: int | None = None


class Finder:
    """Builds the gate groups that are asked for.

    Args:
        roles: of the features of the network.
    """

    def __init__(self, roles: Roles) -> None:
        self._roles = roles

    def structure(self, requests: Mapping[str, Request]) -> Structure:
        """The gate groups that are asked for.

        Args:
            requests: layer name to what is asked for it.

        Returns:
            The groups in the order of ``requests``, and the layers left dense with reasons.

        Raises:
            StructureError: if nothing can be gated.
        """
        groups: list[GateGroup] = []
        dense: dict[str, str] = {}
        taken: Taken = {}
        for layer, request in requests.items():
            if request.gates not in GRANULARITIES:
                raise StructureError(
                    f"gates: {request.gates!r} for layer {layer!r} is none of {', '.join(GRANULARITIES)}"
                )
            build = {"unit": self._units, "input": self._inputs, "weight": self._weights}[request.gates]
            found = build(layer, request, taken)
            if isinstance(found, GateGroup):
                groups.append(found)
            elif found:
                dense[layer] = found
        dense |= self._roles.without_gates()
        if not groups:
            reasons = "; ".join(f"{layer}: {reason}" for layer, reason in dense.items())
            raise StructureError(f"net has no layer that can be gated as asked ({reasons or 'it has no layers'})")
        groups.sort(key=lambda group: not group.removable)  # single weights pay last: for what other gates leave open
        shapes = {name: parameter.shape for name, parameter in self._roles.net.named_parameters()}
        return Structure(tuple(groups), dense, shapes, *self._work(groups, taken), self._roles.links())

    def _units(self, layer: str, request: Request, taken: Taken) -> GateGroup | str:
        axis = self._roles.axis(layer, reads=False)
        if axis is None:
            return self._roles.no_axis(layer)
        row_classes = self._roles.axes[axis][0].tolist()
        numbers = list(dict.fromkeys(row_classes))
        reasons = {number: self._roles.why_not(number) for number in numbers}
        free = [number for number in numbers if reasons[number] is None]
        if not free:
            mixed = self._roles.classes.mixed(numbers[0]) if len(numbers) == 1 else None
            return "; ".join(dict.fromkeys(reason for reason in (mixed, reasons[numbers[0]]) if reason))
        if len(free) == 1 and len(row_classes) > 1:
            return self._roles.classes.mixed(free[0]) or "all of its features are coupled"
        new = [number for number in free if number not in taken]
        if not new:
            return ""  # its features are gated already, with those of the layer they are added to
        name = join_name(layer, "unit")
        return self._group(name, layer, len(new), tuple(self._take(name, new, taken)), request)

    def _take(self, name: str, numbers: Sequence[int], taken: Taken) -> Iterator[Slice]:
        """Gives a group a gate for each of some classes: all of their positions, those that read them first."""
        taken.update({number: (name, gate) for gate, number in enumerate(numbers)})
        table = torch.full((self._roles.classes.count,), -1, dtype=torch.int64)
        table[torch.tensor(numbers)] = torch.arange(len(numbers))
        axes = dict.fromkeys(key for number in numbers for key in self._roles.along[number])
        for tensor, dim in sorted(axes, key=lambda key: not self._roles.axes[key][1]):
            classes, reads = self._roles.axes[tensor, dim]
            yield Slice(tensor, dim, table[classes], consumes=reads)

    def _group(self, name: str, layer: str, size: int, slices: tuple[Slice, ...], request: Request) -> GateGroup:
        own = torch.zeros(size, dtype=torch.int64)
        for part in slices:
            if not part.consumes and part.dim is not None and self._roles.makes(part.tensor, part.dim):
                weight = self._roles.net.get_parameter(part.tensor)
                decides = part.gates >= 0
                own.index_add_(
                    0, part.gates[decides], torch.full((int(decides.sum()),), weight.numel() // len(decides))
                )
        minimum = _min_units(request, layer, size, may_vanish=self._may_vanish(slices))
        return GateGroup(name, layer, size, slices, own, minimum, normalised=self._normalised(slices))

    def _normalised(self, slices: tuple[Slice, ...]) -> bool:
        """Whether norms over live features act on what slices make."""
        return any(part.tensor.rpartition(".")[0] in self._roles.live_norms for part in slices)

    def _may_vanish(self, slices: tuple[Slice, ...]) -> bool:
        """Whether every reader has other features to read, or adds to something that others make too."""
        for part in slices:
            if part.consumes and (part.gates >= 0).all():
                made = [
                    self._roles.axes[key][0]
                    for key in self._roles.axes
                    if key[0] == part.tensor and not self._roles.axes[key][1]
                ]
                others = [
                    [key for key in self._roles.makers.get(number, []) if key[0] != part.tensor]
                    for number in (torch.cat(made).unique().tolist() if made else [])
                ]
                if not others or not all(others):
                    return False
        return True

    def _inputs(self, layer: str, request: Request, taken: Taken) -> GateGroup | str:
        axis, module = self._roles.axis(layer, reads=True), self._roles.modules.get(layer)
        if axis is None:
            return self._roles.no_axis(layer)
        if shared := self._roles.shared.get(axis[0]):
            return shared
        plain = isinstance(module, (nn.Linear, *CONVOLUTIONS)) and not isinstance(module, TRANSPOSED_CONVOLUTIONS)
        if not plain or "index" in dict(module.named_buffers(recurse=False)):  # type: ignore[union-attr]
            return "its inputs cannot be selected; ask for the units of the layers before it"
        name, size = join_name(layer, "input"), len(self._roles.axes[axis][0])
        numbers = self._roles.axes[axis][0].tolist()
        owners = {taken[number][0] if number in taken else None for number in numbers}
        one_each = len(set(numbers)) == size and self._roles.classes.none not in numbers
        if one_each and None not in owners:
            return f"its input gates would be those of {', '.join(sorted(str(owner) for owner in owners))!r}"
        read_here = one_each and all(self._roles.readers.get(number) == [axis] for number in numbers)
        weight = self._roles.net.get_parameter(axis[0])
        own = torch.full((size,), weight.numel() // size)
        minimum = _min_units(request, layer, size)
        if read_here and owners == {None} and all(self._roles.why_not(number) is None for number in numbers):
            slices = tuple(self._take(name, numbers, taken))
            return GateGroup(name, layer, size, slices, own, minimum, normalised=self._normalised(slices))
        part = Slice(*axis, torch.arange(size), consumes=True)
        return GateGroup(name, layer, size, (part,), own, minimum, selects=layer)

    def _weights(self, layer: str, request: Request, taken: Taken) -> GateGroup | str:  # noqa: ARG002
        axis = self._roles.axis(layer, reads=True)
        if axis is None:
            return self._roles.no_axis(layer)
        if shared := self._roles.shared.get(axis[0]):
            return shared
        size = self._roles.net.get_parameter(axis[0]).numel()
        part = Slice(axis[0], None, torch.arange(size), consumes=True)
        minimum = _min_units(request, layer, size, may_vanish=True)
        return GateGroup(join_name(layer, "weight"), layer, size, (part,), torch.ones(size, dtype=torch.int64), minimum)

    def _work(self, groups: list[GateGroup], taken: Taken) -> tuple[Mapping[str, float], tuple[Product, ...]]:
        """Multiply-accumulates per input: of each element of a weight, and of what is no product with a weight."""
        rows = self._roles.rows
        gated = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
        ungated = {layer: number / rows for layer, number in self._roles.other_macs.items()}
        for labels, each, layer in self._roles.products:
            numbers, counts = self._roles.classes.of(labels).unique(return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                if number in taken:
                    name, gate = taken[number]
                    gated[name][gate] += count * each / rows
                else:
                    ungated[layer] = ungated.get(layer, 0.0) + count * each / rows
        products = [Product(group.name, gated[group.name], group.layer) for group in groups if gated[group.name].any()]
        products += [Product("", torch.tensor([macs], dtype=torch.float64), layer) for layer, macs in ungated.items()]
        return {name: number / rows for name, number in self._roles.macs.items()}, tuple(products)


def _min_units(request: Request, layer: str, size: int, *, may_vanish: bool = False) -> int:
    """How many of a layer's gates stay at least: what was asked for, or 1 unless something carries on without them."""
    if request.min_units is None:
        return 0 if may_vanish else 1
    if request.min_units > size:
        raise StructureError(f"min_units: {request.min_units} for layer {layer!r}, which has {size} gates")
    return request.min_units
