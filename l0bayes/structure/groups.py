"""Gate groups: vectors of gates, and the slices of a network's tensors that each gate decides over."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from l0bayes.structure.links import Links

Granularity = Literal["unit", "input", "weight"]
GRANULARITIES: tuple[str, ...] = get_args(Granularity)


@dataclass(frozen=True, eq=False)
class Slice:
    """Where a gate vector meets one tensor.

    Attributes:
        tensor: the parameter's or buffer's name in the network.
        dim: the dimension along which positions belong to gates; ``None`` if every element has a gate of its own.
        gates: position to gate, of shape ``(size of dim,)``; −1 where none of this group's decides.
        consumes: whether the gate multiplies these entries (they read the gated feature) or only decides
            whether they exist (they make it).
    """

    tensor: str
    dim: int | None
    gates: Tensor
    consumes: bool


def along(table: Tensor, dim: int | None, shape: torch.Size) -> Tensor:
    """A table of the positions along a dimension, or of all elements, in a shape that broadcasts to the tensor's."""
    return table.reshape(shape if dim is None else [-1 if d == dim else 1 for d in range(len(shape))])


def gates_over(tables: Iterable[tuple[int, int | None, Tensor]], shape: torch.Size) -> list[tuple[int, Tensor]]:
    """Which gates lie over each element of a tensor, table by table; −1 where none does.

    Args:
        tables: for each, the number of its group, its dimension, and position to gate.
        shape: the tensor's.

    Returns:
        Numbers of groups, and element to gate in a shape that broadcasts to ``shape``. A gate over row and column of
        an element counts once.
    """
    found: list[tuple[int, Tensor]] = []
    for number, dim, table in tables:
        line = along(table, dim, shape)
        for earlier, other in found:
            if earlier == number:
                line = torch.where(line == other, -1, line)
        found.append((number, line))
    return found


@dataclass(frozen=True, eq=False)
class GateGroup:
    """A vector of gates and the slices they decide over.

    Attributes:
        name: name of the group, ``layer.unit``, ``layer.input`` or ``layer.weight``; also the name of its Pyro site.
        layer: the layer the request named.
        size: number of gates.
        slices: where the gates meet the network's tensors.
        own: weights that each gate pays for in the paper's accounting (§2.4): those that make the feature, or, for
            the inputs of a layer, those that read it.
        min_units: how many gates the test-time network keeps at least, see :mod:`l0bayes.structure.alive`.
        selects: the layer whose input must be narrowed before it runs, because whatever produces the feature
            stays as it is; ``None`` if the producer itself gets narrower.
        padded: why what its layers make is padded to the full width, and what they read selected from it: code between
            them insists on that width; ``None`` if it does not.
        normalised: whether norms take their statistics over its open features alone, so that closed ones must not be
            there: what is left is a network of its own.
    """

    name: str
    layer: str
    size: int
    slices: tuple[Slice, ...]
    own: Tensor
    min_units: int = 1
    selects: str | None = None
    padded: str | None = None
    normalised: bool = False

    @property
    def narrows(self) -> bool:
        """Whether a closed gate makes all narrower that there is of a feature, so that it may be taken out for good."""
        return self.removable and self.selects is None and self.padded is None

    @property
    def kind(self) -> str:
        """``"unit"``, ``"input"`` or ``"weight"``."""
        return self.name.rpartition(".")[2]

    @property
    def removable(self) -> bool:
        """Whether a closed gate makes the network smaller; single weights only become zero."""
        return all(part.dim is not None for part in self.slices)


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates that are none with a parameter, such as those of attention.

    Attributes:
        group: name of the gate group whose gates take them with them; empty for those that no gate decides over.
        macs: per gate and input, of shape ``(size,)``; ``(1,)`` without a group.
        layer: the layer of the group, or the module that does them.
    """

    group: str
    macs: Tensor
    layer: str = ""

    def ungated(self) -> "Product":
        """The same work, over which no gate decides any more."""
        return Product("", self.macs.sum().reshape(1), self.layer)


@dataclass(frozen=True)
class Structure:
    """The gate groups of a network, and what was left dense.

    Attributes:
        groups: the gate groups.
        dense: layer to the reason why it has no gates.
        shapes: name to shape of every parameter.
        macs: parameter name to multiply-accumulates per element and input.
        products: multiply-accumulates without a parameter.
        links: how information goes through the network.
    """

    groups: tuple[GateGroup, ...]
    dense: Mapping[str, str]
    shapes: Mapping[str, torch.Size] = field(default_factory=dict)
    macs: Mapping[str, float] = field(default_factory=dict)
    products: tuple[Product, ...] = ()
    links: Links = field(default_factory=Links)

    def __str__(self) -> str:
        width = max([len(group.name) for group in self.groups] + [len(layer) for layer in self.dense] + [20]) + 2
        rows = [f"{'group':<{width}}{'gates':>7}  closed gates remove"]
        for group in self.groups:
            parts = [_shown(part) for part in group.slices]
            more = f" and {len(parts) - 6} more" if len(parts) > 7 else ""  # noqa: PLR2004 (a line's worth)
            rows.append(f"{group.name:<{width}}{group.size:>7}  {', '.join(parts[: 6 if more else 7])}{more}")
        rows += [
            f"{group.name:<{width}} padded  code insists on the full width between its layers ({group.padded}): closed "
            f"gates save up to {self.under(group)} parameters in them, and nothing between them"
            for group in self.groups
            if group.padded is not None
        ]
        rows += [f"{layer:<{width}}  dense  {reason}" for layer, reason in self.dense.items()]
        return "\n".join(rows)

    def under(self, group: GateGroup) -> int:
        """Parameters that a group of units decides over."""
        total = 0
        for part in group.slices:
            shape = self.shapes.get(part.tensor)
            if shape is not None and part.dim is not None:
                total += shape.numel() // shape[part.dim] * int((part.gates >= 0).sum())
        return total

    def with_padded(self, groups: Sequence[GateGroup]) -> "Structure":
        """The same structure with some groups replaced by padded ones of the same names."""
        new = {group.name: group for group in groups}
        kept = tuple(new.get(group.name, group) for group in self.groups)
        products = tuple(product.ungated() if product.group in new else product for product in self.products)
        return replace(self, groups=kept, products=products)

    def without(self, groups: Mapping[str, str]) -> "Structure":
        """The same structure with some groups left dense, given by name with the reason."""
        kept = tuple(group for group in self.groups if group.name not in groups)
        dense = {group.layer: groups[group.name] for group in self.groups if group.name in groups}
        products = tuple(product.ungated() if product.group in groups else product for product in self.products)
        return replace(self, groups=kept, dense={**self.dense, **dense}, products=products)


def _shown(part: Slice) -> str:
    if part.dim is None:
        return f"elements of {part.tensor}"
    return f"{part.tensor}[dim {part.dim}]" + ("*" if part.consumes else "")
