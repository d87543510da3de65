"""The expected number of parameters, or multiply-accumulates, that gates leave alive, in closed form.

A parameter lives when *all* gates over it are open. A weight matrix whose rows and columns have gates thus costs, in
expectation, (expected rows) × (expected columns): with S the expected lengths of all gated axes, the cost of a network
is a quadratic form, ½ SᵀMS + lᵀS, and S is linear in the probabilities p of all gates taken as one vector, S = Cp,
wherever a position hangs on one gate; where it hangs on several, their product is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from l0bayes.errors import StructureError
from l0bayes.structure import Structure
from l0bayes.structure.groups import gates_over

_LARGEST = 2_000_000  # numbers in a table of all axes by all gates


@dataclass(frozen=True)
class _Overlap:
    """Positions of an axis that hang on several gates at once.

    Attributes:
        axis: number of the axis.
        gates: for each group on it the number of the gate of each position; one beyond the last where it has no say.
    """

    axis: int
    gates: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Block:
    """Positions of some axes that hang on one gate each.

    Attributes:
        axes: their numbers, ``(a,)``; ``None`` for all of them.
        gates: where the block's gates begin and end among all.
        counts: positions on each axis that hang on each gate, ``(a, gates)``.
    """

    axes: Tensor | None
    gates: slice
    counts: Tensor


@dataclass(frozen=True)
class _Tables:
    """The quadratic form, in one dtype and on one device.

    Attributes:
        blocks: C; one block where that is small, since a step of training is made of small operations.
        overlaps: what C leaves out.
        quadratic: M, ``(axes, axes)``.
        linear: l, ``(axes,)``, with what lies beside positions that no gate decides over.
        alone: cost that hangs on each gate alone, ``(gates,)``; ``None`` if nothing does.
        twice: what is counted with p² where it should be p, for elements under one gate along two axes; ``None`` if
            nothing is.
    """

    blocks: tuple[_Block, ...]
    overlaps: tuple[_Overlap, ...]
    quadratic: Tensor
    linear: Tensor
    alone: Tensor | None
    twice: Tensor | None

    def to(self, like: Tensor) -> "_Tables":
        """The same in another dtype and on another device."""
        device = like.device
        return _Tables(
            tuple(
                _Block(None if b.axes is None else b.axes.to(device), b.gates, b.counts.to(like)) for b in self.blocks
            ),
            tuple(replace(one, gates=tuple(table.to(device) for table in one.gates)) for one in self.overlaps),
            *(None if t is None else t.to(like) for t in (self.quadratic, self.linear, self.alone, self.twice)),  # type: ignore[arg-type]
        )


@dataclass
class _Axis:
    """Positions along a dimension, or all elements of a tensor, and the gates that each of them hangs on."""

    maps: list[tuple[int, Tensor]]
    size: int


class ExpectedCost:
    """The expected cost of what gates leave alive.

    Args:
        structure: the gate groups.
        per_element: parameter name to the cost of one of its elements; parameters that are not named cost nothing.
        per_product: cost of a multiply-accumulate of features with features, such as in attention.

    Raises:
        StructureError: if gates overlap in a way that this form cannot express.
    """

    def __init__(
        self, structure: Structure, per_element: Mapping[str, float], per_product: float | Mapping[str, float] = 0.0
    ) -> None:
        self._names = [group.name for group in structure.groups]
        self._sizes = [group.size for group in structure.groups]
        self._starts = torch.tensor([0, *self._sizes]).cumsum(0).tolist()
        self._axes: list[_Axis] = []
        self._known: dict[tuple[object, ...], int] = {}
        pairs, singles = self._collect(structure, per_element)
        self._check_overlaps(pairs)
        alone = torch.zeros(self._starts[-1], dtype=torch.float64)
        for product in structure.products:
            if product.group:
                each = per_product[product.group] if isinstance(per_product, Mapping) else per_product
                start = self._starts[self._names.index(product.group)]
                alone[start : start + len(product.macs)] += each * product.macs
        self._tables = {(torch.float64, torch.device("cpu")): self._build(pairs, singles, alone)}

    # -- building -----------------------------------------------------------------------------------------------

    def _collect(
        self, structure: Structure, per_element: Mapping[str, float]
    ) -> tuple[list[tuple[int, int, float]], list[tuple[int, float]]]:
        maps: dict[str, dict[int | None, list[tuple[int, Tensor]]]] = {}
        for number, group in enumerate(structure.groups):
            for part in group.slices:
                if part.tensor in structure.shapes:  # buffers are no parameters
                    maps.setdefault(part.tensor, {}).setdefault(part.dim, []).append((number, part.gates))
        pairs, singles = [], []
        for tensor, dims in maps.items():
            cost, shape = per_element.get(tensor, 0.0), structure.shapes[tensor]
            if not cost:
                continue
            if None in dims:
                singles.append((self._axis(_by_element(dims, shape)), cost))
                continue
            axes = [self._axis(maps) for maps in dims.values()]
            each = cost * shape.numel()
            for dim in dims:
                each /= shape[dim]  # type: ignore[index] # None was sorted out above
            if len(axes) == 1:
                singles.append((axes[0], each))
            elif len(axes) == 2:  # noqa: PLR2004 (rows and columns)
                pairs.append((axes[0], axes[1], each))
            else:
                raise StructureError(f"gates: {tensor} has gates along {len(axes)} dimensions; at most 2 can be priced")
        return pairs, singles

    def _axis(self, maps: list[tuple[int, Tensor]]) -> int:
        key = tuple((number, table.numpy().tobytes()) for number, table in maps)
        if key not in self._known:
            self._known[key] = len(self._axes)
            self._axes.append(_Axis(maps, len(maps[0][1])))
        return self._known[key]

    def _check_overlaps(self, pairs: Sequence[tuple[int, int, float]]) -> None:
        for first, second, _ in pairs:
            for one, other in ((first, second), (second, first)):
                decided = torch.stack([table >= 0 for _, table in self._axes[one].maps]).sum(0)
                shared = {number for number, _ in self._axes[one].maps} & {n for n, _ in self._axes[other].maps}
                if (decided > 1).any() and shared:
                    raise StructureError(
                        f"gates: {self._names[min(shared)]!r} decides over both dimensions of a weight on which "
                        "further gates lie; its expected cost is not closed. Gate either units or inputs there"
                    )

    def _build(
        self, pairs: Sequence[tuple[int, int, float]], singles: Sequence[tuple[int, float]], alone: Tensor
    ) -> _Tables:
        number = len(self._axes)
        quadratic = torch.zeros(number, number, dtype=torch.float64)
        linear = torch.zeros(number, dtype=torch.float64)
        for first, second, cost in pairs:
            quadratic[first, second] += cost
            quadratic[second, first] += cost
        for axis, cost in singles:
            linear[axis] += cost
        if number:
            linear += quadratic @ torch.tensor([_ungated(axis) for axis in self._axes], dtype=torch.float64)
        blocks = [self._block(k) for k in range(len(self._names))]
        twice = torch.cat([_twice(block, quadratic) for block in blocks]) if blocks else alone
        if number * self._starts[-1] <= _LARGEST:
            whole = torch.zeros(number, self._starts[-1], dtype=torch.float64)
            for block in blocks:
                whole[block.axes, block.gates] = block.counts
            blocks = [_Block(None, slice(0, self._starts[-1]), whole)]
        overlaps = tuple(one for one in map(self._overlap, range(number)) if one is not None)
        rest = (table if table.any() else None for table in (alone, twice))
        return _Tables(tuple(blocks), overlaps, quadratic, linear, *rest)

    def _block(self, k: int) -> _Block:
        """Where one group alone decides."""
        rows: list[int] = []
        counts: list[Tensor] = []
        for number, axis in enumerate(self._axes):
            tables = dict(axis.maps)
            if k in tables:
                only = (tables[k] >= 0) & (_deciding(axis) == 1)
                rows.append(number)
                counts.append(torch.bincount(tables[k][only], minlength=self._sizes[k]).double())
        count = torch.stack(counts) if counts else torch.zeros(0, self._sizes[k], dtype=torch.float64)
        return _Block(torch.tensor(rows, dtype=torch.int64), slice(self._starts[k], self._starts[k + 1]), count)

    def _overlap(self, number: int) -> _Overlap | None:
        """Where several groups decide, along one axis."""
        axis = self._axes[number]
        several = _deciding(axis) > 1
        if not several.any():
            return None
        tables = [(self._starts[k], table[several]) for k, table in axis.maps]
        none = self._starts[-1]
        return _Overlap(number, tuple(torch.where(table >= 0, table + start, none) for start, table in tables))

    # -- counting -----------------------------------------------------------------------------------------------

    def _for(self, like: Tensor) -> _Tables:
        key = (like.dtype, like.device)
        if key not in self._tables:
            self._tables[key] = self._tables[torch.float64, torch.device("cpu")].to(like)
        return self._tables[key]

    def of(self, probs: Tensor) -> Tensor:
        """The expected cost of everything that gates decide over, twice differentiable.

        Args:
            probs: P(z ≠ 0) of all gates, group after group, ``(gates,)``; or 0 and 1 for given gates.

        Returns:
            A scalar, in the dtype of ``probs``, float32 at least.
        """
        probs = probs.to(torch.promote_types(probs.dtype, torch.float32))
        tables = self._for(probs)
        with torch.autocast(
            probs.device.type, enabled=False
        ):  # in bfloat16 a sum of parameters would lose most of them
            lengths = self._lengths(tables, probs)
            total = lengths @ torch.addmv(tables.linear, tables.quadratic, lengths, alpha=0.5)
            if tables.alone is not None:
                total = total + tables.alone @ probs
            if tables.twice is not None:
                total = total + tables.twice @ (probs - probs.square())
        return total

    @staticmethod
    def _lengths(tables: _Tables, probs: Tensor) -> Tensor:
        """Expected lengths of the axes, as far as gates decide over them."""
        if tables.blocks and tables.blocks[0].axes is None:
            lengths = tables.blocks[0].counts @ probs
        else:
            lengths = probs.new_zeros(len(tables.linear))
            for block in tables.blocks:
                lengths = lengths.index_add(0, block.axes, block.counts @ probs[block.gates])  # type: ignore[arg-type]
        if tables.overlaps:
            extended = torch.cat((probs, probs.new_ones(1)))
            for one in tables.overlaps:
                alive = extended[one.gates[0]]
                for table in one.gates[1:]:
                    alive = alive * extended[table]
                where = torch.zeros_like(tables.linear)
                where[one.axis] = 1.0
                lengths = lengths + where * alive.sum()
        return lengths

    def total(self, probs: Mapping[str, Tensor]) -> Tensor:
        """The same, of gates by group.

        Args:
            probs: group name to P(z ≠ 0), of shape ``(size,)``.
        """
        return self.of(torch.cat([probs[name] for name in self._names]))


def _by_element(dims: Mapping[int | None, list[tuple[int, Tensor]]], shape: torch.Size) -> list[tuple[int, Tensor]]:
    """Gates of single elements, and those of the rows and columns that they lie in."""
    tables = ((number, dim, table) for dim, tables in dims.items() for number, table in tables)
    maps = [(number, table.expand(shape).flatten()) for number, table in gates_over(tables, shape)]
    return sorted(maps, key=lambda one: one[0])


def _deciding(axis: _Axis) -> Tensor:
    """How many groups decide over each position."""
    return torch.stack([table >= 0 for _, table in axis.maps]).sum(0)


def _ungated(axis: _Axis) -> float:
    """Positions that no gate decides over."""
    return float((_deciding(axis) == 0).sum())


def _twice(block: _Block, quadratic: Tensor) -> Tensor:
    """Cost of the elements that have the same gate along two axes, by gate."""
    within = quadratic[block.axes][:, block.axes]
    return 0.5 * ((within @ block.counts) * block.counts).sum(0)
