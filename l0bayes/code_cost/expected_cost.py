"""The expected number of parameters, or multiply-accumulates, that gates leave alive, in closed form.

A parameter lives when *all* gates over it are open. A weight matrix whose rows and columns have gates thus costs, in
expectation, (expected rows) × (expected columns): with S the expected lengths of all gated axes, the cost of a network
is a quadratic form, ½ SᵀMS + lᵀS. Gates come group by group, as a model's sites do, and each group pays what its
gates add to the groups before it. The sum over groups is exact, and every term differentiable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from l0bayes.errors import StructureError
from l0bayes.structure import Structure
from l0bayes.structure.groups import gates_over

_LARGEST = 2_000_000  # numbers in a table of all axes by all gates


@dataclass(frozen=True)
class _Overlap:
    """Positions of an axis that hang on a gate of this group and on gates of groups before it, all at once."""

    row: int
    gates: Tensor
    others: tuple[tuple[int, Tensor], ...]


@dataclass
class _GroupTerms:
    """What one group of gates decides over.

    Attributes:
        axes: the axes it has positions on, shape ``(a,)``; ``None`` for all of them, where the tables are small: a step
            of training is made of small operations, and this saves half of them.
        counts: positions on each axis that hang on each gate, ``(a, size)``.
        coupling: rows of M for those axes, ``(a, all axes)``.
        within: M among those axes, ``(a, a)``.
        linear: l on those axes, ``(a,)``.
        twice: what is counted with P² where it should be P, for elements under one gate along two axes; empty if
            nothing is.
        alone: cost that hangs on each gate alone, ``(size,)``.
        overlaps: positions whose count depends on the groups before.
    """

    axes: Tensor | None
    counts: Tensor
    coupling: Tensor
    within: Tensor
    linear: Tensor
    twice: Tensor
    alone: Tensor
    overlaps: tuple[_Overlap, ...]


@dataclass
class _Axis:
    """Positions along a dimension, or all elements of a tensor, and the gates that each of them hangs on."""

    maps: list[tuple[int, Tensor]]
    size: int


@dataclass
class Tally:
    """The state between groups: expected lengths of the axes before each group and now, and the probabilities."""

    lengths: Tensor
    seen: list[Tensor] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)

    def at(self, position: int) -> "Tally":
        """The state as it was before the group at ``position``."""
        if position == len(self.seen):
            return self
        return Tally(self.before[position], self.seen[:position], self.before[:position])

    def back_to(self, position: int) -> None:
        """Forgets the groups from ``position`` on."""
        if position < len(self.seen):
            self.lengths = self.before[position]
            del self.seen[position:], self.before[position:]


class ExpectedCost:
    """The expected cost of what gates leave alive.

    Args:
        structure: the gate groups, in the order in which they pay.
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
        self._axes: list[_Axis] = []
        self._known: dict[tuple[object, ...], int] = {}
        pairs, singles = self._collect(structure, per_element)
        number = len(self._axes)
        quadratic = torch.zeros(number, number, dtype=torch.float64)
        linear = torch.zeros(number, dtype=torch.float64)
        for first, second, cost in pairs:
            quadratic[first, second] += cost
            quadratic[second, first] += cost
        for axis, cost in singles:
            linear[axis] += cost
        self._check_overlaps(pairs)
        always = [_always(axis) for axis in self._axes]
        self._start = torch.tensor(always, dtype=torch.float64)
        self._terms = [self._terms_of(k, quadratic, linear) for k in range(len(self._names))]
        for product in structure.products:
            if product.group:
                each = per_product[product.group] if isinstance(per_product, Mapping) else per_product
                self._terms[self._names.index(product.group)].alone += each * product.macs
        self._cast: dict[tuple[torch.dtype, torch.device], tuple[Tensor, list[_GroupTerms]]] = {}

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

    def _terms_of(self, k: int, quadratic: Tensor, linear: Tensor) -> _GroupTerms:
        rows: list[int] = []
        counts: list[Tensor] = []
        overlaps: list[_Overlap] = []
        everywhere = len(self._axes) * sum(self._sizes) <= _LARGEST
        for number, axis in enumerate(self._axes):
            tables = dict(axis.maps)
            if k not in tables:
                if everywhere:
                    rows.append(number)
                    counts.append(torch.zeros(self._sizes[k], dtype=torch.float64))
                continue
            last = tables[k] >= 0
            for other, table in axis.maps:
                if other > k:
                    last &= table < 0
            before = [(other, table) for other, table in axis.maps if other < k and (table[last] >= 0).any()]
            alone = last.clone()
            for _, table in before:
                alone &= table < 0
            counts.append(torch.bincount(tables[k][alone], minlength=self._sizes[k]).double())
            shared = last & ~alone
            if before and shared.any():
                others = tuple((o, torch.where(t >= 0, t, self._sizes[o])[shared]) for o, t in before)
                overlaps.append(_Overlap(len(rows), tables[k][shared], others))
            rows.append(number)
        index = torch.tensor(rows, dtype=torch.int64)
        count = torch.stack(counts) if counts else torch.zeros(0, self._sizes[k], dtype=torch.float64)
        within = quadratic[index][:, index]
        twice = 0.5 * ((within @ count) * count).sum(0)
        return _GroupTerms(
            axes=None if everywhere else index,
            counts=count,
            coupling=quadratic[index],
            within=within,
            linear=linear[index],
            twice=twice if twice.any() or overlaps else twice[:0],
            alone=torch.zeros(self._sizes[k], dtype=torch.float64),
            overlaps=tuple(overlaps),
        )

    # -- paying -------------------------------------------------------------------------------------------------

    def _for(self, like: Tensor) -> tuple[Tensor, list[_GroupTerms]]:
        key = (like.dtype, like.device)
        if key not in self._cast:
            terms = []
            for term in self._terms:
                moved = {name: value.to(like) for name, value in vars(term).items() if name not in ("axes", "overlaps")}
                overlaps = tuple(
                    _Overlap(o.row, o.gates.to(like.device), tuple((n, t.to(like.device)) for n, t in o.others))
                    for o in term.overlaps
                )
                axes = None if term.axes is None else term.axes.to(like.device)
                terms.append(_GroupTerms(axes=axes, overlaps=overlaps, **moved))
            self._cast[key] = (self._start.to(like), terms)
        return self._cast[key]

    @property
    def groups(self) -> int:
        """Number of gate groups."""
        return len(self._names)

    def begin(self, like: Tensor) -> Tally:
        """The state before the first group, in the dtype and on the device of ``like``."""
        return Tally(self._for(like)[0])

    def pay(self, tally: Tally, prob: Tensor) -> Tensor:
        """What the next group's gates add to the expected cost.

        Args:
            tally: the state after the groups before it, which is moved on.
            prob: P(z ≠ 0) of each gate, of shape ``(size,)``; or 0 and 1 for a draw.

        Returns:
            Cost by gate, of shape ``(size,)``.
        """
        term = self._for(prob)[1][len(tally.seen)]
        with torch.autocast(prob.device.type, enabled=False):  # in bfloat16 a sum of parameters would lose most of them
            counts, twice = term.counts, term.twice
            if term.overlaps:
                counts = self._with_overlaps(term, tally)
                twice = 0.5 * ((term.within @ counts) * counts).sum(0)
            longer = counts @ prob
            if term.axes is not None:
                price = torch.addmv(term.linear, term.coupling, tally.lengths) + 0.5 * (term.within @ longer)
                lengths = tally.lengths.index_add(0, term.axes, longer)
            else:
                halfway = torch.add(tally.lengths, longer, alpha=0.5)
                price, lengths = torch.addmv(term.linear, term.coupling, halfway), tally.lengths + longer
            each = torch.addmv(term.alone, counts.T, price)
            if len(twice):
                each = torch.addcmul(each, twice, 1 - prob)
        tally.before.append(tally.lengths)
        tally.lengths = lengths
        tally.seen.append(prob)
        return prob * each

    def _with_overlaps(self, term: _GroupTerms, tally: Tally) -> Tensor:
        counts = term.counts
        for overlap in term.overlaps:
            factor = torch.ones_like(overlap.gates, dtype=counts.dtype)
            for number, table in overlap.others:
                seen = tally.seen[number]
                factor = factor * torch.cat((seen, seen.new_ones(1)))[table]
            row = torch.zeros_like(counts).index_put(
                (torch.full_like(overlap.gates, overlap.row), overlap.gates), factor, accumulate=True
            )
            counts = counts + row
        return counts

    def price_if_open(self, tally: Tally) -> Tensor:
        """What each of the next group's gates would cost if it and all others of its group were open."""
        term = self._for(tally.lengths)[1][len(tally.seen)]
        with torch.autocast(tally.lengths.device.type, enabled=False):
            counts = self._with_overlaps(term, tally) if term.overlaps else term.counts
            price = torch.addmv(term.linear, term.coupling, tally.lengths) + 0.5 * (term.within @ counts.sum(1))
            return price @ counts + term.alone

    def total(self, probs: Mapping[str, Tensor]) -> Tensor:
        """The expected cost of everything that gates decide over.

        Args:
            probs: group name to P(z ≠ 0), of shape ``(size,)``.

        Returns:
            A scalar.
        """
        tally = self.begin(next(iter(probs.values())))
        return torch.stack([self.pay(tally, probs[name]).sum() for name in self._names]).sum()


def _by_element(dims: Mapping[int | None, list[tuple[int, Tensor]]], shape: torch.Size) -> list[tuple[int, Tensor]]:
    """Gates of single elements, and those of the rows and columns that they lie in."""
    tables = ((number, dim, table) for dim, tables in dims.items() for number, table in tables)
    maps = [(number, table.expand(shape).flatten()) for number, table in gates_over(tables, shape)]
    return sorted(maps, key=lambda one: one[0])


def _always(axis: _Axis) -> float:
    """Positions that no gate decides over."""
    return float(torch.stack([table < 0 for _, table in axis.maps]).all(0).sum())
